"""Measures the figures that bundled models are compared by, on test images alone, beside another model.

    python benchmarks/bundled.py --data DATA [--model tiny] [--json FILE] [--beside FILE] [--parts words masks]

DATA is the research data of examples/research/README.md. The parts are

    pixels  PSNR and SSIM by prefix, and of sparse pyramids that use .25 bit per pixel at most
    words   names, kept-out names and captions, from the backbone and from tokens, as examples/research/zero_shot.py
    masks   mean IoU of VOC, as voc-20 of benchmarks/segmentation.py, and of other sets, as examples/research/segmentation.py
    cost    encode and decode, in matrix products that are timed in the same run, as benchmarks/regressions.py

`--json` keeps the figures, and `--beside` shows those of another model that were kept so. Progress goes to stderr. It needs the
extra `eval`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, from any current directory

from benchmarks import reconstruction as pixels
from benchmarks import regressions, segmentation
from benchmarks.baselines import load_images
from benchmarks.by_content import Photos
from benchmarks.reconstruction import say, table
from benchmarks.speed import machine
from examples.research import segmentation as sets
from examples.research import segmentation_rows, zero_shot
from pyramid_tokenizer import Segmenter, TokenPyramid
from pyramid_tokenizer.images.labelled import open_segmentation_set
from pyramid_tokenizer.images.pixels import to_uint8
from pyramid_tokenizer.tokens.thinning import Gains

MOST_BITS = 0.25
HALVINGS = 10
VOC = "voc-20"
SHORT_SIDE_PX = 256
SOURCES = {
    segmentation_rows.DECODER: segmentation.MODES["decoder"],
    segmentation_rows.LOOKUP: segmentation.MODES["lookup"],
    segmentation_rows.DENSE: segmentation.MODES["dense"],
    segmentation_rows.DECODER_ON_FEATURES: "head, from features before quantisation",
    segmentation_rows.TRAINED_ON_FEATURES: "head trained on features, from features",
}
TIMED = ("encode, 1 image", "encode, 8 images", "decode, 1 image", "decode, 8 images")
ROUNDS = 9

Figure = tuple[str, str, str]
"""What is measured, from what, and the figure with its unit."""


def pixel_figures(seg: Segmenter, args: Namespace) -> Iterator[Figure]:
    """PSNR and SSIM of full pyramids by prefix, and of sparse ones of the highest quality that `MOST_BITS` allow on average."""
    tok = seg.tok
    images = load_images(args.data / "recon" / "heldout", side=pixels.SIDE_PX, limit=args.limit)
    title = f"reconstruction of {len(images)} images"
    photos = Photos(tok, images.float() / 255)
    full = TokenPyramid.cat(photos.full)
    for row in pixels.tokenizer_rows(tok, images, full):
        yield title, row.what, in_words(row)
    for levels in sorted({tok.quantizer.base_levels, len(full)}):
        pyramids, quality = within_bits(photos, photos.of_levels(levels))
        coded = torch.cat([to_uint8(tok.decode(tokens)) for tokens in pyramids])
        row = pixels.score(f"sparse pyramids of {levels} levels", images, coded, mean_bits(pyramids))
        yield title, f"{row.what}, quality {quality:.3f}", in_words(row)


def in_words(row: pixels.Row) -> str:
    rate = "" if row.bits_per_pixel is None else f" at {row.bits_per_pixel:.3f} bit/px"
    return f"{row.psnr:.2f} dB, {row.ssim:.3f}{rate}"


def within_bits(photos: Photos, parts: Sequence[tuple[TokenPyramid, Gains]]) -> tuple[list[TokenPyramid], float]:
    """Sparse pyramids, one for each batch, and their quality: the highest whose mean rate is `MOST_BITS` at most."""

    def thin(quality: float) -> list[TokenPyramid]:
        return [photos.tok.thin(tokens, gains, quality=quality) for tokens, gains in parts]

    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_bits(thin(middle)) <= MOST_BITS else (low, middle)
    return thin(low), low


def mean_bits(pyramids: Sequence[TokenPyramid]) -> float:
    """Bits per pixel, the mean over the images of all batches."""
    rates = [one.bits_per_pixel for tokens in pyramids for one in tokens.unbind()]
    return sum(rates) / len(rates)


def word_figures(seg: Segmenter, args: Namespace) -> Iterator[Figure]:
    """Names, kept-out names and captions, all from the backbone and from tokens."""
    backbone = seg.tok.backbone
    encoders = zero_shot.image_encoders(backbone, seg.tok)
    yield from zero_shot.image_rows(backbone, encoders, args.data, pixels.SIDE_PX)
    yield from zero_shot.caption_rows(backbone, encoders, args.data, pixels.SIDE_PX)
    yield from zero_shot.text_rows(backbone, args.data)


def mask_figures(seg: Segmenter, args: Namespace) -> Iterator[Figure]:
    """Mean IoU of every set, over the classes that are in its labels."""
    voc = segmentation.open_voc(args.data / "seg" / "voc2012", VOC, "test")
    tokens = [seg.tok.encode(sample.image) for sample in segmentation.shown(voc, args.limit, "encode")]
    modes = ["lookup", "dense", *(["decoder"] if seg.head is not None else [])]
    for mode in modes:
        row = segmentation.measure(seg, voc, mode, tokens, args.limit)
        title = f"masks: {VOC}, {len(tokens)} images"
        yield title, segmentation.MODES[mode], f"{segmentation.percent(row['miou_present'])} %"
    continuous = None if args.continuous_head is None else Segmenter.from_pretrained(args.continuous_head)
    for name in sets.SETS:
        test = open_segmentation_set(args.data / "seg" / name, split="test")
        names = segmentation_rows.Names.of(test.names)
        tell = partial(sets.say_of, name)
        how = {"px": SHORT_SIDE_PX, "limit": args.limit, "continuous": continuous}
        counts = segmentation_rows.count(seg, test, names, say=tell, **how)
        title = f"masks: {name}, {sets.shown(test, args.limit)} images, {len(names.learned)} names"
        for source, images in counts.learned.items():
            found = sets.learned_row(source, images)["miou_present"]
            yield title, SOURCES[source], f"{segmentation.percent(found)} %"


def cost_figures(seg: Segmenter, args: Namespace) -> Iterator[Figure]:
    """CPU time of encode and decode, in products of matrices as `make bench` counts it."""
    found = regressions.measure(args.model, ROUNDS)
    for name in TIMED:
        yield "cost, in products of matrices", name, f"{found['costs'][name]:.1f}"


PARTS = {"pixels": pixel_figures, "words": word_figures, "masks": mask_figures, "cost": cost_figures}


@torch.no_grad()
def measure(args: Namespace) -> dict[str, Any]:
    """All figures, as `--json` writes them."""
    seg = Segmenter.from_pretrained(args.model)
    rows: list[Figure] = []
    found = {
        "model": Path(args.model).name if Path(args.model).is_dir() else args.model,
        "fingerprint": seg.tok.fingerprint,
        "machine": machine(),  # now: the cost is measured with one thread, whatever the others had
        "date": datetime.date.today().isoformat(),
        "rows": rows,
    }
    for part in args.parts:
        for row in PARTS[part](seg, args):
            say(", ".join(row))
            rows.append(row)
    return found


def to_markdown(found: dict[str, Any], other: dict[str, Any] | None) -> str:
    """The table, with a column of the other model's figures where they are given."""
    before = {} if other is None else {key_of(*row[:2]): row[2] for row in other["rows"]}
    head = ["what", "from", *(["before"] if other else []), "now" if other else "figure"]
    rows, last = [], ""
    for what, source, figure in found["rows"]:
        cells = [what if what != last else "", source]
        rows.append([*cells, *([before.get(key_of(what, source), "-")] if other else []), figure])
        last = what
    facts = [f"- {key}: {found[key]}" for key in ("model", "fingerprint", "machine", "date")]
    return "\n".join(facts) + "\n\n" + table(head, rows) + "\n"


def key_of(what: str, source: str) -> tuple[str, str]:
    """The same for two models: without the quality of sparse pyramids, which differs."""
    return what, source.split(", quality", maxsplit=1)[0]


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the research data")
    parser.add_argument("--model", default="tiny", help="bundled name or directory (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (default: all)")
    parser.add_argument(
        "--continuous-head", type=Path, help="the same tokenizer with a head of train_head.py --continuous"
    )
    parser.add_argument(
        "--limit", type=int, help="only the first so many images of reconstruction and of each set of masks"
    )
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--beside", type=Path, metavar="FILE", help="figures of another model that --json wrote")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    torch.set_num_threads(args.threads)
    other = None if args.beside is None else json.loads(args.beside.read_text(encoding="utf-8"))
    found = measure(args)
    if args.json:
        sets.write_whole(args.json, json.dumps(found, indent=2) + "\n")
    print(to_markdown(found, other))


if __name__ == "__main__":
    main()
