"""Measures what decoding costs: prefixes and thumbnails beside a full decode, and this checkout beside another one.

    python benchmarks/decode.py [--model tiny] [--images DIR] [--px 256] [--batch 8] [--rounds 7] [--beside CHECKOUT]

Seconds are CPU seconds with one thread. The cases take turns, round by round; a ratio is the median of those of single rounds.
`--beside` names another checkout, such as a worktree of an older commit: a second process decodes the same tokens with it, in
turn with this one. The PSNR of full decodes and prefixes is that to the original images; thumbnails are compared with full
decodes that are reduced by averaging. The images are central squares of the first 24 of the folder, or scikit-image's photos.
The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, from any current directory

from benchmarks.baselines import load_images
from benchmarks.reconstruction import number, say, table
from benchmarks.speed import Case, images, machine, take_turns
from pyramid_tokenizer import PyramidTokenizer, TokenPyramid

REDUCTIONS = (2, 4, 8)
MOST_IMAGES = 24

# What the process of another checkout runs: a line on stdin is a decode, and its CPU seconds are a line on stdout.
DECODES = """
import sys, time, torch
from pyramid_tokenizer import PyramidTokenizer, TokenPyramid
torch.set_num_threads(1)
tok, tokens = PyramidTokenizer.from_pretrained(sys.argv[1]), TokenPyramid.load(sys.argv[2])
for _ in sys.stdin:
    begun = time.process_time()
    tok.decode(tokens)
    print(time.process_time() - begun, flush=True)
"""


def mean_psnr(found: Tensor, wanted: Tensor) -> float:
    """Mean PSNR of single images, in dB."""
    error = (found - wanted).square().flatten(1).mean(1).clamp(min=1e-10)
    return float((-10 * error.log10()).mean())


def photos(folder: Path | None, px: int) -> Tensor:
    """(N, 3, px, px), what the PSNR is measured on."""
    if folder is None:
        return images(4, px)[0]
    return load_images(folder, side=px, limit=MOST_IMAGES).float() / 255


def cases_of(tok: PyramidTokenizer, tokens: TokenPyramid) -> dict[str, Case]:
    """What is timed, the full decode first."""
    cases: dict[str, Case] = {"full": lambda: tok.decode(tokens)}
    for count in range(1, len(tokens)):
        cases[f"prefix of {count}"] = lambda count=count: tok.decode(tokens[:count])
    for reduction in REDUCTIONS:
        cases[f"scale 1/{reduction}"] = lambda reduction=reduction: tok.decode(tokens, scale=1 / reduction)
    return cases


@contextmanager
def other_checkout(checkout: Path, model: str, tokens: TokenPyramid, folder: Path) -> Iterator[Case]:
    """A function that decodes with another checkout and returns that process's CPU seconds."""
    tokens.save(folder / "batch.tokens")
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
    command = [sys.executable, "-c", DECODES, model, str(folder / "batch.tokens")]
    with subprocess.Popen(
        command, env=environment, cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        asked, told = process.stdin, process.stdout
        assert asked is not None
        assert told is not None

        def decode() -> float:
            asked.write("\n")
            asked.flush()
            return float(told.readline())

        yield decode


def beside(tok: PyramidTokenizer, tokens: TokenPyramid, other: Case, rounds: int) -> list[float]:
    """Ratios of this checkout's decode to the other's, round by round, after one round that does not count."""
    ratios = []
    for _ in range(rounds + 1):
        theirs = other()
        begun = time.process_time()
        tok.decode(tokens)
        ratios.append((time.process_time() - begun) / float(theirs))  # type: ignore[arg-type]
    return ratios[1:]


def quality(tok: PyramidTokenizer, originals: Tensor) -> dict[str, float]:
    """PSNR of each case in dB, and of what it is compared with."""
    tokens = tok.encode(originals)
    found: dict[str, float] = {}
    for count in range(1, len(tokens) + 1):
        name = "full" if count == len(tokens) else f"prefix of {count}"
        found[name] = mean_psnr(tok.decode(tokens[:count]), originals)
    full = tok.decode(tokens)
    for reduction in REDUCTIONS:
        small, thumbnail = F.avg_pool2d(full, reduction), tok.decode(tokens, scale=1 / reduction)
        found[f"scale 1/{reduction}"] = mean_psnr(thumbnail, small)
    return found


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="bundled name or directory (default: %(default)s)")
    parser.add_argument("--images", type=Path, help="folder of the images that the PSNR is measured on")
    parser.add_argument("--px", type=int, default=256, help="side of the images (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="images at a time (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--beside", type=Path, help="another checkout to compare the full decode with")
    return parser.parse_args(argv)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures, JSON-ready."""
    from tempfile import TemporaryDirectory

    torch.set_num_threads(1)
    here = machine()
    tok = PyramidTokenizer.from_pretrained(args.model)
    tokens = tok.encode(images(args.batch, args.px)[0])
    say(f"{args.rounds} rounds")
    seconds = take_turns(cases_of(tok, tokens), args.rounds, clock=time.process_time)
    rows = {}
    for name, found in quality(tok, photos(args.images, args.px)).items():
        ratios = [one / full for one, full in zip(seconds[name], seconds["full"], strict=True)]
        milliseconds = 1000 * statistics.median(seconds[name]) / args.batch
        rows[name] = {"ms": milliseconds, "ratio": statistics.median(ratios), "db": found}
    result = {
        "benchmark": "decode",
        "model": args.model,
        "machine": here,
        "px": args.px,
        "batch": args.batch,
        "rows": rows,
    }
    if args.beside is not None:
        say(f"beside {args.beside}")
        with TemporaryDirectory() as folder, other_checkout(args.beside, args.model, tokens, Path(folder)) as other:
            result["beside"] = statistics.median(beside(tok, tokens, other, args.rounds))
    return result


def to_markdown(result: dict[str, Any]) -> str:
    head = ("decode", "CPU ms an image", "of a full decode", "dB")
    rows = result["rows"].items()
    lines = [
        (name, *(number(row[key], digits) for key, digits in (("ms", 1), ("ratio", 2), ("db", 2))))
        for name, row in rows
    ]
    note = (
        f"\nthis checkout's full decode: {result['beside']:.2f} x that of the other one" if "beside" in result else ""
    )
    return table(head, lines) + note


def main(argv: Sequence[str] | None = None) -> int:
    result = measure(parse(argv))
    print(
        f"- machine: {result['machine']}, one used\n- {result['model']}, {result['px']} px, batches of {result['batch']}\n"
    )
    print(to_markdown(result))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
