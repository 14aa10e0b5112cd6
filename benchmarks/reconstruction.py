"""Measures how well tokens keep images, beside thumbnails, raw patches and image codecs at the same rate.

    python benchmarks/reconstruction.py --images photos [--train other-photos] [--model tiny]
    python benchmarks/reconstruction.py --data DATA [--split heldout]

`--images` is any folder of images. `--train` is a folder of other images, on which the baselines that need training are fitted:
k-means on raw patches, and codebooks without a trained decoder; without it these rows are left out. `--data` is the research
data of examples/research/README.md: the images that no training saw, and those to train on. The script also prints how evenly
the codebooks are used and how many ids change with the batch size or in another process. Progress goes to stderr, the tables to
stdout, `--markdown` and `--json`. It needs the extra `eval`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, from any current directory

from benchmarks import baselines, twins
from benchmarks.baselines import Coded
from pyramid_tokenizer import PyramidTokenizer, PyramidTokenizerError, TokenPyramid
from pyramid_tokenizer.evaluation import psnr, ssim
from pyramid_tokenizer.evaluation.codecs import has_codec
from pyramid_tokenizer.evaluation.crops import CROPS_IN_WORDS
from pyramid_tokenizer.images.pixels import to_uint8

SIDE_PX = 256
TARGET_RATE = 0.25
THUMBNAIL_SIDES = (16, 26)
PATCH_CODES = (1024, 4096)
PATCHES_PER_CODE = 50
BATCH_SIZES = (1, 2, 7, 32)
DECODE_BATCH = 8

PROTOCOL = (
    f"{CROPS_IN_WORDS.format(side=SIDE_PX)}; "
    "mean over images of each image's PSNR and SSIM (11x11 Gaussian window, per RGB channel); "
    "bits of codecs are those of whole files, headers included"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the table; None where a figure does not exist."""

    what: str
    bits_per_pixel: float | None = None
    psnr: float | None = None
    ssim: float | None = None


def say(text: str, start: float = time.perf_counter()) -> None:
    """Writes a line of progress to stderr."""
    print(f"[{time.perf_counter() - start:5.0f} s] {text}", file=sys.stderr, flush=True)


def score(what: str, images: Tensor, coded: Tensor, bits_per_pixel: float | None) -> Row:
    """Measures images against what they were coded to, both (N, 3, H, W) uint8."""
    parts = list(zip((images / 255).split(DECODE_BATCH), (coded / 255).split(DECODE_BATCH), strict=True))
    mean_psnr = torch.cat([psnr(a, b) for a, b in parts]).mean().item()
    mean_ssim = torch.cat([ssim(a, b) for a, b in parts]).mean().item()
    say(f"{what}: {mean_psnr:.2f} dB")
    return Row(what=what, bits_per_pixel=bits_per_pixel, psnr=mean_psnr, ssim=mean_ssim)


def baseline_rows(images: Tensor, train: Path | None) -> Iterator[Row]:
    """Thumbnails, codecs and, with images to train on, k-means on raw patches."""
    for side in THUMBNAIL_SIDES:
        coded = baselines.thumbnails(images, side)
        yield score(f"bicubic thumbnail {side}x{side}, 24 bit", images, coded.images, coded.bits_per_pixel)
    for num_codes in PATCH_CODES if train is not None else ():
        assert train is not None
        yield patches_row(images, train, num_codes)
    for codec in baselines.CODECS:
        yield codec_row(images, codec)


def patches_row(images: Tensor, train: Path, num_codes: int) -> Row:
    what = f"k-means on raw 8x8 patches, K = {num_codes}"
    say(f"{what}: fitting on {num_codes * PATCHES_PER_CODE:,} patches; a minute or more")
    codebook = baselines.patch_codebook(baselines.random_patches(train, num_codes * PATCHES_PER_CODE), num_codes)
    coded = baselines.reconstruct_with_patches(images, codebook)
    return score(what, images, coded.images, coded.bits_per_pixel)


def codec_row(images: Tensor, codec: str) -> Row:
    if not has_codec(codec):
        say(f"{codec}: this Pillow cannot write it")
        return Row(what=f"{codec} (this Pillow cannot write it)")

    def report(quality: int, rate: float) -> None:
        say(f"{codec}, quality {quality}: {rate:.3f} bits per pixel")

    quality, coded = baselines.nearest_rate(images, codec, TARGET_RATE, report=report)
    lowest = ", its lowest" if quality == baselines.CODECS[codec][1][0] else ""
    return score(f"{codec}, quality {quality}{lowest}", images, coded.images, coded.bits_per_pixel)


