"""Measures what got slower since the last committed figures: `make bench`.

    python benchmarks/regressions.py [--model tiny] [--rounds 9] [--accept]

Every case is timed in CPU seconds with one thread, in turn with a matrix product, and its figure is how many such products it
costs: a slower or a busier machine changes both. The figures go to benchmarks/results/new.json, beside committed.json; the
table shows both, and the exit code is 1 if a case costs 15 % more than before. `--accept` makes the new figures the committed
ones. Figures of another kind of processor are shown and not judged, since products and convolutions scale differently.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, from any current directory

from benchmarks.reconstruction import say, table
from benchmarks.speed import Case, cpu_name, images, machine, take_turns
from pyramid_tokenizer import PyramidTokenizer, Segmenter

RESULTS = Path(__file__).resolve().parent / "results"
LIMIT = 1.15
"""A case that costs more than this many times what it cost before is named."""
PRODUCT = 768
"""Side of the calibration's square matrices: some 10 ms of a core."""
WORDS = ("sky", "tree", "car|automobile", "person", "grass")


def cases_of(model: str) -> dict[str, Case]:
    """What is timed, the calibration first."""
    left, right = torch.rand(2, PRODUCT, PRODUCT).unbind()
    segmenter = Segmenter.from_pretrained(model)
    tok = segmenter.tok
    one, eight = images(1, 256)[0], images(8, 256)[0]
    few, many = tok.encode(one), tok.encode(eight)
    return {
        "calibration": lambda: left @ right,
        "encode, 1 image": lambda: tok.encode(one),
        "encode, 8 images": lambda: tok.encode(eight),
        "decode, 1 image": lambda: tok.decode(few),
        "decode, 8 images": lambda: tok.decode(many),
        "thumbnails of 1/4, 8 images": lambda: tok.decode(many, scale=1 / 4),
        "image embedding, 8 images": lambda: tok.embedding(many),
        "segment by look-up, 8 images": lambda: segmenter.segment(many, WORDS, mode="lookup"),
        "tokens to bytes and back, 8 images": lambda: type(many).from_bytes(many.to_bytes()),
        "load the model": lambda: PyramidTokenizer.from_pretrained(model),
    }


def measure(model: str, rounds: int) -> dict[str, Any]:
    """The cost of each case in products, JSON-ready."""
    torch.set_num_threads(1)
    seconds = take_turns(cases_of(model), rounds, clock=time.process_time)
    # CPU seconds of one product are few, so the median of all rounds calibrates each of them
    product = statistics.median(seconds.pop("calibration"))
    costs = {name: statistics.median(found) / product for name, found in seconds.items()}
    return {"machine": machine(), "cpu": cpu_name(), "product_ms": 1000 * product, "costs": costs}


def slower(new: dict[str, Any], old: dict[str, Any] | None) -> dict[str, float]:
    """By what factor cases cost more than before, of those beyond the limit; none on another kind of processor."""
    if old is None or old["cpu"] != new["cpu"]:
        return {}
    ratios = {name: cost / old["costs"][name] for name, cost in new["costs"].items() if name in old["costs"]}
    return {name: ratio for name, ratio in ratios.items() if ratio > LIMIT}


def to_markdown(new: dict[str, Any], old: dict[str, Any] | None) -> str:
    before = old["costs"] if old else {}
    rows = []
    for name, cost in new["costs"].items():
        was = before.get(name)
        milliseconds = f"{cost * new['product_ms']:.1f}"
        rows.append(
            (name, milliseconds, f"{cost:.2f}", *(("–", "–") if was is None else (f"{was:.2f}", f"{cost / was:.2f}")))
        )
    return table(("case", "CPU ms", "in products", "committed", "ratio"), rows)


def read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="bundled name or directory (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    parser.add_argument("--accept", action="store_true", help="make the new figures the committed ones")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder of the figures (default: benchmarks/results)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    committed = args.results / "committed.json"
    say(f"{args.rounds} rounds")
    new, old = measure(args.model, args.rounds), read(committed)
    write(committed if args.accept else args.results / "new.json", new)
    print(f"- machine: {new['machine']}, one used\n- a product: {new['product_ms']:.1f} ms\n\n{to_markdown(new, old)}")
    if old is not None and old["cpu"] != new["cpu"]:
        print(f"\nnot judged: the committed figures are of {old['cpu']}")
    found = slower(new, old)
    for name, ratio in found.items():
        print(f"\nslower: {name} costs {ratio:.2f} x what it did")
    return 1 if found and not args.accept else 0


if __name__ == "__main__":
    sys.exit(main())
