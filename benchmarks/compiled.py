"""Measures `torch.compile` beside plain torch: what differs, images per second, and what the first calls cost.

    python benchmarks/compiled.py [--images DIR] [--model tiny] [--px 256] [--count 50] [--batch 1 8] [--rounds 5] [--cache DIR]

`encode`, `decode` and `embedding` of the model are compiled with torch's own backend (inductor), each as one graph, and called
with batches of every size of `--batch` in turn. Without `--images`, the images are crops of the photos of scikit-image. The
seconds of a first call are by the clock and of the processor, those of the C++ compiler included; `--cache` keeps what was
compiled in a folder, and a second run with it shows what a later process pays. Everything has one thread. For images per second
the cases run in turn, round by round, in seconds of the processor, and the table has medians. The last line is the result as
JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, from any current directory

from benchmarks.precision import squares
from benchmarks.reconstruction import say, table
from benchmarks.speed import PHOTOS, machine, take_turns
from pyramid_tokenizer import PyramidTokenizer, PyramidTokenizerError, TokenPyramid
from pyramid_tokenizer.images import RandomCrops, find_images

PARTS = ("encode", "decode", "embedding")
Call = Callable[[Any], Any]


def crops(count: int, px: int) -> Tensor:
    """Random crops (count, 3, px, px) of the photos of scikit-image, the same at each call."""
    from skimage import data

    return RandomCrops([getattr(data, name)() for name in PHOTOS], batch_size=count, crop_px=px)[0]


def compile_part(tok: PyramidTokenizer, part: str, *, backend: str = "inductor") -> Call:
    """A method of the tokenizer, compiled; a part of it that torch could not put into one graph would be an error."""
    return torch.compile(getattr(tok, part), fullgraph=True, backend=backend)


def time_first(call: Callable[[], object]) -> dict[str, float]:
    """Seconds of one call, by the clock and of the processor, with those of processes that it started."""
    began, used = time.perf_counter(), os.times()
    call()
    spent = sum(after - before for after, before in zip(os.times()[:4], used[:4], strict=True))
    return {"clock": time.perf_counter() - began, "processor": spent}


def ids_of(tokens: TokenPyramid) -> list[Tensor]:
    """Ids of every level, and those of image tokens."""
    return [*tokens.ids, tokens.image_ids]


def compare(plain: Call, compiled: Call, inputs: Sequence[Any]) -> dict[str, Any]:
    """Ids that differ, or the largest difference of a number, over all inputs."""
    compared, differ, largest = 0, 0, 0.0
    for one in inputs:
        ours, theirs = plain(one), compiled(one)
        if isinstance(ours, TokenPyramid):
            differ += sum(int((a != b).sum()) for a, b in zip(ids_of(ours), ids_of(theirs), strict=True))
            compared += sum(ids.numel() for ids in ids_of(ours))
        else:
            largest = max(largest, float((ours - theirs).abs().max()))
            compared += ours.numel()
    return {"compared": compared, "ids_that_differ": differ, "largest": largest}


def measure_part(
    tok: PyramidTokenizer, part: str, images: Tensor, batches: Sequence[int], rounds: int, backend: str = "inductor"
) -> list[dict[str, Any]]:
    """First call, differences and images per second of a part, one row per batch size."""
    plain, compiled, found = getattr(tok, part), compile_part(tok, part, backend=backend), []
    for batch in batches:
        say(f"{part}, batches of {batch}")
        inputs: list[Any] = list(images.split(batch))
        if part != "encode":
            inputs = [tok.encode(one) for one in inputs]
        first = time_first(lambda inputs=inputs: compiled(inputs[0]))
        cases = {
            "plain": lambda inputs=inputs: plain(inputs[0]),
            "compiled": lambda inputs=inputs: compiled(inputs[0]),
        }
        seconds = take_turns(cases, rounds, clock=time.process_time)
        rates = {name: min(batch, len(images)) / statistics.median(values) for name, values in seconds.items()}
        differences = compare(plain, compiled, inputs)
        found.append({"part": part, "batch": batch, "first_call": first, "images_per_second": rates, **differences})
    return found


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
    heads = (
        "",
        "batches of",
        "first call, s",
        "of the processor, s",
        "differs",
        "images/s, plain",
        "compiled",
        "ratio",
    )
    lines = []
    for row in rows:
        differs = f"by {row['largest']:.1e} at most"
        if row["part"] == "encode":
            differs = f"{row['ids_that_differ']:,} of {row['compared']:,} ids"
        plain, compiled = (row["images_per_second"][name] for name in ("plain", "compiled"))
        first = (f"{row['first_call'][name]:.0f}" for name in ("clock", "processor"))
        speed = (f"{plain:.1f}", f"{compiled:.1f}", f"{compiled / plain:.2f}")
        lines.append((row["part"], str(row["batch"]), *first, differs, *speed))
    return table(heads, lines)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="folder of photos (default: crops of the photos of scikit-image)")
    parser.add_argument(
        "--model", default="tiny", help="bundled name, directory or Hub repository (default: %(default)s)"
    )
    parser.add_argument("--px", type=int, default=256, help="side of the images (default: %(default)s)")
    parser.add_argument("--count", type=int, default=50, help="images that are compared (default: %(default)s)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="images at a time (default: 1 8)")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, help="default: all")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument(
        "--cache", type=Path, help="folder for what is compiled (default: a new one, deleted at the end)"
    )
    return parser.parse_args(argv)


def measure(args: argparse.Namespace, cache: Path) -> dict[str, Any]:
    """All figures, JSON-ready."""
    tok = PyramidTokenizer.from_pretrained(args.model)
    paths = find_images(args.images)[: args.count] if args.images else []
    images = squares(paths, args.px) if args.images else crops(args.count, args.px)
    result: dict[str, Any] = {"model": args.model, "px": args.px, "machine": machine(), "rows": []}
    result["images"] = len(images)
    settings = {"TORCHINDUCTOR_CACHE_DIR": str(cache), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    with patch.dict(os.environ, settings):
        for part in args.parts:
            result["rows"] += measure_part(tok, part, images, args.batch, args.rounds)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            result = measure(args, args.cache or Path(scratch))
    except PyramidTokenizerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"- model: {args.model}, {result['images']} images of {args.px} px, float32, one thread")
    print(f"- machine: {result['machine']}\n\n{to_markdown(result['rows'])}")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
