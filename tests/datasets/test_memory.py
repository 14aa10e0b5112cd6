"""Memory does not grow with the number of images."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
# Prints the peak memory of the calling process and of its worker, in kilobytes (Linux). That of the calling process is not
# getrusage's, which begins with what the process that started it had.
RUN = """
import re, resource, sys
import torch
from pyramid_tokenizer.datasets import tokenize

BASE = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))

class Many:
    def __init__(self, count):
        self.count = count
    def __len__(self):
        return self.count
    def name(self, index):
        return f"folder/of/photos/{index:09d}.jpg"
    def read(self, index):
        return BASE.roll(index % 4096, 1)

if __name__ == "__main__":
    out, model, count = sys.argv[1:]
    tokenize(Many(int(count)), out, model=model, workers=1)
    (own,) = re.findall(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
    print(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.long
def test_a_hundred_times_as_many_images_need_no_more_memory(tmp_path, toy_tokenizer):
    model = toy_tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "run.py").write_text(RUN)

    def peaks(count: int) -> list[int]:
        command = [sys.executable, tmp_path / "run.py", tmp_path / str(count), model, str(count)]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return [int(number) for number in done.stdout.split()]

    few, many = peaks(1_000), peaks(100_000)
    print(f"kB of the calling process and of its worker: {few} for 1,000 images, {many} for 100,000")
    assert all(much <= 1.05 * little for little, much in zip(few, many, strict=True))
