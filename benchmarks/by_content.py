"""Measures tokens by content: the rate and the error of sparse pyramids, beside the prefixes of full ones.

    python benchmarks/by_content.py --images photos [--model tiny]
    python benchmarks/by_content.py --data DATA [--labels labels.csv] [--masks DATA/seg/camvid DATA/seg/msrc]

Printed are, for 256 x 256 px centre crops: prefixes of full pyramids; sparse pyramids by quality, of the base levels and of all
levels; the BD-rate, by how many percent the bits differ that give the same dB on the line between prefixes, split bits included;
what is lost without half of the finest level's tokens; and how well `target_psnr` and `max_tokens` are kept. With `--labels`
 (as for benchmarks/recipe.py) also zero-shot accuracy from tokens, with `--masks` mean IoU. It needs the extra `eval`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, from any current directory

from benchmarks.baselines import load_images
from benchmarks.recipe import centre_crop, read_labels
from benchmarks.reconstruction import number, say, table
from benchmarks.speed import machine
from pyramid_tokenizer import PyramidTokenizer, Segmenter, TokenPyramid
from pyramid_tokenizer.evaluation import ConfusionMatrix, psnr
from pyramid_tokenizer.evaluation.bootstrap import bootstrap_difference
from pyramid_tokenizer.evaluation.confusion import ClassCounts
from pyramid_tokenizer.images.labelled import open_segmentation_set
from pyramid_tokenizer.images.labelled.labels import IGNORED
from pyramid_tokenizer.segmentation.segmenter import Mode
from pyramid_tokenizer.tokens.thinning import Gains, SplitOrder, split_order, thinned

SIDE_PX = 256
BATCH = 8
QUALITIES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 0.95)
RANGES = {"base levels": (0.08, 0.2), "all levels": (0.3, 0.5)}
"""Bits per pixel that the BD-rate is taken over."""
TARGETS = (22.0, 23.0, 24.0, 25.0, 26.0)
TOLERANCE = 0.3
BUDGETS = (64, 100, 400, 832, 1344)


class Photos:
    """Batches of images with their full pyramids and gains, which are measured once."""

    def __init__(self, tok: PyramidTokenizer, images: Tensor):
        self.tok, self.batches = tok, images.split(BATCH)
        say(f"{len(images)} images: encoding")
        self.full = [tok.encode(batch, levels=len(tok.quantizer.levels)) for batch in self.batches]

    def of_levels(self, levels: int) -> list[tuple[TokenPyramid, Gains]]:
        """Full pyramids of so many levels, and their gains."""
        return [
            (full[:levels], self.tok.gains(full[:levels], batch))
            for full, batch in zip(self.full, self.batches, strict=True)
        ]

    def point(self, pyramids: Sequence[TokenPyramid]) -> tuple[float, float]:
        """Bits per pixel and mean PSNR of decoded pyramids, one for each batch."""
        found = [psnr(self.tok.decode(tokens), batch) for tokens, batch in zip(pyramids, self.batches, strict=True)]
        rates = [tokens.bits_per_pixel for one in pyramids for tokens in one.unbind()]
        return sum(rates) / len(rates), float(torch.cat(found).mean())


Curve = list[tuple[float, float]]
"""Bits per pixel and dB, both rising."""


def bd_rate(curve: Curve, reference: Curve, rates: tuple[float, float]) -> float:
    """By how much a curve's rate differs from a reference's at equal dB: the mean over dB of the log ratio, as a share.

    Both curves are taken as straight lines between their points.

    Args:
        curve: Of what is measured.
        reference: Of what it is compared with.
        rates: The part of `curve`, in bits per pixel, that is compared.

    Source: G. Bjøntegaard, "Calculation of average PSNR differences between RD-curves" (2001), with lines in place of cubics.
    """
    low, high = (_between(curve, rate) for rate in rates)
    levels = [low + (high - low) * (step + 0.5) / 100 for step in range(100)]
    swapped = [[(dB, rate) for rate, dB in points] for points in (curve, reference)]
    ratios = [torch.tensor(_between(swapped[0], dB) / _between(swapped[1], dB)).log() for dB in levels]
    return float(torch.stack(ratios).mean().exp()) - 1


def _between(points: Curve, x: float) -> float:
    """The value at x of the line through points with rising x; outside, that of its ends."""
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x <= x1:
            return y0 + (y1 - y0) * max(0.0, x - x0) / (x1 - x0)
    return points[-1][1]


def curve_of(photos: Photos, parts: Sequence[tuple[TokenPyramid, Gains]], what: str) -> list[dict[str, Any]]:
    """One row per quality."""
    rows = []
    for quality in QUALITIES:
        pyramids = [photos.tok.thin(tokens, gains, quality=quality) for tokens, gains in parts]
        rate, dB = photos.point(pyramids)
        counts = torch.cat([tokens.token_counts for tokens in pyramids]).double()
        coarsest = parts[0][0][:1].num_tokens
        share = float((counts.mean() - coarsest) / (parts[0][0].num_tokens - coarsest))
        say(f"{what}, quality {quality}: {rate:.3f} bits per pixel, {dB:.2f} dB")
        rows.append(
            {
                "quality": quality,
                "bits_per_pixel": rate,
                "psnr": dB,
                "tokens": float(counts.mean()),
                "share": share,
                "fewest": int(counts.min()),
                "most": int(counts.max()),
            }
        )
    return rows


def without_half(full: TokenPyramid) -> int:
    """How many tokens are left without half of those of the finest level."""
    return full.num_tokens - full.ids[-1][0].numel() // 2


def losses(photos: Photos, parts: Sequence[tuple[TokenPyramid, Gains]]) -> list[dict[str, Any]]:
    """What is lost without half of the finest level's tokens, by three ways to choose them."""
    orders = [split_order(tokens, gains) for tokens, gains in parts]
    _, best = photos.point([tokens for tokens, _ in parts])
    tok, half = photos.tok, without_half(parts[0][0])

    def same_share(order: SplitOrder, tokens: TokenPyramid) -> TokenPyramid:
        return thinned(tokens, order.masks(order.within_tokens(half)))

    cases: dict[str, Callable[[], list[TokenPyramid]]] = {
        "in every image, by measured gains": lambda: [
            same_share(order, tokens) for order, (tokens, _) in zip(orders, parts, strict=True)
        ],
        "in every image, by gains estimated from tokens alone": lambda: [
            tok.thin(tokens, max_tokens=half) for tokens, _ in parts
        ],
        "over all images, by one price": lambda: _at_half(orders, parts, half),
    }
    rows = []
    for what, make in cases.items():
        pyramids = make()
        rate, dB = photos.point(pyramids)
        counts = torch.cat([tokens.token_counts for tokens in pyramids]).double().mean()
        rows.append({"what": what, "tokens": float(counts), "bits_per_pixel": rate, "psnr": dB, "loss": best - dB})
        say(f"{what}: {best - dB:.2f} dB less")
    return rows


