"""The images that the bundled CLIP may see, what is known about each, and the fixed crops that teachers and student share."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from texts import is_kept_out, is_test_row, read_captions, read_rows, seg_names, training_captions
from torch import Tensor

CROPS = 8
IGNORE = 255
# Frames of one drive, and fashion photographs: less of each than of the rest.
SAMPLING = {"camvid": 0.3, "ccp": 0.6, "cocoviic": 0.7}
CAPTIONED = 3.0


@dataclass(frozen=True)
class TrainingImage:
    """A training image: `label` '' where unknown; `dense` the file of its class per pixel, None where unknown."""

    file: Path
    source: str
    label: str = ""
    dense: Path | None = None
    captions: tuple[str, ...] = ()

    @property
    def weight(self) -> float:
        """How often it is drawn, beside 1 for the others."""
        return CAPTIONED if self.captions else SAMPLING.get(self.source, 1.0)


def training_images(data: Path) -> list[TrainingImage]:
    """recon/train without test rows and kept-out labels, and the train splits of seg/*, in a fixed order."""
    pictures = []
    for row in read_rows(data):
        if row["label"] and (is_test_row(row["file"]) or is_kept_out(row["label"])):
            continue
        pictures.append(TrainingImage(data / "recon" / row["file"], row["source"], row["label"]))
    allowed = set(training_captions(data))
    captions = {Path(row["image"]).stem: row["captions"] for row in read_captions(data) if row["split"] == "train"}
    for folder in sorted((data / "seg").iterdir()):
        images = {path.stem: path for path in (folder / "images").iterdir()}
        for name in (folder / "splits" / "train.txt").read_text().split():
            stem = Path(name).stem
            texts = tuple(text for text in captions.get(stem, ()) if text in allowed)
            dense = folder / "labels" / f"{stem}.png"
            pictures.append(TrainingImage(images[stem], folder.name, dense=dense, captions=texts))
    return pictures


def list_fingerprint(pictures: list[TrainingImage], data: Path) -> str:
    """Changes with the list, so that cached outputs of teachers are never read for other images."""
    names = json.dumps([str(p.file.relative_to(data)) for p in pictures])
    return hashlib.sha1(f"{CROPS} {names}".encode()).hexdigest()[:12]


def crop_box(size: tuple[int, int], key: str, crop: int) -> tuple[float, float, float, float]:
    """The box (left, top, right, bottom) of crop number `crop` of the image named `key`, by these alone.

    Crop 0 is the central square; the others cover 35-100 % of the area at aspect ratios of 3:4 to 4:3.
    """
    width, height = size
    if crop == 0:
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side
    seed = int(hashlib.sha1(f"{key} {crop}".encode()).hexdigest()[:12], 16)
    rng = np.random.default_rng(seed)
    area = width * height * rng.uniform(0.35, 1.0)
    ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    w, h = min(width, math.sqrt(area * ratio)), min(height, math.sqrt(area / ratio))
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    return left, top, left + w, top + h


def read_crop(image: Image.Image, box: tuple[float, float, float, float], px: int) -> np.ndarray:
    """(px, px, 3) uint8."""
    return np.asarray(image.resize((px, px), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0))


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
