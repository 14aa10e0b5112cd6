"""Measures the recipe and variants of it on any backbone and any labelled folder of images.

    python benchmarks/recipe.py --backbone DIR|NAME [--pretrained TAG] --images DIR --labels CSV [--variants recipe,bottom-up]

The CSV has the columns `file` (relative to DIR) and `label`. A tenth of the labelled images, chosen by a hash of their file
name, is kept out of the fit and measured; images without a label serve the fit alone. Every variant is fitted without
gradients on the same random crops; no decoder is trained. The columns of the table:

    bits/px          bits per pixel of the tokens
    zero-shot        share of the kept-out images whose label, among all labels, is the most similar name: by the backbone's
                     own image embedding, and by the image embedding read from tokens
    kept             the second as a share of the first
    dB by prefix     mean PSNR of the linear reconstruction from the first level, the first two, and so on
    as dense         share of pixels that get the same name from tokens (look-up) as from the backbone's dense features

Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, from any current directory

from benchmarks.reconstruction import number, say, table
from pyramid_tokenizer import PyramidTokenizer, Segmenter
from pyramid_tokenizer.config.models import QuantizerConfig
from pyramid_tokenizer.evaluation import psnr
from pyramid_tokenizer.images import RandomCrops
from pyramid_tokenizer.images.read import to_batch

BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Images to fit on, and images to measure, each with the index of its name."""

    fit: list[Path]
    test: list[Path]
    targets: list[int]
    names: list[str]


@dataclass(frozen=True, kw_only=True)
class Images:
    """What every variant sees."""

    crops: list[Tensor]
    """Batches (B, 3, px, px) to fit on."""
    test: Tensor
    """(N, 3, px, px), the kept-out images."""
    shown: Tensor
    """(M, 3, px, px), those of them that are reconstructed and segmented."""
    targets: Tensor
    """(N,) int64, the index of each kept-out image's name."""
    names: list[str]


Change = Callable[[QuantizerConfig, Sequence[int]], QuantizerConfig]
"""From the recipe's levels and the strides of the backbone's maps (coarse to fine, the stem's last) to a variant's levels."""


def recipe(config: QuantizerConfig, _: Sequence[int]) -> QuantizerConfig:
    """What the package uses."""
    return config


def last_layer(config: QuantizerConfig, _: Sequence[int]) -> QuantizerConfig:
    """Every level reads the map of the deepest block in place of the stem."""
    return _with_levels(config, [{"maps": (0,)}] * len(config.levels))


def without_stem(config: QuantizerConfig, strides: Sequence[int]) -> QuantizerConfig:
    """A level reads the block of its own stride and the next finer one; of a ViT, coarse levels read deep blocks."""
    blocks = strides[:-1]
    count, last = len(config.levels), len(blocks) - 1
    changes = []
    for index, level in enumerate(config.levels):
        own = next((i for i, stride in enumerate(blocks) if level.stride % stride == 0), last)
        own = index * last // (count - 1) if len(set(blocks)) == 1 else own
        changes.append({"maps": tuple(range(own, min(own + 1, last) + 1))})
    return _with_levels(config, changes)


def bottom_up(config: QuantizerConfig, _: Sequence[int]) -> QuantizerConfig:
    """The paper's composition: each level reads the codes of the next finer one and stands for the whole image."""
    return dataclasses.replace(config, composition="bottom_up")


def without_dense(config: QuantizerConfig, _: Sequence[int]) -> QuantizerConfig:
    """No level reads the dense features; they stay part of the coarse levels' targets."""
    return _with_levels(config, [{"reads_dense": False}] * len(config.levels))


def equal_entries(config: QuantizerConfig, _: Sequence[int]) -> QuantizerConfig:
    """4,096 entries at every level."""
    return _with_levels(config, [{"codebook_size": 4096}] * len(config.levels))


def _with_levels(config: QuantizerConfig, changes: Sequence[dict[str, Any]]) -> QuantizerConfig:
    levels = zip(config.levels, changes, strict=True)
    return dataclasses.replace(config, levels=tuple(dataclasses.replace(level, **change) for level, change in levels))


VARIANTS: dict[str, Change] = {
    change.__name__.replace("_", "-"): change
    for change in (recipe, last_layer, without_stem, bottom_up, without_dense, equal_entries)
}


def read_labels(images: Path, labels: Path, *, limit: int) -> Labelled:
    """The split of a labelled folder.

    Args:
        images: The folder.
        labels: CSV with the columns `file` and `label`.
        limit: Images to measure, at most; the others of the kept-out tenth are left out of everything.
    """
    with open(labels, encoding="utf-8", newline="") as file:
        rows = [(row["file"], row["label"].replace("_", " ").strip()) for row in csv.DictReader(file)]
    kept_out = sorted((_hash(file), file, label) for file, label in rows if label and _hash(file) % 10 == 0)
    test = kept_out[:limit]
    names = sorted({label for _, label in rows if label})
    if not test:
        raise SystemExit(f"expected labelled images of which a tenth can be kept out, got {len(rows)} rows in {labels}")
    return Labelled(
        fit=[images / file for file, label in rows if not label or _hash(file) % 10],
        test=[images / file for _, file, _ in test],
        targets=[names.index(label) for _, _, label in test],
        names=names,
    )


def _hash(text: str) -> int:
    return int(hashlib.sha1(text.encode()).hexdigest(), 16)