def encode(tok: PyramidTokenizer, images: Tensor, batch_size: int, *, detail: bool = False) -> TokenPyramid:
    """Encodes all images, `batch_size` at a time; without detail levels, unless `detail` is set."""
    levels = len(tok.quantizer.strides) if detail else None
    return TokenPyramid.cat([tok.encode(batch / 255, levels=levels) for batch in images.split(batch_size)])


def decode(tok: PyramidTokenizer, tokens: TokenPyramid) -> Coded:
    single = tokens.unbind()
    batches = [TokenPyramid.cat(single[i : i + DECODE_BATCH]) for i in range(0, len(single), DECODE_BATCH)]
    images = torch.cat([to_uint8(tok.decode(batch)) for batch in batches])
    return Coded(images=images, bits_per_pixel=tokens.bits_per_pixel)


def tokenizer_rows(tok: PyramidTokenizer, images: Tensor, tokens: TokenPyramid) -> Iterator[Row]:
    for levels in range(1, len(tokens) + 1):
        coded = decode(tok, tokens[:levels])
        what = "pyramid, level 0" if levels == 1 else f"pyramid, levels 0-{levels - 1}"
        what += ", with detail" if levels > tok.quantizer.base_levels else ""
        yield score(what, images, coded.images, coded.bits_per_pixel)
    continuous = [to_uint8(tok.reconstruct_continuous(batch / 255)) for batch in images.split(DECODE_BATCH)]
    yield score("pyramid, features not quantised", images, torch.cat(continuous), None)


def depth_rows(tok: PyramidTokenizer, images: Tensor, train: Path) -> Iterator[Row]:
    """Compares several depths of the backbone with its last layer: no trained decoder, codebooks fitted on the same crops."""
    base = twins.without_detail(tok.config)
    for what, config in (
        ("gradient-free fit, no decoder", base),
        ("gradient-free fit, no decoder, backbone's last layer only", twins.last_layer(base)),
    ):
        say(f"{what}: fitting on {twins.FIT_IMAGES:,} crops; minutes")
        twin = twins.fitted(tok, config, train)
        coded = decode(twin, encode(twin, images, DECODE_BATCH))
        yield score(what, images, coded.images, coded.bits_per_pixel)


def encode_to_bytes(model: str, folder: Path, limit: int | None, batch_size: int, threads: int) -> bytes:
    """Encodes the image files in another process, where this function runs."""
    torch.set_num_threads(threads)
    images = baselines.load_images(folder, side=SIDE_PX, limit=limit)
    return encode(PyramidTokenizer.from_pretrained(model), images, batch_size, detail=True).to_bytes()


def encode_elsewhere(model: str, folder: Path, limit: int | None, batch_size: int, threads: int) -> TokenPyramid:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return TokenPyramid.from_bytes(pool.submit(encode_to_bytes, model, folder, limit, batch_size, threads).result())


def encode_after_saving(tok: PyramidTokenizer, images: Tensor, batch_size: int) -> TokenPyramid:
    with tempfile.TemporaryDirectory() as folder:
        loaded = PyramidTokenizer.from_pretrained(tok.save_pretrained(Path(folder) / "model"))
        return encode(loaded, images, batch_size, detail=True)


def differing(left: TokenPyramid, right: TokenPyramid) -> int:
    """Counts the ids that differ."""
    return sum(int((a != b).sum()) for a, b in zip(left.ids, right.ids, strict=True))


