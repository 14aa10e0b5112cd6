"""Measures how long the command line takes to start: one photo encoded, beside the import of torch and open_clip alone.

    python benchmarks/startup.py [--runs 5] [--model tiny]

Every run is a process of its own with one thread. The commands take turns, and a ratio is the median of those of single
turns; the first turn, which fills the caches of the file system, does not count. `--help` and `info` of a token file import
neither. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, from any current directory

from benchmarks.reconstruction import say, table
from benchmarks.speed import images, machine
from pyramid_tokenizer.images.pixels import to_pil

PYTHON = [sys.executable]
IMPORTS = "import torch, open_clip"


def to_photo(path: Path) -> None:
    """Writes a photo of 256 px as a JPEG file."""
    to_pil(images(1, 256)[0])[0].save(path, quality=90)


def commands_of(folder: Path, model: str) -> dict[str, list[str]]:
    """What is timed, the imports first; the folder holds one.jpg and one.tokens."""
    tool = [*PYTHON, "-m", "pyramid_tokenizer.cli"]
    photo, tokens = str(folder / "one.jpg"), str(folder / "one.tokens")
    return {
        IMPORTS: [*PYTHON, "-c", IMPORTS],
        "encode one.jpg": [*tool, "encode", photo, "--model", model, "--out", tokens, "--force"],
        "decode one.tokens": [*tool, "decode", tokens, "--model", model, "--out", str(folder / "one.png"), "--force"],
        "info one.tokens": [*tool, "info", tokens],
        "--help": [*tool, "--help"],
    }


def run(command: Sequence[str]) -> tuple[float, float]:
    """CPU and wall seconds of one process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def measure(commands: dict[str, list[str]], runs: int) -> dict[str, dict[str, float]]:
    """CPU and wall seconds of each command, and their ratios to the first one's."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for turn in range(runs + 1):
        for name, command in commands.items():
            found = run(command)
            if turn:
                seconds[name].append(found)
        say(f"turn {turn} of {runs}")
    first = next(iter(seconds.values()))
    rows = {}
    for name, found in seconds.items():
        rows[name] = {
            "cpu": statistics.median(cpu for cpu, _ in found),
            "wall": statistics.median(wall for _, wall in found),
        }
        for kind, index in (("cpu_ratio", 0), ("wall_ratio", 1)):
            rows[name][kind] = statistics.median(
                one[index] / other[index] for one, other in zip(found, first, strict=True)
            )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="turns that count (default: %(default)s)")
    parser.add_argument("--model", default="tiny", help="bundled name or directory (default: %(default)s)")
    args = parser.parse_args(argv)
    here = machine()
    with tempfile.TemporaryDirectory() as folder:
        to_photo(Path(folder) / "one.jpg")
        rows: dict[str, Any] = measure(commands_of(Path(folder), args.model), args.runs)
    lines = [
        (name, *(f"{row[key]:.2f}" for key in ("cpu", "cpu_ratio", "wall", "wall_ratio"))) for name, row in rows.items()
    ]
    print(f"- machine: {here}, one used\n\n{table(('process', 'CPU s', 'ratio', 'wall s', 'ratio'), lines)}")
    print(json.dumps({"benchmark": "startup", "machine": here, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
