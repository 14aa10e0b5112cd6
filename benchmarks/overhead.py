"""Measures what encoding costs beside the CLIP that it stands on, with one thread.

    python benchmarks/overhead.py [tiny ViT-B-16 RN50 convnext_base ...] [--px 256 384] [--batch 8] [--rounds 7]

For an open_clip model name, the network has random weights and the codebooks random entries, which cost the same as real ones;
"tiny", or the folder of a saved tokenizer, is measured as it is. Two things stand beside `tok.encode(images)`: the backbone
alone, `tok.backbone(images)`, which resamples its positions and reads any size; and, for a name of open_clip, open_clip's own
`encode_image` of the same network at the same size. Many networks of open_clip read one size only: --px 0 is the network's own
size, and at others the column is empty. Seconds are CPU seconds of this process; the cases take turns, round by round. A ratio is
that of the medians, and in brackets the smallest and the largest of single rounds.
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

TINY = Path(__file__).resolve().parents[1] / "pyramid_tokenizer" / "assets" / "tiny" / "backbone"
NAMES = ("tiny", "ViT-B-16", "RN50", "convnext_base")
HEAD = (
    "backbone",
    "px",
    "tokens",
    "bits/px",
    "encode, CPU ms an image",
    "the backbone alone: ratio",
    "open_clip's encode_image: ratio",
)


def recipe_on(name: str) -> PyramidTokenizer:
    """A new tokenizer of the recipe: on the bundled backbone, a folder with one, or an open_clip network with random weights."""
    if name == "tiny" or Path(name).is_dir():
        return PyramidTokenizer.from_backbone(str(TINY) if name == "tiny" else name)
    with tempfile.TemporaryDirectory() as folder:
        save_random(name, Path(folder))
        return PyramidTokenizer.from_backbone(folder)


def tokenizer_of(name: str) -> tuple[PyramidTokenizer, bool]:
    """The saved tokenizer of that name, or a new one on a random backbone; and whether it is saved."""
    if name == "tiny" or Path(name).is_dir():
        return PyramidTokenizer.from_pretrained(name), True
    tok = recipe_on(name)
    for index in range(len(tok.quantizer.levels)):
        nn.init.normal_(tok.quantizer.level(index).codebook)
    return tok, False


def own_px(tok: PyramidTokenizer) -> int:
    """Side of the images that open_clip's network is made for; 256 where there is none."""
    size = tok.backbone.model.visual.image_size if isinstance(tok.backbone, OpenClipBackbone) else 256
    return size[0] if isinstance(size, tuple) else size


@torch.no_grad()
def cases_of(tok: PyramidTokenizer, batch: Tensor, *, saved: bool) -> dict[str, Case]:
    """What is timed: `encode`, and what it is compared with."""
    backbone = tok.backbone
    cases: dict[str, Case] = {"encode": lambda: tok.encode(batch), "backbone": lambda: backbone(batch)}
    if saved or not isinstance(backbone, OpenClipBackbone):
        return cases
    mean, std = (torch.tensor(backbone.model.visual.preprocess_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    normalised = (batch - mean) / std
    try:
        backbone.model.encode_image(normalised[:1])
    except (RuntimeError, AssertionError) as error:
        say(f"open_clip does not read {batch.shape[-1]} px: {error}")
        return cases
    return cases | {"encode_image": lambda: backbone.model.encode_image(normalised)}


@torch.no_grad()
def row_of(name: str, tok: PyramidTokenizer, px: int, args: argparse.Namespace, *, saved: bool) -> list[str]:
    batch, _ = images(args.batch, px)
    cases = cases_of(tok, batch, saved=saved)
    say(f"{name}: {', '.join(cases)} at {px} px")
    seconds = take_turns(cases, args.rounds, clock=time.process_time)
    tokens = tok.encode(batch[:1])
    encode = number(1000 * statistics.median(seconds["encode"]) / args.batch, 1)
    beside = [beside_of(seconds, case, args.batch) for case in ("backbone", "encode_image")]
    return [name, str(px), str(tokens.num_tokens), number(tokens.bits_per_pixel, 3), encode, *beside]


def beside_of(seconds: dict[str, list[float]], case: str, batch: int) -> str:
    """CPU milliseconds an image of a case, and the ratio of `encode` to it; a dash where it was not measured."""
    if case not in seconds:
        return "–"
    ratios = [one / other for one, other in zip(seconds["encode"], seconds[case], strict=True)]
    median = statistics.median(seconds[case])
    low, high = number(min(ratios), 2), number(max(ratios), 2)
    ratio = number(statistics.median(seconds["encode"]) / median, 2)
    return f"{number(1000 * median / batch, 1)}: {ratio} ({low} to {high})"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(NAMES)}")
    parser.add_argument(
        "--px", type=int, nargs="+", default=[256], help="sides of the images; 0 is the network's own size"
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for name in args.names or NAMES:
        tok, saved = tokenizer_of(name)
        rows += [row_of(name, tok, px or own_px(tok), args, saved=saved) for px in args.px]
    print(f"{machine()}, one thread, float32, batches of {args.batch}\n")
    print(table(HEAD, rows))


if __name__ == "__main__":
    main()
