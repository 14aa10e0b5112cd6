"""Measures exported models beside torch: ids, pixels and embeddings that differ, images per second, and the start of a process.

    python benchmarks/export.py --images DIR [--model tiny] [--exported DIR] [--px 256] [--count 50] [--batch 1 8] [--rounds 5]

The model is exported to ONNX for images of `--px`, or read from `--exported`, an earlier export. The images are read by
the reader and by the library, each for itself: resized to `--px` on the short side, the centre square cut out. Both runtimes have
one thread; cases run in turn, round by round, and the table has medians. Seconds are those of the processor, which other
processes hardly disturb; the start of a process has both. The last line is the result as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, from any current directory

from benchmarks.reconstruction import say, table
from benchmarks.speed import machine, take_turns
from pyramid_tokenizer import PyramidTokenizer, PyramidTokenizerError
from pyramid_tokenizer.export import OnnxTokenizer, export_model
from pyramid_tokenizer.export.reader import TokenIds
from pyramid_tokenizer.images import find_images, read_image

NAMES = ["person", "dog", "bird", "flower", "mountain", "boat", "car", "house"]
START = (
    "import sys; from pyramid_tokenizer.export.reader import OnnxTokenizer; "
    "print(OnnxTokenizer(sys.argv[1], threads=1).encode(sys.argv[2])[0].shape)"
)


def read_squares(paths: Sequence[Path], px: int) -> tuple[NDArray[np.float32], torch.Tensor]:
    """The same photos as the reader and as the library read them: (N, 3, px, px)."""
    from pyramid_tokenizer.export import reader

    own = [centre(reader.read_image(path, px), px) for path in paths]
    librarys = [centre(read_image(path, size=px).numpy(), px) for path in paths]
    return np.stack(own), torch.from_numpy(np.stack(librarys))


def centre(image: NDArray[np.float32], px: int) -> NDArray[np.float32]:
    top, left = ((side - px) // 2 for side in image.shape[1:])
    return np.ascontiguousarray(image[:, top : top + px, left : left + px])


def compare(
    tok: PyramidTokenizer, exported: OnnxTokenizer, paths: Sequence[Path], px: int, batch: int
) -> dict[str, Any]:
    """How far the exported model is from torch's, in batches of one size; the last one may be smaller."""
    levels, differ, compared, pixels, embedding, labels = len(exported.strides), 0, 0, 0.0, 0.0, 0
    for first in range(0, len(paths), batch):
        own, librarys = read_squares(paths[first : first + batch], px)
        ids, tokens = exported.encode(own, levels=levels), tok.encode(librarys, levels=levels)
        differ += sum(int((a != b.numpy()).sum()) for a, b in zip(ids, tokens.ids, strict=True))
        compared += sum(level.size for level in ids)
        whole = tokens.image_ids.numpy() if tok.quantizer.image.codebook_sizes else None
        if whole is not None:
            differ += int((ids.image_ids != whole).sum())
            compared += whole.size
        same = TokenIds([level.numpy() for level in tokens.ids], whole)  # of the same ids, whatever the encoders gave
        for count in range(1, levels + 1):
            pixels = max(
                pixels, float(np.abs(exported.decode(same[:count]) - tok.decode(tokens[:count]).numpy()).max())
            )
        embedding = max(embedding, float(np.abs(exported.embedding(same) - tok.embedding(tokens).numpy()).max()))
        scores = exported.classify(same)[1]
        labels += int((scores.argmax(1) != tok.classify(tokens, NAMES).labels.numpy()).sum())
    return {
        "batch": batch,
        "images": len(paths),
        "ids": compared,
        "ids_that_differ": differ,
        "largest_pixel": pixels,
        "largest_embedding": embedding,
        "labels_that_differ": labels,
    }


