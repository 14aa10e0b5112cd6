"""The ablations of the semantic branch: which trunk a segmentation head reads, and what is trained together with it.

`ablations.py --segmentation` prints them. Every row trains a head on the same frozen ids, with the same crops and seed, on the
train splits of seg/*, and starts from the masks of the look-up. Names in `KEPT_OUT` (train_tiny/texts.py) are used neither as
labels nor as words. The rows are measured on the val splits of seg/* and on recon/val.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.reconstruction import DECODE_BATCH, SIDE_PX, decode, encode, number, say, score, table
from examples.research.ablations_kept import kept
from examples.research.segmentation import learned_row
from examples.research.segmentation_rows import CellMap, Names, best_of, only, pixel_scores, progress
from examples.research.segmentation_tables import bounds, percent
from pyramid_tokenizer import PyramidTokenizer, Segmenter
from pyramid_tokenizer.config.models import SegmentationConfig
from pyramid_tokenizer.evaluation import ConfusionMatrix
from pyramid_tokenizer.evaluation.confusion import ClassCounts
from pyramid_tokenizer.images.labelled import SegmentationSet, open_segmentation_set
from pyramid_tokenizer.images.labelled.labels import IGNORED
from pyramid_tokenizer.training import TrainConfig, train_segmentation

SETS = ("camvid", "msrc")
"""Those of seg/* that have a val split; heads train on these alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadVariant:
    """One row."""

    title: str
    what: str
    trains: bool = True
    """False has no head: masks by look-up, which is where every head starts."""
    shared_decoder: bool = True
    decoupled: bool = True


# A trunk of its own and joint learning do not go together: the decoder reads the trunk that it shares with the head.
VARIANTS = {
    "look-up": HeadVariant(
        title="no head: the look-up", what="where all heads start: masks by look-up, nothing trained", trains=False
    ),
    "shared": HeadVariant(title="shared, decoupled", what="the default: the head reads the decoder's trunk, frozen"),
    "own-trunk": HeadVariant(
        title="own trunk, decoupled",
        what="the head has a trunk of its own, which begins as the decoder's and learns",
        shared_decoder=False,
    ),
    "joint": HeadVariant(
        title="shared, joint", what="trunk and pixel decoder learn with the head, for masks and pixels", decoupled=False
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadSettings:
    """What all rows of the table share."""

    head_steps: int = 600
    """Of a head."""
    batch_size: int = 8
    """Crops per step."""
    crop_px: int = 192
    """Side of a crop."""
    bf16: bool = False
    """Whether heads train in bfloat16."""
    short_side_px: int = 256
    """Of a labelled image, as it is seen."""
    labelled: int | None = None
    """Measured images of each val split; None takes all."""
    val_images: int = 100
    """Measured images of recon/val."""
    side_px: int = SIDE_PX
    """Side of these."""


QUICK = HeadSettings(head_steps=5, labelled=2, val_images=2)


def open_sets(data: Path, split: str) -> dict[str, SegmentationSet]:
    """That split of every set."""
    return {name: open_segmentation_set(data / "seg" / name, split=split) for name in SETS}


def trained(
    variant: HeadVariant, base: PyramidTokenizer, sets: Sequence[SegmentationSet], settings: HeadSettings
) -> Segmenter:
    """A head on a copy of the base, which itself stays as it was."""
    shape = base.config.segmentation or SegmentationConfig()
    plan = TrainConfig(
        head_steps=settings.head_steps,
        batch_size=settings.batch_size,
        crop_px=settings.crop_px,
        decoupled=variant.decoupled,
        warmup_steps=settings.head_steps // 10,
        # the default remembers nearly as long as such a run lasts
        ema_decay=max(0.0, 1 - 10 / max(1, settings.head_steps)),
        mixed_precision="bf16" if settings.bf16 else "no",
    )
    with contextlib.redirect_stdout(sys.stderr):
        return train_segmentation(
            copy.deepcopy(base),
            sets,
            config=plan,
            segmentation=dataclasses.replace(shape, shared_decoder=variant.shared_decoder),
            left_out={labelled.names[i] for labelled in sets for i in Names.of(labelled.names).kept_out},
        )


def num_trained(variant: HeadVariant, seg: Segmenter) -> int:
    """Parameters that learned."""
    if seg.head is None:
        return 0
    parts = [seg.head] if variant.decoupled else [seg.head, seg.tok.trunk, seg.tok.pixel_decoder]
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


def masks(seg: Segmenter, name: str, labelled: SegmentationSet, settings: HeadSettings) -> dict[str, Any]:
    """Scores of a set's masks among the learned names, from tokens alone: by the head or, without one, by look-up."""
    names, images = Names.of(labelled.names), list[ClassCounts]()
    words = seg.text.encode_names(names.all)
    for index in progress(labelled, settings.labelled, lambda text: say(f"{name} val: {text}")):
        sample = labelled[index]
        tokens = seg.tok.encode(sample.image, size=settings.short_side_px)
        guidance = seg.guidance(tokens)
        cells = guidance.lookup if guidance.refined is None else guidance.refined
        where = CellMap(cells=cells, stride=seg.tok.trunk.strides[-1])
        scores = pixel_scores(where, words, seen=tokens.image_size, size=tuple(sample.labels.shape))
        matrix = ConfusionMatrix(len(names.all), ignore=IGNORED)
        matrix.add(best_of(scores, names.learned), only(sample.labels, names.learned))
        images.append(matrix.class_counts())
    return learned_row("look-up" if seg.head is None else "decoder", images)


def measure(seg: Segmenter, sets: dict[str, SegmentationSet], images: Tensor, settings: HeadSettings) -> dict[str, Any]:
    """A row's figures: masks of every set, and the PSNR of each prefix of levels on images (N, 3, H, W) uint8."""
    tokens = encode(seg.tok, images, DECODE_BATCH)
    prefixes = [tokens[:count] for count in range(1, len(tokens) + 1)]
    scores = [score(f"{len(prefix)} levels", images, decode(seg.tok, prefix).images, None) for prefix in prefixes]
    return {
        "masks": {name: masks(seg, name, labelled, settings) for name, labelled in sets.items()},
        "psnr": [row.psnr for row in scores],
    }


def row_of(
    name: str, base: PyramidTokenizer, images: Tensor, *, data: Path, out: Path, settings: HeadSettings
) -> dict[str, Any]:
    """A variant's figures: those kept in `out`, or new ones, which are kept there."""
    variant = VARIANTS[name]

    def make() -> dict[str, Any]:
        say(f"{variant.title}: {variant.what}")
        began = time.perf_counter()
        train = list(open_sets(data, "train").values())
        seg = trained(variant, base, train, settings) if variant.trains else Segmenter(base)
        minutes = (time.perf_counter() - began) / 60 if variant.trains else 0.0
        return {
            "title": variant.title,
            "trained_parameters": num_trained(variant, seg),
            "minutes": minutes,
            **measure(seg, open_sets(data, "val"), images, settings),
        }

    made_from = {
        "settings": dataclasses.asdict(settings),
        "config": dataclasses.asdict(base.config),
        "weights": digest(base),
        "head": {field: getattr(variant, field) for field in ("trains", "shared_decoder", "decoupled")},
    }
    return kept(out, f"head-{name}", made_from, make)


def digest(tok: PyramidTokenizer) -> str:
    """Of every trained part: the fingerprint leaves the decoder out, on which a head and its pixels stand."""
    tensors = sorted(tok.own_tensors().items())
    both = (part for name, tensor in tensors for part in (name.encode(), tensor.cpu().contiguous().numpy().tobytes()))
    return hashlib.sha256(b"".join(both)).hexdigest()[:16]


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """One table."""
    masks = [column for name in SETS for column in (f"{name} mIoU", "95 %")]
    lines = [
        (
            row["title"],
            *(cell for name in SETS for cell in mask_cells(row["masks"][name])),
            " / ".join(number(psnr, 2) for psnr in row["psnr"]),
            f"{row['trained_parameters']:,}",
            number(row["minutes"], 1),
        )
        for row in rows
    ]
    return table(("decoder, learning", *masks, "PSNR, dB", "trained parameters", "minutes"), lines)


def mask_cells(scores: dict[str, Any]) -> tuple[str, str]:
    return percent(scores["miou_present"]), bounds(scores["interval"])
