"""Measures how tokens of overlapping windows differ from those of the whole image, on photos and a model whose backbone is a ViT.

    python benchmarks/windows.py --model DIR --images FILES [--size 960] [--windows 320 512]

For each side of windows, the means over the photos of:

    windows         how many an image has
    ids that differ share of the ids of each level, coarse to fine, that are not those of the whole image
    image tokens    share of the image tokens that are not those of the whole image
    cosine          of the image embedding read from the tokens of windows with that from the tokens of the whole image
    dB by prefix    PSNR of the linear reconstruction from the first level, the first two, and so on; beside it of the whole image

Photos that are no larger than a window in either direction are left out of its row. Progress goes to stderr; the last line of
the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, from any current directory

from benchmarks.reconstruction import number, say, table
from benchmarks.speed import machine
from pyramid_tokenizer import PyramidTokenizer, TokenPyramid
from pyramid_tokenizer.backbones.windows import Windows
from pyramid_tokenizer.evaluation import psnr
from pyramid_tokenizer.images.read import read_image


def psnr_by_prefix(tok: PyramidTokenizer, tokens: TokenPyramid, image: Tensor) -> list[float]:
    """The PSNR in dB of the linear reconstruction from the first level, the first two, and so on; of one image (1, 3, H, W)."""
    codes, (height, width) = tok.codes(tokens), image.shape[-2:]
    images = [tok.quantizer.linear_reconstruction(codes[: count + 1]) for count in range(len(codes))]
    return [float(psnr(found[..., :height, :width].clamp(0, 1), image)) for found in images]


def compare(tok: PyramidTokenizer, image: Tensor, whole: TokenPyramid, window_px: int) -> dict[str, Any]:
    """The figures of one image (1, 3, H, W) in windows."""
    found, multiple = tok.encode(image, window_px=window_px), tok.multiple_px
    padded = [-(-side // multiple) * multiple for side in image.shape[-2:]]
    differ = [float((own != other).double().mean()) for own, other in zip(found.ids, whole.ids, strict=True)]
    return {
        "windows": len(Windows.of(padded, window_px=window_px, multiple_px=multiple).corners),
        "differ": differ,
        "image_tokens": float((found.image_ids != whole.image_ids).double().mean()),
        "cosine": float((tok.embedding(found) * tok.embedding(whole)).sum()),
        "psnr": psnr_by_prefix(tok, found, image),
        "psnr_whole": psnr_by_prefix(tok, whole, image),
    }


def mean(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of each figure, and of each place of those that are lists."""
    found: dict[str, Any] = {"images": len(rows)}
    for name in rows[0]:
        values = torch.tensor([row[name] for row in rows], dtype=torch.float64).mean(0)
        found[name] = values.tolist()
    return found


def measure(
    tok: PyramidTokenizer, images: Sequence[Path], sides: Sequence[int], size: int | None
) -> list[dict[str, Any]]:
    """A row per side of windows, each with the means over the images that are larger."""
    rows: dict[int, list[dict[str, Any]]] = {side: [] for side in sides}
    for path in images:
        image = read_image(path, size=size)[None]
        whole = tok.encode(image)
        for side in sides:
            if max(image.shape[-2:]) > side:
                rows[side].append(compare(tok, image, whole, side))
        say(path.name)
    return [{"window_px": side, **mean(found)} for side, found in rows.items() if found]


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
    def several(values: Sequence[float], digits: int, scale: float = 1.0) -> str:
        return " ".join(number(scale * value, digits) for value in values)

    lines = []
    for row in rows:
        differ = several(row["differ"], 0, 100)
        decibels = several(row["psnr"], 2), several(row["psnr_whole"], 2)
        figures = number(100 * row["image_tokens"], 0), number(row["cosine"], 3), *decibels
        lines.append((str(row["window_px"]), str(row["images"]), number(row["windows"], 1), differ, *figures))
    head = (
        "window px",
        "photos",
        "windows",
        "ids that differ, %",
        "image tokens, %",
        "cosine",
        "dB by prefix",
        "of the whole image",
    )
    return table(head, lines)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="bundled name or directory")
    parser.add_argument("--images", nargs="+", type=Path, required=True, help="image files")
    parser.add_argument(
        "--size", type=int, default=None, help="short side in pixels; without it images keep their size"
    )
    parser.add_argument(
        "--windows", nargs="+", type=int, default=[320, 512], help="sides in pixels (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", "an image of .* is read whole")  # which is what is compared with
    tok = PyramidTokenizer.from_pretrained(args.model)
    rows = measure(tok, args.images, args.windows, args.size)
    print(f"- machine: {machine()}, {args.threads} used\n- model: {args.model}\n\n{to_markdown(rows)}")
    print(json.dumps({"benchmark": "windows", "machine": machine(), "model": args.model, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
