"""Measures what a token dataset takes beside reading and encoding its images one by one.

    python benchmarks/token_datasets.py --images photos [--model tiny] [--size 256] [--workers 2] [--jpeg-draft]

Reads and encodes every image in this process, with one thread, and counts the CPU seconds of both. Then makes the dataset with
that many workers and prints the wall time after the first image, as a multiple of the CPU seconds of one by one divided by the
number of workers; the CPU seconds and memory of the workers, with their start; and the bytes of the tokens as a multiple of
their fixed rate. Wall times mean something only where as many cores are free.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, from any current directory

from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.datasets import tokenize
from pyramid_tokenizer.images import open_images, read_resized


def one_by_one(source: str, model: str, **recipe: Any) -> tuple[float, float]:
    """CPU seconds of reading and of encoding all images of a source."""
    torch.set_num_threads(1)
    tok, images = PyramidTokenizer.from_pretrained(model), open_images(source)
    reading = encoding = 0.0
    for number in range(len(images)):
        begun = time.process_time()
        pixels = read_resized(images, number, **recipe)
        read = time.process_time()
        tok.encode(pixels)
        reading, encoding = reading + read - begun, encoding + time.process_time() - read
    return reading, encoding


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--jpeg-draft", action="store_true")
    given = parser.parse_args(arguments)
    recipe = {"size": given.size, "jpeg_draft": given.jpeg_draft}
    reading, encoding = one_by_one(given.images, given.model, **recipe)
    moments: list[tuple[float, int]] = []

    def note(done: int, _: int) -> None:
        moments.append((time.perf_counter(), done))

    with tempfile.TemporaryDirectory() as out:
        begun = time.perf_counter()
        report = tokenize(
            given.images, f"{out}/tokens", model=given.model, workers=given.workers, progress=note, **recipe
        )
        ended = time.perf_counter()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    first = next(moment for moment in moments if moment[1] > 0)
    share = (report.images - first[1]) / report.images
    least = share * (reading + encoding) / given.workers
    print(f"{report.images} images, one by one: {reading:.1f} CPU s reading, {encoding:.1f} CPU s encoding")
    print(f"{given.workers} workers: {ended - begun:.1f} s wall, {ended - first[0]:.1f} s after the first image")
    print(f"that is {(ended - first[0]) / least:.2f} times one by one over {given.workers}")
    print(
        f"workers: {used.ru_utime + used.ru_stime:.1f} CPU s with their start, {used.ru_maxrss / 1024:.0f} MB at most"
    )
    print(f"{report.bytes:,} bytes, tokens at {report.fixed_rate:.3f} times their fixed rate")


if __name__ == "__main__":
    main()