def _at_half(
    orders: Sequence[SplitOrder], parts: Sequence[tuple[TokenPyramid, Gains]], half: int
) -> list[TokenPyramid]:
    """The pyramids above the price at which images keep half of their tokens on average."""
    prices = torch.cat([order.prices.flatten() for order in orders]).sort(descending=True).values
    low, high = 0, len(prices) - 1
    while low < high:
        middle = (low + high) // 2
        counts = [order.num_tokens.gather(1, order.above_price(float(prices[middle]))[:, None]) for order in orders]
        low, high = (middle + 1, high) if float(torch.cat(counts).double().mean()) < half else (low, middle)
    price = float(prices[low])
    return [
        thinned(tokens, order.masks(order.above_price(price))) for order, (tokens, _) in zip(orders, parts, strict=True)
    ]


def targets(photos: Photos) -> list[dict[str, Any]]:
    """How close decoded images come to `target_psnr`, of those that reach it with all tokens."""
    tok = photos.tok
    most = torch.cat([psnr(tok.decode(full), batch) for full, batch in zip(photos.full, photos.batches, strict=True)])
    root = torch.cat(
        [psnr(tok.decode(full[:1]), batch) for full, batch in zip(photos.full, photos.batches, strict=True)]
    )
    rows = []
    for target in TARGETS:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            pyramids = [tok.encode(batch, target_psnr=target) for batch in photos.batches]
        found = torch.cat([psnr(tok.decode(t), batch) for t, batch in zip(pyramids, photos.batches, strict=True)])
        can = (most >= target) & (root <= target)
        miss = (found - target).abs()[can]
        rows.append(
            {
                "target": target,
                "reachable": int(can.sum()),
                "images": len(found),
                "told": len(told),
                "close": float((miss <= TOLERANCE).double().mean()) if len(miss) else None,
                "worst": float(miss.max()) if len(miss) else None,
                "tokens": float(torch.cat([t.token_counts for t in pyramids]).double().mean()),
            }
        )
        say(f"target {target:g} dB: {percent(rows[-1]['close'])} of {len(miss)} within {TOLERANCE} dB")
    return rows


