"""Measures images per second on this machine: encode, decode, and the backbone alone, with all threads and with one.

    python benchmarks/speed.py [--model tiny] [--px 256] [--batch 8] [--rounds 9]

The precision is float32. The cases run in turn, round by round, so a busy moment of the machine affects all of them; the table
has the median, the slowest and the fastest round. Run it alone: beside another busy process, several threads are slower than
one. The images are the photos of scikit-image if that package is installed, and smooth random images otherwise.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, from any current directory

from benchmarks.reconstruction import say, table
from pyramid_tokenizer import PyramidTokenizer, PyramidTokenizerError
from pyramid_tokenizer.images.read import to_batch

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")

Case = Callable[[], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """The median and the extremes of a figure over several rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarises one value or more."""
        return cls(median=statistics.median(values), low=min(values), high=max(values))


def take_turns(
    cases: dict[str, Case], rounds: int, *, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Measures the seconds of every case in every round; the cases take turns, so a busy moment affects all of them.

    Args:
        cases: The functions that are timed, by name; each is called once more before the first round.
        rounds: The number of rounds, at least 1.
        clock: A function that returns the time in seconds.
    """
    for case in cases.values():
        case()
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            began = clock()
            case()
            seconds[name].append(clock() - began)
    return seconds


def images(count: int, px: int) -> tuple[Tensor, str]:
    """Images (count, 3, px, px) in [0, 1], and what they are in words."""
    try:
        from skimage import data
    except ImportError:
        rng = torch.Generator().manual_seed(0)
        noise = torch.rand(count, 3, 8, 8, generator=rng)
        return F.interpolate(noise, (px, px), mode="bicubic", align_corners=False).clamp(0, 1), "smooth random images"
    photos = [to_batch(getattr(data, name)(), size=px) for name in PHOTOS]
    squares = torch.cat([_centre(photo, px) for photo in photos])
    return squares[torch.arange(count) % len(squares)].contiguous(), "scikit-image's photos"


def _centre(batch: Tensor, px: int) -> Tensor:
    top, left = ((side - px) // 2 for side in batch.shape[-2:])
    return batch[..., top : top + px, left : left + px]


def measure(
    tok: PyramidTokenizer, batch: Tensor, *, threads: Sequence[int], rounds: int
) -> list[tuple[str, int, Spread]]:
    """Measures images per second for each case and number of threads."""
    before = torch.get_num_threads()
    tokens = tok.encode(batch)
    cases: dict[str, Case] = {
        "encode": lambda: tok.encode(batch),
        "decode": lambda: tok.decode(tokens),
        "backbone alone": lambda: tok.features(batch),
    }
    found = []
    for count in threads:
        say(f"{rounds} rounds with {count} thread{'s' if count > 1 else ''}")
        torch.set_num_threads(count)
        try:
            seconds = take_turns(cases, rounds)
        finally:
            torch.set_num_threads(before)
        found += [(name, count, Spread.of([len(batch) / x for x in rows])) for name, rows in seconds.items()]
    return found


def to_markdown(found: Sequence[tuple[str, int, Spread]]) -> str:
    lines = [(name, count, *(f"{x:.1f}" for x in (rate.median, rate.low, rate.high))) for name, count, rate in found]
    return table(("images per second", "threads", "median", "slowest round", "fastest round"), lines)


def cpu_name() -> str:
    """The processor's own name where the system tells it, with the widest vectors it has; else its architecture."""
    try:
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = re.findall(r"^model name\s*: (.+)$", facts, flags=re.MULTILINE)
    vectors = ", AVX-512" if "avx512f" in facts else ", AVX2" if "avx2" in facts else ""
    return f"{names[0] if names else platform.machine()}{vectors}"


def machine() -> str:
    """Describes the machine: its cores and their name, its load before the measurement, and the version of torch."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{os.cpu_count()} cores ({cpu_name()}){load}, torch {torch.__version__}, {torch.get_num_threads()} threads"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="tiny", help="bundled name, directory or Hub repository (default: %(default)s)"
    )
    parser.add_argument("--px", type=int, default=256, help="side of the images (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="images at a time (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    here = machine()
    try:
        tok = PyramidTokenizer.from_pretrained(args.model)
    except PyramidTokenizerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    batch, what = images(args.batch, args.px)
    found = measure(tok, batch, threads=sorted({torch.get_num_threads(), 1}, reverse=True), rounds=args.rounds)
    print(
        f"- model: {args.model}\n- machine: {here}\n- input: {what}, {args.px} px, batches of {args.batch}, float32\n"
    )
    print(to_markdown(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
