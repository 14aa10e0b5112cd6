"""Measures what the gradient-free fit costs beside one pass of the backbone over the same crops, with one thread.

    python benchmarks/fit_cost.py [tiny ViT-B-16 convnext_base ...] [--images DIR] [--crops 1200] [--px 160]

"tiny" stands for the backbone of the bundled model, another name for an open_clip network with random weights; a folder with an
open_clip backbone will do, too. The levels are those of the recipe. Seconds are CPU seconds of this process; a pass makes maps,
embedding and dense features, as the fit does. The stages are those that `fit` tells its `progress`: the first one holds the
backbone's pass and the cells of level 0. Without --images, crops of four photos are fitted.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, from any current directory

from benchmarks.overhead import recipe_on
from benchmarks.reconstruction import number, say, table
from benchmarks.speed import images, machine
from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.images import RandomCrops, open_images

NAMES = ("tiny", "ViT-B-16", "convnext_base")
BATCH = 16
PHOTO_PX = 512


def crops_of(source: Path | None, count: int, px: int) -> list[Tensor]:
    """Batches of crops (B, 3, px, px) of the images of a folder; None takes four photos."""
    photos = open_images(source) if source else open_images(list(images(4, PHOTO_PX)[0]))
    crops = RandomCrops(photos, batch_size=BATCH, crop_px=px)
    return [crops[start // BATCH][: count - start] for start in range(0, count, BATCH)]


def seconds_of_pass(tok: PyramidTokenizer, batches: Sequence[Tensor]) -> float:
    """CPU seconds of the backbone alone over all batches, after one batch that is not counted."""
    tok.features(batches[0], with_dense=True)
    began = time.process_time()
    for batch in batches:
        tok.features(batch, with_dense=True)
    return time.process_time() - began


def seconds_of_fit(tok: PyramidTokenizer, batches: Sequence[Tensor], vectors_per_code: int) -> dict[str, float]:
    """CPU seconds of a fit by stage."""
    found: dict[str, float] = {}
    before = time.process_time()

    def tell(stage: str, share: float) -> None:
        # a stage is told at its begin, and again after each of its batches: what passed belongs to the stage that was told before
        nonlocal before
        now = time.process_time()
        if found:
            found[next(reversed(found))] += now - before
        found.setdefault(stage, 0.0)
        before = now

    tok.fit(list(batches), vectors_per_code=vectors_per_code, progress=tell)
    return found


def row_of(name: str, args: argparse.Namespace) -> list[str]:
    tok = recipe_on(name)
    batches = crops_of(args.images, args.crops, args.px)
    say(f"{name}: the backbone alone")
    one_pass = seconds_of_pass(tok, batches)
    say(f"{name}: the fit")
    stages = seconds_of_fit(tok, batches, args.vectors_per_code)
    total = sum(stages.values())
    parts = ", ".join(f"{stage} {number(seconds, 2)}" for stage, seconds in stages.items())
    return [name, number(one_pass, 2), number(total, 2), number(total / one_pass, 2), parts]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(NAMES)}")
    parser.add_argument("--images", type=Path, help="folder to draw crops from")
    parser.add_argument("--crops", type=int, default=1200)
    parser.add_argument("--px", type=int, default=160, help="side of a crop (default: %(default)s)")
    parser.add_argument("--vectors-per-code", type=int, default=64)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = [row_of(name, args) for name in args.names or NAMES]
    print(f"{machine()}, one thread, {args.crops} crops of {args.px} px\n")
    print(table(["backbone", "one pass, CPU s", "fit, CPU s", "ratio", "CPU s by stage"], rows))


if __name__ == "__main__":
    main()