def budgets(photos: Photos) -> list[tuple[int, int]]:
    """The most tokens of an image at each `max_tokens`."""
    return [
        (most, max(photos.tok.encode(batch, max_tokens=most).num_tokens for batch in photos.batches))
        for most in BUDGETS
    ]


def zero_shot(tok: PyramidTokenizer, images: Path, labels: Path, *, limit: int) -> list[dict[str, Any]]:
    """Accuracy from full pyramids and from those with half of the finest level's tokens, at 160 px."""
    labelled = read_labels(images, labels, limit=limit)
    words, hits = tok.text.encode_names(labelled.names), {"full": 0, "half of the finest level's tokens": 0}
    for start in range(0, len(labelled.test), BATCH):
        batch = torch.cat([centre_crop(file, 160) for file in labelled.test[start : start + BATCH]])
        wanted = torch.tensor(labelled.targets[start : start + BATCH])
        full = tok.encode(batch)
        thin = tok.thin(full, tok.gains(full, batch), max_tokens=without_half(full))
        for what, tokens in zip(hits, (full, thin), strict=True):
            hits[what] += int((words.classify(tok.embedding(tokens)).labels.cpu() == wanted).sum())
    return [
        {"tokens": what, "accuracy": hit / len(labelled.test), "images": len(labelled.test)}
        for what, hit in hits.items()
    ]


def masks(seg: Segmenter, folder: Path, *, limit: int | None) -> list[dict[str, Any]]:
    """Mean IoU of a labelled set from full pyramids and from those with half of the finest level's tokens."""
    labelled = open_segmentation_set(folder, "folder", split="test")
    names, tok = labelled.protocol.names, seg.tok
    modes: list[Mode] = ["lookup", "decoder"] if seg.head is not None else ["lookup"]
    counts: dict[tuple[Mode, str], list[ClassCounts]] = {
        (mode, what): [] for mode in modes for what in ("full", "half")
    }
    for index in range(len(labelled) if limit is None else min(limit, len(labelled))):
        sample = labelled[index]
        full = tok.encode(sample.image)
        pyramids = {"full": full, "half": tok.thin(full, tok.gains(full, sample.image), max_tokens=without_half(full))}
        for (mode, what), own in counts.items():
            matrix = ConfusionMatrix(labelled.num_classes, ignore=IGNORED)
            matrix.add(seg.segment(pyramids[what], names, mode=mode).labels[0], sample.labels, name=sample.name)
            own.append(matrix.class_counts())
    return [mask_row(folder.name, mode, counts[mode, "full"], counts[mode, "half"]) for mode in modes]


def mask_row(name: str, mode: str, full: list[ClassCounts], half: list[ClassCounts]) -> dict[str, Any]:
    """Mean IoU of all images of a set, and the 95 % interval of what is lost, by drawing images."""
    found = {what: total(own).scores().miou_present for what, own in (("full", full), ("half", half))}
    low, high = bootstrap_difference(full, half)["miou_present"]
    say(f"{name}, {mode}: {found['full']:.3f} full, {found['half']:.3f} half")
    return {"set": name, "mode": mode, "images": len(full), **found, "lost": (low, high)}


def total(counts: Sequence[ClassCounts]) -> ClassCounts:
    """The counts of all images together."""
    fields = ("correct", "wanted", "predicted")
    return ClassCounts(**{field: torch.stack([getattr(own, field) for own in counts]).sum(0) for field in fields})