def id_agreement(
    tok: PyramidTokenizer, images: Tensor, tokens: TokenPyramid, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Counts the ids that differ from those of batches of `DECODE_BATCH` in this process."""
    threads = torch.get_num_threads()
    cases: dict[str, Callable[[], TokenPyramid]] = {}
    for size in BATCH_SIZES:
        cases[f"batches of {size}"] = partial(encode, tok, images, size, detail=True)
    for count in sorted({threads, 1}):
        name = f"another process, {count} thread{'s' if count > 1 else ''}"
        cases[name] = partial(encode_elsewhere, args.model, folder_of(args), args.limit, DECODE_BATCH, count)
    cases["model saved and loaded"] = partial(encode_after_saving, tok, images, DECODE_BATCH)
    total = sum(ids.numel() for ids in tokens.ids)
    results = []
    for what, encode_again in cases.items():
        count = differing(tokens, encode_again())
        say(f"ids, {what}: {count} of {total:,} differ")
        results.append({"what": what, "differing": count, "ids": total})
    return results


def folder_of(args: argparse.Namespace) -> Path:
    """The folder of the images that are measured."""
    return args.images if args.images is not None else args.data / "recon" / args.split


def train_of(args: argparse.Namespace) -> Path | None:
    """The folder of the images to train baselines on; None for no such folder."""
    return args.data / "recon" / "train" if args.data is not None else args.train


def data_of(args: argparse.Namespace) -> str:
    """The data in words, without the path of a folder of the user's."""
    return args.images.name if args.images is not None else f"recon/{args.split}"


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """All figures, as `--json` writes them and as a model card reads them."""
    images = baselines.load_images(folder_of(args), side=SIDE_PX, limit=args.limit)
    train = train_of(args)
    say(f"{len(images)} images of {folder_of(args)}")
    if train is None:
        say("no --train: k-means on raw patches and codebooks without a decoder are left out")
    result: dict[str, Any] = {
        "model": Path(args.model).name if Path(args.model).is_dir() else args.model,
        "data": f"{data_of(args)}, {len(images)} images",
        "protocol": PROTOCOL,
        "machine": f"{os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}, {torch.get_num_threads()} threads",
        "date": datetime.date.today().isoformat(),
    }
    rows = []
    if not args.baselines_only:
        tok = PyramidTokenizer.from_pretrained(args.model)
        result["fingerprint"] = tok.fingerprint
        say(f"model {args.model}: encoding")
        tokens = encode(tok, images, DECODE_BATCH, detail=True)
        rows += tokenizer_rows(tok, images, tokens)
        if not args.skip_baselines and train is not None:
            rows += depth_rows(tok, images, train)
        result["levels"] = level_rows(tok, tokens)
        result["ids"] = id_agreement(tok, images, tokens, args)
    if not args.skip_baselines:
        rows += baseline_rows(images, train)
    result["rows"] = [asdict(row) for row in rows]
    return result


def level_rows(tok: PyramidTokenizer, tokens: TokenPyramid) -> list[dict[str, Any]]:
    levels = tok.health(tokens).levels
    return [
        {"codes": level.codebook_size, "tokens": level.num_tokens, "usage": level.usage, "perplexity": level.perplexity}
        for level in levels
    ]


def to_markdown(result: dict[str, Any]) -> str:
    facts = [
        f"- {name}: {result[name]}"
        for name in ("model", "fingerprint", "data", "protocol", "machine", "date")
        if name in result
    ]
    rows = [
        (row["what"], number(row["bits_per_pixel"], 3), number(row["psnr"], 2), number(row["ssim"], 3))
        for row in result["rows"]
    ]
    parts = ["\n".join(facts), table(("what", "bits per pixel", "PSNR, dB", "SSIM"), rows)]
    if "levels" in result:
        levels = [
            (
                i,
                level["codes"],
                f"{level['tokens']:,}",
                f"{level['usage']:.1%}",
                f"{level['perplexity']:.0f}",
                f"{level['perplexity'] / level['codes']:.0%}",
            )
            for i, level in enumerate(result["levels"])
        ]
        parts.append(table(("level", "codes", "tokens", "used", "perplexity", "of K"), levels))
        ids = [(case["what"], f"{case['differing']} of {case['ids']:,}", per_10_000(case)) for case in result["ids"]]
        parts.append(table((f"ids that differ from batches of {DECODE_BATCH}", "count", "per 10,000"), ids))
    return "\n\n".join(parts) + "\n"


def per_10_000(case: dict[str, Any]) -> str:
    return f"{1e4 * case['differing'] / case['ids']:.2f}"


def number(value: float | None, digits: int) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", type=Path, metavar="DIR", help="a folder of images")
    source.add_argument(
        "--data", type=Path, metavar="DIR", help="the research data, with recon/heldout and recon/train"
    )
    parser.add_argument("--train", type=Path, metavar="DIR", help="with --images: other images to train baselines on")
    parser.add_argument(
        "--model", default="tiny", help="bundled name, directory or Hub repository (default: %(default)s)"
    )
    parser.add_argument(
        "--split", choices=("heldout", "val"), default="heldout", help="of --data (default: %(default)s)"
    )
    parser.add_argument("--limit", type=int, help="only the first so many images")
    parser.add_argument("--baselines-only", action="store_true", help="no tokenizer")
    parser.add_argument("--skip-baselines", action="store_true", help="the tokenizer only: minutes less")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there, too")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all figures there: the evaluation.json of a model card"
    )
    args = parser.parse_args(argv)
    if args.data is not None and args.train is not None:
        parser.error("expected --train with --images, got it with --data, which has images to train on: leave it out")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        result = evaluate(args)
    except (PyramidTokenizerError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    text = to_markdown(result)
    print(text)
    if args.markdown:
        args.markdown.write_text(text, encoding="utf-8")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
