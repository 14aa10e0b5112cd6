"""Measures what large images take: peak memory and CPU time per pixel, beside those of an image of 1024 px.

    python benchmarks/large_images.py [decode encode] [--sizes 1024x1024 4096x4096 8000x6000] [--model tiny]
    python benchmarks/large_images.py ids --sizes 3333x2500
    python benchmarks/large_images.py encode windows --window 512 --model VIT --sizes 1024x1024 2048x2048

Every row is a process of its own with one thread, as the peak of a process never falls. The peak is that of the process,
torch and model included; `start` is its size before the work begins, with its input in memory, random ids or random
pixels. The last line of the output is JSON. `ids` counts the ids of a made-up image, of all levels, that differ between
encoding it in bands and whole. `windows` encodes in overlapping windows of `--window` pixels, as a model on a ViT needs it;
`benchmarks/windows.py` measures what that changes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, from any current directory

from benchmarks.reconstruction import number, say, table
from benchmarks.speed import machine

PARTS = ("decode", "encode")
SIZES = ("1024x1024", "4096x4096", "8000x6000")


def measure_here(part: str, width: int, height: int, model: str, window_px: int) -> dict[str, float]:
    """CPU seconds, and the process's size in MB before and at its largest; meant for a process of its own."""
    import torch

    from pyramid_tokenizer import PyramidTokenizer

    torch.set_num_threads(1)
    tok = PyramidTokenizer.from_pretrained(model)
    generator = torch.Generator().manual_seed(0)
    if part == "decode":
        stride = tok.quantizer.strides[0]
        rows, columns = -(-height // stride), -(-width // stride)
        sizes = tok.quantizer.codebook_sizes[: tok.quantizer.base_levels]
        ratios = [stride // finer for finer in tok.quantizer.strides]
        ids = [
            torch.randint(k, (1, rows * r, columns * r), generator=generator)
            for k, r in zip(sizes, ratios, strict=False)
        ]
        tokens = tok.tokens(ids, image_size=(height, width))
        case = lambda: tok.decode(tokens)  # noqa: E731
    else:
        image = torch.rand(1, 3, height, width, generator=generator)
        case = lambda: tok.encode(image, window_px=window_px if part == "windows" else None)  # noqa: E731
    start, begun = _peak_mb(), time.process_time()
    case()
    return {"seconds": time.process_time() - begun, "start_mb": start, "peak_mb": _peak_mb()}


def count_different(width: int, height: int, model: str) -> tuple[int, int]:
    """Ids that differ between bands and whole, and all ids, of an image with detail of every size."""
    import torch
    import torch.nn.functional as F

    from pyramid_tokenizer import PyramidTokenizer
    from pyramid_tokenizer.encoding import by_rows

    generator = torch.Generator().manual_seed(3)
    layers = [
        F.interpolate(
            torch.rand(1, 3, height // side + 1, width // side + 1, generator=generator),
            (height, width),
            mode="bilinear",
        )
        for side in (160, 40, 10, 2)
    ]
    image = torch.stack([share * layer for share, layer in zip((0.4, 0.3, 0.2, 0.1), layers, strict=True)]).sum(0)
    tok = PyramidTokenizer.from_pretrained(model)
    levels, found = len(tok.quantizer.levels), []
    for by_rows.LARGE_PIXELS in (0, 2**40):
        found.append(tok.encode(image, levels=levels).ids)
    differ = [int((banded != whole).sum()) for banded, whole in zip(*found, strict=True)]
    return sum(differ), sum(ids.numel() for ids in found[0])


def _peak_mb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def measure(part: str, size: str, model: str, window_px: int) -> dict[str, Any]:
    """The same in a process of its own, with the size and the time per pixel."""
    width, height = (int(side) for side in size.split("x"))
    command = [sys.executable, __file__, "--here", part, "--sizes", size, "--model", model, "--window", str(window_px)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return {"part": part, "size": size, "ns_per_px": 1e9 * found["seconds"] / (width * height), **found}


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        first = next(other for other in rows if other["part"] == row["part"])
        figures = row["start_mb"], row["peak_mb"]
        ratio = number(row["ns_per_px"] / first["ns_per_px"], 2)
        lines.append((row["part"], row["size"], number(row["ns_per_px"], 0), ratio, *(number(mb, 0) for mb in figures)))
    return table(("", "px", "CPU ns a pixel", "of the first size", "start MB", "peak MB"), lines)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=PARTS, help="decode and encode (the default), windows, or ids")
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="width x height (default: %(default)s)")
    parser.add_argument("--model", default="tiny", help="bundled name or directory (default: %(default)s)")
    parser.add_argument("--window", type=int, default=512, help="side of windows in pixels (default: %(default)s)")
    parser.add_argument("--here", action="store_true", help="measure in this process and print one line of JSON")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.here:
        width, height = (int(side) for side in args.sizes[0].split("x"))
        print(json.dumps(measure_here(args.parts[0], width, height, args.model, args.window)))
        return 0
    if list(args.parts) == ["ids"]:
        for size in args.sizes:
            width, height = (int(side) for side in size.split("x"))
            differ, count = count_different(width, height, args.model)
            print(json.dumps({"benchmark": "large_images", "ids": size, "differ": differ, "of": count}))
        return 0
    here, rows = machine(), []
    for part in args.parts:
        for size in args.sizes:
            rows.append(measure(part, size, args.model, args.window))
            say(f"{part} {size}")
    print(f"- machine: {here}, one used\n- model: {args.model}\n\n{to_markdown(rows)}")
    print(json.dumps({"benchmark": "large_images", "machine": here, "model": args.model, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
