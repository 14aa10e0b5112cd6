"""The images that the bundled CLIP may see, what is known about each, and the random crops of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from texts import (
    clean_name,
    is_kept_out,
    is_test_row,
    read_captions,
    read_rows,
    read_wide,
    seg_names,
    training_captions,
    wide_captions,
    wide_kept_out_names,
)
from torch import Tensor

# Frames of one drive, and fashion photographs: less of each than of the rest.
SAMPLING = {"camvid": 0.3, "ccp": 0.6, "cocoviic": 0.7}
CAPTIONED = 3.0
MASKED = 1.5
SMALL = 0.6
"""How often images are drawn whose short side is below 96 px."""


@dataclass(frozen=True)
class TrainingImage:
    """A training image: `label` '' where unknown; `dense` the file of its class per pixel, None where unknown."""

    file: Path
    source: str
    label: str = ""
    dense: Path | None = None
    captions: tuple[str, ...] = ()
    small: bool = False


def training_images(data: Path) -> list[TrainingImage]:
    """recon/train without test rows, the train photos of wide/, and the train splits of seg/*, in a fixed order.

    Images with a kept-out label are left out. Of a photo with several labels, the first is its name, except in
    voc2012, where the order says nothing: such a photo has its mask alone.
    """
    rows, wide = read_rows(data), read_wide(data)
    kept_out = wide_kept_out_names(data)
    left_out = data / "wide" / "recon_train_rows_with_kept_out_names.txt"
    left_out_files = set(left_out.read_text().split("\n")) if left_out.exists() else set()
    photos = []
    for row in rows:
        label = row["label"]
        hidden = label in kept_out or is_kept_out(label) or row["file"] in left_out_files
        if label and (is_test_row(row["file"]) or hidden):
            continue
        photos.append(TrainingImage(data / "recon" / row["file"], row["source"], label))
    captions = wide_captions(data)
    for row in wide:
        if not row["file"].startswith("seg/"):
            label = clean_name(row["labels"].split(";")[0])
            texts = captions.get(row["file"], ())
            small = min(int(row["width"]), int(row["height"])) < 96
            photos.append(TrainingImage(data / row["file"], row["source"], label, captions=texts, small=small))
    return photos + list(_masked_images(data, {row["file"]: row["labels"] for row in wide}))


def _masked_images(data: Path, labels: dict[str, str]) -> Iterator[TrainingImage]:
    """The train splits of seg/*, with the labels that wide/ knows of them."""
    allowed = set(training_captions(data))
    captions = {Path(row["image"]).stem: row["captions"] for row in read_captions(data) if row["split"] == "train"}
    more = wide_captions(data)
    for folder in sorted((data / "seg").iterdir()):
        images = {path.stem: path for path in (folder / "images").iterdir()}
        for name in (folder / "splits" / "train.txt").read_text().split():
            stem = Path(name).stem
            key = images[stem].relative_to(data).as_posix()
            texts = tuple(text for text in captions.get(stem, ()) if text in allowed) or more.get(key, ())
            own = labels.get(key, "")
            label = "" if ";" in own else clean_name(own)
            yield TrainingImage(images[stem], folder.name, label, folder / "labels" / f"{stem}.png", texts)


def sampling_weights(photos: list[TrainingImage]) -> np.ndarray:
    """How often each image is drawn; they sum to 1. A name is drawn by the root of the number of its images."""
    counts = Counter(p.label for p in photos if p.label)
    weights = np.ones(len(photos))
    for index, photo in enumerate(photos):
        if photo.label:
            weights[index] = 3 / math.sqrt(counts[photo.label])
        weights[index] *= SAMPLING.get(photo.source, 1.0) * (SMALL if photo.small else 1.0)
        if photo.captions:
            weights[index] = max(weights[index], CAPTIONED)
        elif photo.dense and photo.source not in SAMPLING:
            weights[index] = max(weights[index], MASKED)
    return weights / weights.sum()


def crop_box(size: tuple[int, int], rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A random box (left, top, right, bottom) of 35-100 % of the area at aspect ratios of 3:4 to 4:3."""
    width, height = size
    area = width * height * rng.uniform(0.35, 1.0)
    ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    w, h = min(width, math.sqrt(area * ratio)), min(height, math.sqrt(area / ratio))
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    return left, top, left + w, top + h


def read_crop(image: Image.Image, box: tuple[float, float, float, float], px: int) -> np.ndarray:
    """(px, px, 3) uint8."""
    return np.asarray(image.resize((px, px), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0))


def centre_square(file: Path, px: int) -> np.ndarray:
    """The largest square in the middle of an image file, (px, px, 3) uint8."""
    image = Image.open(file).convert("RGB")
    side = min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    return read_crop(image, (left, top, left + side, top + side), px)


def dense_cells(labels: Image.Image, box: tuple[float, float, float, float], cells: int, classes: int) -> np.ndarray:
    """Each cell's share of every class inside the crop, (cells, cells, classes); ignored pixels add to none."""
    fine = np.asarray(labels.resize((8 * cells, 8 * cells), Image.Resampling.NEAREST, box=box)).astype(np.int64)
    cell = np.arange(8 * cells) // 8
    slots = (cell[:, None] * cells + cell) * classes + fine
    counts = np.bincount(slots[fine < classes], minlength=cells * cells * classes)
    return counts.reshape(cells, cells, classes).astype(np.float32) / 64


def dense_vocabulary(data: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """All class names of seg/* that may be learned, and for each set the row of each of its labels in them (-1: ignored).

    `background` stands for whatever a set did not annotate, so it is ignored like the kept-out names.
    """
    names: dict[str, int] = {}
    tables = {}
    for folder in sorted((data / "seg").iterdir()):
        table = np.full(256, -1, np.int64)
        for value, name in enumerate(seg_names(data, folder.name)):
            if name != "background" and not is_kept_out(name):
                table[value] = names.setdefault(name, len(names))
        tables[folder.name] = table
    return list(names), tables


def jitter(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Brightness, contrast, saturation and a colour cast, the same for a whole image. (B, 3, H, W) in [0, 1], both ways."""
    batch = images.shape[0]

    def draw(low: float, high: float, channels: int = 1) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (batch, channels, 1, 1))).float().to(images.device)

    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * draw(0.6, 1.4)
    gain = draw(0.75, 1.25) * draw(0.94, 1.06, channels=3)
    return ((images - 0.5) * gain + 0.5 + draw(-0.12, 0.12)).clamp(0, 1)