def time_batches(
    tok: PyramidTokenizer, exported: OnnxTokenizer, path: Path, px: int, batch: int, rounds: int
) -> dict[str, Any]:
    """Images per second of both, encoding and decoding, in turn."""
    own, librarys = read_squares([path] * batch, px)
    ids, tokens = exported.encode(own), tok.encode(librarys)
    cases = {
        "encode, torch": lambda: tok.encode(librarys),
        "encode, onnxruntime": lambda: exported.encode(own),
        "decode, torch": lambda: tok.decode(tokens),
        "decode, onnxruntime": lambda: exported.decode(ids),
    }
    return {
        name: batch / statistics.median(found)
        for name, found in take_turns(cases, rounds, clock=time.process_time).items()
    }


def time_start(directory: Path, photo: Path, rounds: int) -> dict[str, float]:
    """Seconds from the start of a process to the ids of one photo, medians: by the clock and of the processor."""
    found = []
    for _ in range(rounds):
        began, used = time.perf_counter(), os.times()
        subprocess.run([sys.executable, "-c", START, str(directory), str(photo)], check=True, stdout=subprocess.DEVNULL)
        now = os.times()
        spent = now.children_user + now.children_system - used.children_user - used.children_system
        found.append((time.perf_counter() - began, spent))
    return {"clock": statistics.median(x for x, _ in found), "processor": statistics.median(x for _, x in found)}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="folder of photos")
    parser.add_argument(
        "--model", default="tiny", help="bundled name, directory or Hub repository (default: %(default)s)"
    )
    parser.add_argument(
        "--exported", type=Path, help="folder of an export of the model with words, in place of a new one"
    )
    parser.add_argument("--px", type=int, default=256, help="side of the images (default: %(default)s)")
    parser.add_argument("--count", type=int, default=50, help="photos that are compared (default: %(default)s)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="images at a time (default: 1 8)")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    return parser.parse_args(argv)


def measure(args: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """All figures, JSON-ready."""
    tok = PyramidTokenizer.from_pretrained(args.model)
    if args.exported is None:
        say("export")
        export_model(tok, directory, size=args.px, names=NAMES)
    exported = OnnxTokenizer(directory, threads=1)
    paths = find_images(args.images)[: args.count]
    result: dict[str, Any] = {
        "model": args.model,
        "px": args.px,
        "machine": machine(),
        "compared": [],
        "images_per_second": {},
    }
    for batch in args.batch:
        say(f"compare, batches of {batch}")
        result["compared"].append(compare(tok, exported, paths, args.px, batch))
    for batch in args.batch:
        say(f"time, batches of {batch}")
        result["images_per_second"][str(batch)] = time_batches(tok, exported, paths[0], args.px, batch, args.rounds)
    say("time the start of processes")
    result["start_seconds"] = time_start(directory, paths[0], args.rounds)
    return result


def to_markdown(result: dict[str, Any]) -> str:
    """Both tables and the time of the start."""
    titles = ("batch", "photos", "ids that differ", "largest pixel", "largest of an embedding", "other names")
    rows = [
        (
            str(x["batch"]),
            str(x["images"]),
            f"{x['ids_that_differ']:,} of {x['ids']:,}",
            f"{x['largest_pixel']:.1e}",
            f"{x['largest_embedding']:.1e}",
            str(x["labels_that_differ"]),
        )
        for x in result["compared"]
    ]
    rates = result["images_per_second"]
    names = next(iter(rates.values()))
    speeds = [(name, *(f"{rates[batch][name]:.1f}" for batch in rates)) for name in names]
    heads = ("images per second", *(f"batches of {batch}" for batch in rates))
    seconds = result["start_seconds"]
    start = f"From the start of a process to the ids of one photo: {seconds['clock']:.2f} s, of which the processor "
    start += f"{seconds['processor']:.2f} s"
    return "\n\n".join([table(titles, rows), table(heads, speeds), start])


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            result = measure(args, args.exported or Path(scratch))
    except PyramidTokenizerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"- model: {args.model}\n- machine: {result['machine']}\n- input: {args.px} px, float32, one thread\n")
    print(to_markdown(result))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