def measure(args: argparse.Namespace) -> dict[str, Any]:
    seg = Segmenter.from_pretrained(args.model)
    tok, quantizer = seg.tok, seg.tok.quantizer
    folder = args.images if args.images is not None else args.data / "recon" / "heldout"
    images = load_images(folder, side=SIDE_PX, limit=args.limit).float() / 255
    photos = Photos(tok, images)
    prefixes = [photos.point([full[:count] for full in photos.full]) for count in range(1, len(quantizer.levels) + 1)]
    found: dict[str, Any] = {"images": len(images), "fingerprint": tok.fingerprint, "prefixes": prefixes, "curves": {}}
    counts = {"base levels": quantizer.base_levels, "all levels": len(quantizer.levels)}
    for what, levels in counts.items():
        if what == "all levels" and levels == quantizer.base_levels:
            continue
        parts = photos.of_levels(levels)
        rows = curve_of(photos, parts, what)
        rate = bd_rate([(row["bits_per_pixel"], row["psnr"]) for row in rows], prefixes, RANGES[what])
        found["curves"][what] = {"rows": rows, "range": RANGES[what], "bd_rate": rate}
        say(f"{what}: BD-rate {rate:+.1%}")
    base = photos.of_levels(quantizer.base_levels)
    found |= {"losses": losses(photos, base), "targets": targets(photos), "budgets": budgets(photos)}
    if args.labels is not None:
        found["zero_shot"] = zero_shot(tok, args.data or args.images, args.labels, limit=args.labels_limit)
    found["masks"] = [row for folder in args.masks for row in masks(seg, folder, limit=args.masks_limit)]
    return found


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def to_markdown(found: dict[str, Any]) -> str:
    parts = [f"{machine()}; {found['images']} images, fingerprint {found['fingerprint'][:12]}", curves_table(found)]
    parts += [
        f"BD-rate, {what}, {curve['range'][0]:g} to {curve['range'][1]:g} bits per pixel: {100 * curve['bd_rate']:+.1f} %"
        for what, curve in found["curves"].items()
    ]
    lost = [
        (row["what"], number(row["tokens"], 0), number(row["bits_per_pixel"], 3), number(row["loss"], 2))
        for row in found["losses"]
    ]
    parts.append(table(("half of the finest level's tokens", "tokens", "bits per pixel", "dB lost"), lost))
    parts.append(targets_table(found["targets"]))
    parts.append(table(("max_tokens", "most tokens of an image"), found["budgets"]))
    if "zero_shot" in found:
        named = [(row["tokens"], percent(row["accuracy"]), row["images"]) for row in found["zero_shot"]]
        parts.append(table(("zero-shot from", "accuracy", "images"), named))
    if found["masks"]:
        parts.append(masks_table(found["masks"]))
    return "\n\n".join(parts) + "\n"


def curves_table(found: dict[str, Any]) -> str:
    """Prefixes of full pyramids, then sparse ones by quality."""
    rows = [(f"levels 0-{i}", "", number(rate, 3), number(dB, 2), "") for i, (rate, dB) in enumerate(found["prefixes"])]
    for what, curve in found["curves"].items():
        rows += [
            (
                f"{what}, quality {row['quality']}",
                percent(row["share"]),
                number(row["bits_per_pixel"], 3),
                number(row["psnr"], 2),
                f"{row['fewest']} to {row['most']}",
            )
            for row in curve["rows"]
        ]
    return table(("tokens", "finer tokens kept", "bits per pixel", "PSNR, dB", "tokens of an image"), rows)


def masks_table(found: Sequence[dict[str, Any]]) -> str:
    """What masks lose without half of the finest level's tokens."""
    head = ("set", "images", "mode", "mIoU, full", "mIoU, half of the finest level's tokens", "lost, 95 % interval")
    rows = [
        (
            row["set"],
            row["images"],
            row["mode"],
            *(f"{100 * row[what]:.2f} %" for what in ("full", "half")),
            " to ".join(f"{100 * bound:.2f}" for bound in row["lost"]),
        )
        for row in found
    ]
    return table(head, rows)


def targets_table(found: Sequence[dict[str, Any]]) -> str:
    """How closely each target is met."""
    head = (
        "target",
        "images that can have it",
        f"within {TOLERANCE} dB",
        "worst, dB",
        "told that they cannot",
        "tokens",
    )
    rows = [
        (
            f"{row['target']:g} dB",
            f"{row['reachable']} of {row['images']}",
            percent(row["close"]),
            number(row["worst"], 2),
            row["told"],
            number(row["tokens"], 0),
        )
        for row in found
    ]
    return table(head, rows)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", type=Path, metavar="DIR", help="a folder of images")
    source.add_argument("--data", type=Path, metavar="DIR", help="the research data, with recon/heldout")
    parser.add_argument(
        "--model", default="tiny", help="bundled name, directory or Hub repository (default: %(default)s)"
    )
    parser.add_argument("--limit", type=int, help="only the first so many images")
    parser.add_argument("--labels", type=Path, metavar="CSV", help="file and label, as for benchmarks/recipe.py")
    parser.add_argument("--labels-limit", type=int, default=700, help="images to name, at most (default: %(default)s)")
    parser.add_argument("--masks", type=Path, nargs="*", default=[], help="labelled sets whose masks are measured")
    parser.add_argument("--masks-limit", type=int, help="only the first so many test images of each of them")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    torch.set_num_threads(args.threads)
    found = measure(args)
    print(to_markdown(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
