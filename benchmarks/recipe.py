"""Measures the recipe and variants of it on any backbone and any labelled folder of images.

    python benchmarks/recipe.py --backbone DIR|NAME [--pretrained TAG] --images DIR --labels CSV [--variants recipe,bottom-up]
                                [--masks DIR ...] [--decoder-steps 1000]

The CSV has the columns `file` (relative to DIR) and `label`, and may have `split`: labelled images of the split "test" are kept
out of the fit and measured; without that column, a tenth of the labelled images, chosen by a hash of their file name, is. Images
without a label serve the fit alone. Every variant is fitted without gradients on the same random crops; of the recipe,
`--decoder-steps` also trains a decoder, on 8 crops of 128 px a step. The columns of the table:

    bits/px          bits per pixel of the tokens
    zero-shot        share of the kept-out images whose label, among all labels, is the most similar name: by the backbone's
                     own image embedding, and by the image embedding read from tokens
    kept             the second as a share of the first, with the interval that 95 % of 2,000 redraws of the images fall in
    dB by prefix     mean PSNR of the linear reconstruction from the first level, the first two, and so on
    as dense         share of pixels that get the same name from tokens (look-up) as from the backbone's dense features
    mIoU of DIR      of the first images of a set of `--masks` (images/, labels/*.png, classes.txt, splits/test.txt): by tokens
                     (look-up), by the backbone's dense features, and the first as a share of the second
    dB with decoder  as `dB by prefix`, after `--decoder-steps`

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
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, from any current directory

from benchmarks import twins
from benchmarks.reconstruction import number, say, table
from pyramid_tokenizer import PyramidTokenizer, Segmenter
from pyramid_tokenizer.config.models import QuantizerConfig
from pyramid_tokenizer.config.training import TrainConfig
from pyramid_tokenizer.evaluation import evaluate_segmentation, label_images, psnr
from pyramid_tokenizer.images import RandomCrops
from pyramid_tokenizer.images.labelled import open_segmentation_set
from pyramid_tokenizer.images.read import to_batch
from pyramid_tokenizer.training import train

BATCH = 16
DECODER = {"batch_size": 8, "crop_px": 128, "codebooks": "frozen"}
"""Settings of the decoder's training: on one core, 1,000 steps take ten minutes."""


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


def without_image_tokens(config: QuantizerConfig, _: Sequence[int]) -> QuantizerConfig:
    """An image's embedding is told by the cells alone."""
    return dataclasses.replace(config, image_codebooks=())


def without_dense(config: QuantizerConfig, _: Sequence[int]) -> QuantizerConfig:
    """No level reads the dense features; they stay part of the coarse levels' targets."""
    return _with_levels(config, [{"reads_dense": False}] * len(config.levels))


def equal_entries(config: QuantizerConfig, _: Sequence[int]) -> QuantizerConfig:
    """4,096 entries at every level."""
    return _with_levels(config, [{"codebook_size": 4096}] * len(config.levels))


def more_semantics(config: QuantizerConfig, _: Sequence[int]) -> QuantizerConfig:
    """Higher semantic weights, .8 and then .7; the finest level reads the dense features too, with a weight of .2."""
    weights = (0.8, *[0.7] * (len(config.levels) - 2), 0.2)
    return _with_levels(config, [{"semantic_weight": weight, "reads_dense": True} for weight in weights])


def _with_levels(config: QuantizerConfig, changes: Sequence[dict[str, Any]]) -> QuantizerConfig:
    levels = zip(config.levels, changes, strict=True)
    return dataclasses.replace(config, levels=tuple(dataclasses.replace(level, **change) for level, change in levels))


VARIANTS: dict[str, Change] = {
    change.__name__.replace("_", "-"): change
    for change in (
        recipe,
        last_layer,
        without_stem,
        bottom_up,
        without_image_tokens,
        without_dense,
        equal_entries,
        more_semantics,
    )
}


