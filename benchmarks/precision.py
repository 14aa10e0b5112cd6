"""Measures what half precisions change on this device: ids that differ from float32 by level, dB, and images per second.

    python benchmarks/precision.py --images DIR [--model tiny] [--device cpu] [--dtypes bfloat16 float16] [--px 256] [--count 16]

The reference is float32 on the same device. dB are PSNR of the decoded images against the photos, means over images; "encoder
alone" decodes in float32 what the half precision encoded, "decoder alone" the other way round. Cases run in turn, in batches of 8
with one thread, and seconds are those of the processor, which other processes hardly disturb; on a GPU the time of the processor
says nothing, so measure there with `--clock wall`. The last line is the result as JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, from any current directory

from benchmarks.reconstruction import say, table
from benchmarks.speed import machine, take_turns
from pyramid_tokenizer import PyramidTokenizer, PyramidTokenizerError, TokenPyramid
from pyramid_tokenizer.checks.devices import warn_of_slow_dtype
from pyramid_tokenizer.evaluation import psnr
from pyramid_tokenizer.images import find_images, read_image

BATCH = 8
CLOCKS = {"processor": time.process_time, "wall": time.perf_counter}


def squares(paths: Sequence[Path], px: int) -> Tensor:
    """The centre squares of photos, the short side resized to `px`: (N, 3, px, px)."""
    found = []
    for path in paths:
        image = read_image(path, size=px)
        top, left = ((side - px) // 2 for side in image.shape[1:])
        found.append(image[:, top : top + px, left : left + px])
    return torch.stack(found)


def encode(tok: PyramidTokenizer, images: Tensor) -> list[TokenPyramid]:
    return [tok.encode(part) for part in images.split(BATCH)]


def quality(tok: PyramidTokenizer, tokens: Sequence[TokenPyramid], images: Tensor) -> float:
    """Mean PSNR in dB of what a tokenizer decodes."""
    decoded = torch.cat([tok.decode(part).cpu() for part in tokens])
    return float(psnr(decoded, images).mean())


def compare(exact: PyramidTokenizer, half: PyramidTokenizer, images: Tensor) -> dict[str, Any]:
    """Shares of ids that differ by level, and dB in all four pairs of encoder and decoder."""
    ours, theirs = encode(exact, images), encode(half, images)
    shares = []
    for level in range(len(ours[0].ids)):
        pairs = [(a.ids[level], b.ids[level]) for a, b in zip(ours, theirs, strict=True)]
        shares.append(sum(int((a != b).sum()) for a, b in pairs) / sum(a.numel() for a, _ in pairs))
    return {
        "ids_that_differ": shares,
        "db": quality(exact, ours, images),
        "db_half": quality(half, theirs, images),
        "db_encoder_alone": quality(exact, theirs, images),
        "db_decoder_alone": quality(half, ours, images),
    }


def rates(toks: dict[str, PyramidTokenizer], images: Tensor, rounds: int, clock: str) -> dict[str, float]:
    """Images per second of each precision, encoding and decoding."""
    batch = images[:BATCH]
    tokens = next(iter(toks.values())).encode(batch)
    cases: dict[str, Any] = {}
    for name, tok in toks.items():
        cases[f"encode, {name}"] = lambda tok=tok: tok.encode(batch)
        cases[f"decode, {name}"] = lambda tok=tok: tok.decode(tokens)
    return {
        name: len(batch) / statistics.median(found)
        for name, found in take_turns(cases, rounds, clock=CLOCKS[clock]).items()
    }


def to_markdown(result: dict[str, Any]) -> str:
    levels = len(next(iter(result["compared"].values()))["ids_that_differ"])
    heads = ("precision", *(f"level {level} ids that differ" for level in range(levels)))
    heads += ("dB", "encoder alone", "decoder alone", "encode images/s", "decode images/s")
    speeds = result["images_per_second"]
    first = next(iter(result["compared"].values()))["db"]
    rows = [
        (
            "float32",
            *["0"] * levels,
            f"{first:.2f}",
            "",
            "",
            *(f"{speeds[f'{w}, float32']:.2f}" for w in ("encode", "decode")),
        )
    ]
    for name, found in result["compared"].items():
        shares = (f"{share:.2%}" for share in found["ids_that_differ"])
        changes = (f"{found[key] - first:+.3f}" for key in ("db_half", "db_encoder_alone", "db_decoder_alone"))
        rows.append((name, *shares, *changes, *(f"{speeds[f'{w}, {name}']:.2f}" for w in ("encode", "decode"))))
    return table(heads, rows)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="folder of photos")
    parser.add_argument(
        "--model", default="tiny", help="bundled name, directory or Hub repository (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument(
        "--dtypes", nargs="+", default=["bfloat16"], choices=["bfloat16", "float16"], help="default: bfloat16"
    )
    parser.add_argument("--px", type=int, default=256, help="side of the images (default: %(default)s)")
    parser.add_argument("--count", type=int, default=16, help="photos (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--clock", default="processor", choices=list(CLOCKS), help="default: %(default)s")
    return parser.parse_args(argv)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures, JSON-ready."""
    exact = PyramidTokenizer.from_pretrained(args.model, device=args.device)
    toks = {"float32": exact}
    for name in args.dtypes:
        warn_of_slow_dtype(args.device, getattr(torch, name))
        toks[name] = copy.deepcopy(exact).to(dtype=getattr(torch, name))
    images = squares(find_images(args.images)[: args.count], args.px)
    result: dict[str, Any] = {
        "model": args.model,
        "px": args.px,
        "photos": len(images),
        "machine": machine(),
        "compared": {},
    }
    for name in args.dtypes:
        say(f"compare {name}")
        result["compared"][name] = compare(exact, toks[name], images)
    say("time")
    result["images_per_second"] = rates(toks, images, args.rounds, args.clock)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    torch.set_num_threads(1)
    try:
        result = measure(args)
    except PyramidTokenizerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"- model: {args.model}, {result['photos']} photos of {args.px} px, {args.device}\n- machine: {result['machine']}\n"
    )
    print(to_markdown(result))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
