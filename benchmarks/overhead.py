"""Measures what encoding costs beside the CLIP that it stands on, with one thread.

    python benchmarks/overhead.py [tiny ViT-B-16 RN50 convnext_base ...] [--px 256] [--batch 8] [--rounds 7]

For an open_clip model name, the network has random weights and the codebooks random entries, which cost the same as real ones;
a tokenizer of the recipe is compared with open_clip's own `encode_image` of the same network in the same run. "tiny", or the
folder of a saved tokenizer, is compared with its backbone alone (`tok.backbone(images)`). Seconds are CPU seconds of this
process; the cases take turns, round by round. The ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, from any current directory

from benchmarks.random_backbones import save_random
from benchmarks.reconstruction import number, say, table
from benchmarks.speed import Case, images, machine, take_turns
from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.backbones.open_clip import OpenClipBackbone

NAMES = ("tiny", "ViT-B-16", "RN50", "convnext_base")


def tokenizer_of(name: str) -> tuple[PyramidTokenizer, bool]:
    """The saved tokenizer of that name, or a new one on a random backbone; and whether it is saved."""
    if name == "tiny" or Path(name).is_dir():
        return PyramidTokenizer.from_pretrained(name), True
    with tempfile.TemporaryDirectory() as folder:
        save_random(name, Path(folder))
        tok = PyramidTokenizer.from_backbone(folder)
    for index in range(len(tok.quantizer.levels)):
        nn.init.normal_(tok.quantizer.level(index).codebook)
    return tok, False


@torch.no_grad()
def cases_of(tok: PyramidTokenizer, batch: Tensor, *, saved: bool) -> dict[str, Case]:
    """What is timed: `encode`, and what it is compared with."""
    backbone = tok.backbone
    if saved or not isinstance(backbone, OpenClipBackbone):
        return {"encode": lambda: tok.encode(batch), "backbone": lambda: backbone(batch)}
    size = backbone.model.visual.image_size
    side = size[0] if isinstance(size, tuple) else size
    if batch.shape[-1] != side:
        say(f"open_clip reads this network at its own size alone: both are timed at {side} px")
        batch = nn.functional.interpolate(batch, (side, side))
    mean, std = (torch.tensor(backbone.model.visual.preprocess_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    normalised = (batch - mean) / std
    return {"encode": lambda: tok.encode(batch), "encode_image": lambda: backbone.model.encode_image(normalised)}


@torch.no_grad()
def row_of(name: str, args: argparse.Namespace) -> list[str]:
    tok, saved = tokenizer_of(name)
    batch, _ = images(args.batch, args.px)
    cases = cases_of(tok, batch, saved=saved)
    say(f"{name}: {' and '.join(cases)}")
    seconds = take_turns(cases, args.rounds, clock=time.process_time)
    encode, base = (1000 * statistics.median(found) / args.batch for found in seconds.values())
    ratios = [one / other for one, other in zip(*seconds.values(), strict=True)]
    low, high = number(min(ratios), 2), number(max(ratios), 2)
    return [
        name,
        number(encode, 1),
        f"{number(base, 1)} ({list(cases)[1]})",
        f"{number(encode / base, 2)} ({low} to {high})",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(NAMES)}")
    parser.add_argument("--px", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = [row_of(name, args) for name in args.names or NAMES]
    print(f"{machine()}, one thread, float32, batches of {args.batch}\n")
    print(table(["backbone", "encode, CPU ms an image", "beside, CPU ms an image", "ratio (of single rounds)"], rows))


if __name__ == "__main__":
    main()