def read_labels(images: Path, labels: Path, *, limit: int) -> Labelled:
    """The split of a labelled folder.

    Args:
        images: The folder.
        labels: CSV with the columns `file` and `label`, and perhaps `split`.
        limit: Images to measure, at most; others that are kept out are left out of everything.
    """
    with open(labels, encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    rows = [(row["file"], row["label"].replace("_", " ").strip(), _is_test(row)) for row in found]
    kept_out = sorted((_hash(file), file, label) for file, label, is_test in rows if label and is_test)
    test = kept_out[:limit]
    names = sorted({label for _, label, _ in rows if label})
    if not test:
        raise SystemExit(f"expected labelled images of which a tenth can be kept out, got {len(rows)} rows in {labels}")
    return Labelled(
        fit=[images / file for file, label, is_test in rows if not (label and is_test)],
        test=[images / file for _, file, _ in test],
        targets=[names.index(label) for _, _, label in test],
        names=names,
    )


def _is_test(row: dict[str, str]) -> bool:
    return row["split"] == "test" if "split" in row else _hash(row["file"]) % 10 == 0


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
    own: list[Tensor] = []
    read: list[Tensor] = []
    for batch in images.test.split(BATCH):
        embedding = tok.features(batch, with_dense=True).embedding
        assert embedding is not None
        own.append(words.class_scores(F.normalize(embedding.cpu().float(), dim=1) @ words.embeddings.T).argmax(1))
        read.append(tok.classify(tok.encode(batch), images.names).labels.cpu())
    hits = [(torch.cat(found) == images.targets).double() for found in (own, read)]
    by_backbone, by_tokens = (float(found.mean()) for found in hits)
    return {
        "bits_per_pixel": tok.encode(images.shown[:1]).bits_per_pixel,
        "zero_shot_backbone": by_backbone,
        "zero_shot_tokens": by_tokens,
        "kept": by_tokens / by_backbone if by_backbone else None,
        "kept_interval": kept_interval(*hits),
        "psnr": reconstruct(tok, images.shown),
        "as_dense": agreement(tok, images) if tok.backbone.has_dense else None,
    }


def kept_interval(by_backbone: Tensor, by_tokens: Tensor, *, draws: int = 2000) -> list[float] | None:
    """The interval of the share kept that 95 % of redraws of the images fall in; None where the backbone names nothing.

    Args:
        by_backbone: (N,) float64, 1 where the backbone names an image right.
        by_tokens: The same for tokens.
        draws: How often N images are drawn with replacement.
    """
    rows = torch.randint(len(by_tokens), (draws, len(by_tokens)), generator=torch.Generator().manual_seed(0))
    backbone, tokens = by_backbone[rows].mean(1), by_tokens[rows].mean(1)
    shares = (tokens / backbone)[backbone > 0]
    return shares.quantile(torch.tensor([0.025, 0.975], dtype=shares.dtype)).tolist() if len(shares) else None


def measure_masks(tok: PyramidTokenizer, folder: Path, *, limit: int) -> dict[str, Any]:
    """Mean IoU of the first images of a labelled set, by look-up from tokens and by the backbone's dense features."""
    labelled, segmenter = open_segmentation_set(folder, "folder", split="test"), Segmenter(tok)
    samples = [labelled[i] for i in range(min(limit, len(labelled)))]
    found: dict[str, Any] = {"set": folder.name, "images": len(samples)}
    for mode in ("lookup", "dense"):
        predict = label_images(segmenter, labelled.protocol, mode=mode)
        names = labelled.protocol.names
        with warnings.catch_warnings(action="ignore"):  # in a part of a set some classes do not occur
            scores = evaluate_segmentation(predict, samples, num_classes=len(names), names=names, bootstrap_samples=0)
        found[mode] = scores.scores.miou_present
    return found | {"kept": found["lookup"] / found["dense"] if found["dense"] else None}


def reconstruct(tok: PyramidTokenizer, images: Tensor) -> list[float]:
    """Mean PSNR in dB from each prefix of levels."""
    values: list[list[Tensor]] = [[] for _ in range(tok.quantizer.base_levels)]
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


def row_of(name: str, base: PyramidTokenizer, images: Images, args: argparse.Namespace) -> dict[str, Any]:
    """A variant's figures: fitted anew on the backbone of `base`."""
    say(f"{name}: fitting")
    quantizer = VARIANTS[name](twins.without_detail(base.config).quantizer, base.backbone.strides)
    tok = PyramidTokenizer.from_config(
        dataclasses.replace(base.config, quantizer=quantizer, fingerprint=""), backbone=base.backbone
    ).to(base.device)
    tok.fit(images.crops)
    say(f"{name}: measuring")
    row = {"variant": name, **measure(tok, images)}
    row["masks"] = [measure_masks(tok, folder, limit=args.masks_limit) for folder in args.masks]
    if args.decoder_steps and name == "recipe":
        say(f"{name}: training a decoder")
        photos = [image for batch in images.crops for image in batch]
        config = TrainConfig(decoder_steps=args.decoder_steps, log_every=100, **DECODER)
        train(tok, photos, config=config, log=lambda figures: say(f"step {figures['step']}: {figures['loss']:.3f}"))
        row["psnr_decoder"] = reconstruct(tok, images.shown)
    return row


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
    head = ["variant", "bits/px", "zero-shot, backbone", "zero-shot, tokens", "kept", "dB by prefix", "as dense"]
    head += [f"mIoU of {found['set']}: tokens, dense, kept" for found in rows[0]["masks"]]
    head += ["dB with decoder"] if any("psnr_decoder" in row for row in rows) else []
    return table(head, [_cells(row, len(head)) for row in rows])


def _cells(row: dict[str, Any], width: int) -> list[str]:
    kept, interval = _percent(row["kept"]), row["kept_interval"]
    dense = "-" if row["as_dense"] is None else _percent(row["as_dense"])
    cells = [
        row["variant"],
        number(row["bits_per_pixel"], 3),
        _percent(row["zero_shot_backbone"]),
        _percent(row["zero_shot_tokens"]),
        kept if interval is None else f"{kept} ({_percent(interval[0])} to {_percent(interval[1])})",
        _decibels(row["psnr"]),
        dense,
        *(
            f"{_percent(found['lookup'])}, {_percent(found['dense'])}, {_percent(found['kept'])}"
            for found in row["masks"]
        ),
    ]
    decoder = [_decibels(row["psnr_decoder"]) if "psnr_decoder" in row else "-"]
    return cells + decoder * (width - len(cells))


def _percent(share: float | None) -> str:
    return "-" if share is None else number(100 * share, 1) + " %"


def _decibels(values: Sequence[float]) -> str:
    return " ".join(number(value, 2) for value in values)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True, help="open_clip model name, folder or hf-hub:ORG/REPO")
    parser.add_argument("--pretrained", help="with a model name: open_clip's tag of the weights, or a checkpoint file")
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--labels", type=Path, required=True, help="CSV with the columns file and label")
    parser.add_argument("--variants", type=names_of, default=list(VARIANTS), help=f"some of {','.join(VARIANTS)}")
    parser.add_argument("--crops", type=int, default=4800, help="crops to fit on (default: %(default)s)")
    parser.add_argument("--px", type=int, default=160, help="side of all crops (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=200, help="images to name, at most (default: %(default)s)")
    parser.add_argument("--shown", type=int, default=40, help="of these, images to reconstruct and to segment")
    parser.add_argument("--masks", type=Path, nargs="*", default=[], help="labelled sets whose masks are measured")
    parser.add_argument("--masks-limit", type=int, default=60, help="images of each of them (default: %(default)s)")
    parser.add_argument("--decoder-steps", type=int, default=0, help="steps of a decoder for the recipe")
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
    rows = [row_of(name, base, images, args) for name in args.variants]
    print(to_markdown(rows))
    if args.json:
        facts = {"backbone": args.backbone, "crops": args.crops, "px": args.px, "test_images": len(labelled.test)}
        args.json.write_text(json.dumps({**facts, "names": len(labelled.names), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
