"""Measures what a token dataset takes beside reading and encoding its images one by one.

    python benchmarks/token_datasets.py --images photos [--model tiny] [--size 256] [--workers 2] [--engine ray] [--jpeg-draft]

Reads and encodes every image in this process, with one thread, and counts the CPU seconds of both. Then makes the dataset of
a quarter of the images, and that of all of them, with that many workers. Prints the wall time after the first image as a
multiple of the CPU seconds of one by one divided by the number of workers, which should be at most 1.1; what an image more
costs the workers in CPU seconds, as a multiple of one by one; their memory; and the bytes of the tokens as a multiple of their
fixed rate.
Wall times mean something only where as many cores are free: the load before and after is printed. CPU seconds of actors of Ray
are not counted, because they are no children of this process.
"""

from __future__ import annotations

import argparse
import os
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
from pyramid_tokenizer.datasets import TokenizeReport, tokenize
from pyramid_tokenizer.datasets.options import cores
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


def make(images: Sequence[str], **options: Any) -> tuple[TokenizeReport, float, float, float]:
    """Makes a dataset: its report, wall seconds, wall seconds per image after the first one, and CPU seconds of the workers."""
    moments: list[tuple[float, int]] = []
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as out:
        begun = time.perf_counter()
        report = tokenize(
            images, f"{out}/tokens", progress=lambda done, _: moments.append((time.perf_counter(), done)), **options
        )
        ended = time.perf_counter()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    first, done = next(moment for moment in moments if moment[1] > 0)
    per_image = (ended - first) / max(1, report.images - done)
    return report, ended - begun, per_image, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="a folder of image files")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--jpeg-draft", action="store_true")
    given = parser.parse_args(arguments)
    recipe = {"size": given.size, "jpeg_draft": given.jpeg_draft}
    source = open_images(given.images)
    paths = [source.name(number) for number in range(len(source))]
    load = os.getloadavg()[0]
    reading, encoding = one_by_one(given.images, given.model, **recipe)
    options = {"model": given.model, "workers": given.workers, "engine": given.engine, **recipe}
    options["shard_images"] = max(1, len(paths) // (4 * given.workers))  # a shard each for the quarter, too
    few = paths[: max(1, len(paths) // 4)]
    _, _, _, start = make(few, **options)
    report, wall, per_image, used = make(paths, **options)
    each = (reading + encoding) / len(paths)
    print(f"{len(paths)} images, one by one: {reading:.1f} CPU s reading, {encoding:.1f} CPU s encoding")
    print(f"{given.workers} workers: {wall:.1f} s wall, of which {per_image * len(paths):.1f} s for the images")
    print(
        f"that is {per_image / (each / given.workers):.2f} times one by one over {given.workers} (at most 1.1 is wanted)"
    )
    print(f"load before and after: {load:.1f}, {os.getloadavg()[0]:.1f} on {cores()} cores")
    if given.engine == "local":
        more = (used - start) / max(1, len(paths) - len(few))
        most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(
            f"workers: {used:.1f} CPU s with their start, {most:.0f} MB at most; an image more costs {more / each:.2f} times "
            "the CPU time of one by one"
        )
    print(f"{report.bytes:,} bytes, tokens at {report.fixed_rate:.3f} times their fixed rate")


if __name__ == "__main__":
    main()
