"""Prints the layout of open_clip backbones as a Markdown table. It needs no weights.

python benchmarks/presets.py             one or two backbones of every family: the table of docs/backbones.md
python benchmarks/presets.py RN50x4      of these names
python benchmarks/presets.py --all       of every name that open_clip knows (a minute), and why some cannot be used
python benchmarks/presets.py --readings  how many of these names have which dense features (two minutes)
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Sequence

from pyramid_tokenizer.backbones import describe_backbone
from pyramid_tokenizer.errors import BackboneError
from pyramid_tokenizer.quantizer.recipe import preset_config

NAMES = (
    "ViT-B-16",
    "ViT-L-14",
    "ViT-bigG-14",
    "ViT-B-32",
    "coca_base",
    "ViT-B-16-SigLIP2",
    "ViT-SO400M-14-SigLIP",
    "EVA02-L-14",
    "PE-Core-B-16",
    "MobileCLIP-B",
    "ViTamin-B",
    "RN50",
    "RN50x64",
    "convnext_base",
    "convnext_large",
    "MobileCLIP-S1",
    "MobileCLIP2-S3",
)
"""One or two of every family."""
SIDE_PX = 256
HEAD = ("name", "family", "strides of the blocks and of the stem", "levels: stride, entries", "tokens", "bits/px")


def row_of(name: str) -> tuple[str, ...]:
    """Cells of one backbone's row; tokens and bits per pixel of an image of 256x256 px, padding included."""
    backbone = describe_backbone(name)
    layout = preset_config(backbone.config, strides=backbone.strides).quantizer
    levels, image = layout.levels, layout.image_codebooks
    told, tokens, bits = [], len(image), sum(map(math.log2, image))
    for level in levels:
        told.append(f"{level.stride} {level.codebook_size}")
        count = (math.ceil(SIDE_PX / levels[0].stride) * levels[0].stride // level.stride) ** 2
        tokens, bits = tokens + count, bits + count * math.log2(level.codebook_size)
    strides = " ".join(str(stride) for stride in backbone.strides)
    return name, backbone.family, strides, " · ".join(told), str(tokens), f"{bits / SIDE_PX**2:.3f}"


def table_of(names: Sequence[str]) -> str:
    """Markdown; backbones that cannot be used are told on stderr."""
    lines = [_line(HEAD), _line(["---"] * len(HEAD))]
    for name in names:
        try:
            lines.append(_line(row_of(name)))
        except BackboneError as error:
            print(f"{name}: {error}", file=sys.stderr)
    return "\n".join(lines)


def readings_of(names: Sequence[str]) -> str:
    """Markdown: how many of the names each family has, by the dense readings; names that cannot be used are told on stderr."""
    counts: Counter[tuple[str, str]] = Counter()
    for name in names:
        try:
            found = describe_backbone(name)
        except BackboneError as error:
            print(f"{name}: {error}", file=sys.stderr)
        else:
            counts[found.family, ", ".join(found.dense_readings) or "none"] += 1
    rows = [(*key, str(count)) for key, count in sorted(counts.items())]
    return "\n".join(_line(cells) for cells in (("family", "dense readings", "names"), ["---"] * 3, *rows))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Layouts of open_clip backbones.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="open_clip model names; one or two of a family if not given"
    )
    parser.add_argument("--all", action="store_true", help="every name that open_clip knows")
    parser.add_argument("--readings", action="store_true", help="count every name by its dense readings instead")
    arguments = parser.parse_args()
    names = arguments.names or NAMES
    if arguments.all or (arguments.readings and not arguments.names):
        import open_clip

        names = open_clip.list_models()
    print(readings_of(names) if arguments.readings else table_of(names))


if __name__ == "__main__":
    main()