def read_images(labelled: Labelled, *, num_crops: int, px: int, num_shown: int) -> Images:
    """Reads all images once: random crops to fit on, centre crops to measure."""
    crops = RandomCrops(labelled.fit, batch_size=BATCH, crop_px=px)
    test = torch.cat([centre_crop(file, px) for file in labelled.test])
    return Images(
        crops=[crops[i][: num_crops - i * BATCH] for i in range(math.ceil(num_crops / BATCH))],
        test=test,
        shown=test[:num_shown],
        targets=torch.tensor(labelled.targets),
        names=labelled.names,
    )


def centre_crop(file: Path, px: int) -> Tensor:
    """The central square of an image whose short side is resized to `px`: (1, 3, px, px) in [0, 1]."""
    image = to_batch(file, size=px)
    top, left = ((side - px) // 2 for side in image.shape[-2:])
    return image[..., top : top + px, left : left + px]


@torch.no_grad()
def measure(tok: PyramidTokenizer, images: Images) -> dict[str, Any]:
    """The figures of a fitted tokenizer; `psnr` and `as_dense` on the images that are shown."""
    words = tok.text.encode_names(images.names)
    own, read = [], []
    for batch in images.test.split(BATCH):
        embedding = tok.features(batch, with_dense=True).embedding
        assert embedding is not None
        own.append(words.class_scores(F.normalize(embedding.cpu().float(), dim=1) @ words.embeddings.T).argmax(1))
        read.append(tok.classify(tok.encode(batch), images.names).labels.cpu())
    by_backbone, by_tokens = (float((torch.cat(found) == images.targets).double().mean()) for found in (own, read))
    return {
        "bits_per_pixel": tok.encode(images.shown[:1]).bits_per_pixel,
        "zero_shot_backbone": by_backbone,
        "zero_shot_tokens": by_tokens,
        "kept": by_tokens / by_backbone if by_backbone else None,
        "psnr": reconstruct(tok, images.shown),
        "as_dense": agreement(tok, images) if tok.backbone.has_dense else None,
    }


def reconstruct(tok: PyramidTokenizer, images: Tensor) -> list[float]:
    """Mean PSNR in dB from each prefix of levels."""
    values: list[list[Tensor]] = [[] for _ in tok.quantizer.strides]
    for batch in images.split(BATCH):
        tokens = tok.encode(batch)
        for count, found in enumerate(values, start=1):
            found.append(psnr(tok.decode(tokens[:count]).cpu(), batch))
    return [float(torch.cat(found).mean()) for found in values]


def agreement(tok: PyramidTokenizer, images: Images) -> float:
    """Share of pixels with the same name from tokens as from the dense features."""
    segmenter, same = Segmenter(tok), []
    for batch in images.shown.split(BATCH):
        by_tokens, by_dense = (segmenter.segment(batch, images.names, mode=mode).labels for mode in ("lookup", "dense"))
        same.append((by_tokens == by_dense).double().mean((1, 2)))
    return float(torch.cat(same).mean())


def row_of(name: str, base: PyramidTokenizer, images: Images) -> dict[str, Any]:
    """A variant's figures: fitted anew on the backbone of `base`."""
    say(f"{name}: fitting")
    quantizer = VARIANTS[name](base.config.quantizer, base.backbone.strides)
    tok = PyramidTokenizer.from_config(
        dataclasses.replace(base.config, quantizer=quantizer, fingerprint=""), backbone=base.backbone
    ).to(base.device)
    tok.fit(images.crops)
    say(f"{name}: measuring")
    return {"variant": name, **measure(tok, images)}


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
    head = ("variant", "bits/px", "zero-shot, backbone", "zero-shot, tokens", "kept", "dB by prefix", "as dense")
    return table(head, [_cells(row) for row in rows])


def _cells(row: dict[str, Any]) -> list[str]:
    shares = (row["zero_shot_backbone"], row["zero_shot_tokens"], row["kept"])
    shown = [number(share and 100 * share, 1) + " %" for share in shares]
    dense = "-" if row["as_dense"] is None else f"{row['as_dense']:.1%}".replace("%", " %")
    return [
        row["variant"],
        number(row["bits_per_pixel"], 3),
        *shown,
        " ".join(number(value, 2) for value in row["psnr"]),
        dense,
    ]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True, help="open_clip model name, folder or hf-hub:ORG/REPO")
    parser.add_argument("--pretrained", help="with a model name: open_clip's tag of the weights, or a checkpoint file")
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--labels", type=Path, required=True, help="CSV with the columns file and label")
    parser.add_argument("--variants", type=names_of, default=list(VARIANTS), help=f"some of {','.join(VARIANTS)}")
    parser.add_argument("--crops", type=int, default=1200, help="crops to fit on (default: %(default)s)")
    parser.add_argument("--px", type=int, default=160, help="side of all crops (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=200, help="images to name, at most (default: %(default)s)")
    parser.add_argument("--shown", type=int, default=40, help="of these, images to reconstruct and to segment")
    parser.add_argument("--device", default="cpu", help="where the backbone runs (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="torch threads")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args(argv)


def names_of(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(VARIANTS)}, got {unknown[0]!r}")
    return names


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    base = PyramidTokenizer.from_backbone(args.backbone, pretrained=args.pretrained).to(args.device)
    labelled = read_labels(args.images, args.labels, limit=args.limit)
    say(f"{len(labelled.fit)} images to fit on, {len(labelled.test)} kept out, {len(labelled.names)} names")
    images = read_images(labelled, num_crops=args.crops, px=args.px, num_shown=args.shown)
    rows = [row_of(name, base, images) for name in args.variants]
    print(to_markdown(rows))
    if args.json:
        facts = {"backbone": args.backbone, "crops": args.crops, "px": args.px, "test_images": len(labelled.test)}
        args.json.write_text(json.dumps({**facts, "names": len(labelled.names), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
