"""Large images encoded in bands of rows: the same ids as of the whole image."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyramid_tokenizer.backbones import rows
from pyramid_tokenizer.config.budget import Budget
from pyramid_tokenizer.encoding import by_rows
from pyramid_tokenizer.errors import ImageValueError
from pyramid_tokenizer.quantizer import by_products


@pytest.fixture
def in_bands(monkeypatch):
    """Calls a function while every image is large and a band has as few rows as can be."""

    def call(function, *args, **options):
        with monkeypatch.context() as small:
            for module in (by_rows, by_products):
                small.setattr(module, "BAND_PIXELS", 1)
            for module, name in ((by_rows, "LARGE_PIXELS"), (rows, "FLOATS_PER_RUN"), (rows, "HALOS_PER_RUN")):
                small.setattr(module, name, 1)
            return function(*args, **options)

    return call


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("levels", [None, 1, 3])
def test_ids_are_those_of_the_whole_image(detailed_tokenizer, in_bands, monkeypatch, levels):
    bands, pad = [], by_rows.pad_to_multiple
    monkeypatch.setattr(by_rows, "pad_to_multiple", lambda x, **options: bands.append(1) or pad(x, **options))
    images = noise(2, 3, 250, 70)
    whole = detailed_tokenizer.encode(images, levels=levels)
    assert in_bands(detailed_tokenizer.encode, images, levels=levels) == whole
    assert len(bands) == 2 * 8
    assert all(len(ids.unique()) > 3 for ids in whole.ids)


def test_small_images_are_read_whole(toy_tokenizer, monkeypatch):
    monkeypatch.setattr(by_rows, "LARGE_PIXELS", 64 * 32)
    monkeypatch.setattr(by_rows, "pad_to_multiple", None)  # what bands are made with
    toy_tokenizer.encode(noise(1, 3, 64, 32))
    with pytest.raises(TypeError):
        toy_tokenizer.encode(noise(1, 3, 64, 33))


def test_pixels_out_of_range_in_any_band_are_refused(toy_tokenizer, in_bands):
    image = noise(1, 3, 128, 32)
    image[:, :, 100] = 2.0
    with pytest.raises(ImageValueError):
        in_bands(toy_tokenizer.encode_within, image, Budget())


RUN = """
import re, sys
import torch
from pyramid_tokenizer import PyramidTokenizer

def peak():
    return int(re.findall(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[0]) * 1024

height, width = map(int, sys.argv[1:])
tok = PyramidTokenizer.from_pretrained("tiny")
image = torch.rand(1, 3, height, width)
tok.encode(image[:, :, :64])
before = peak()
tok.encode(image)
print((peak() - before) / (height * width))
"""


@pytest.mark.slow
def test_memory_grows_by_the_bytes_that_are_kept_of_a_pixel(tmp_path):
    """Products, dense features and ids of `tiny` take 12 bytes a pixel; a band of fixed size some 200 MB; whole maps 80."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", RUN, "3072", "3072"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 45
