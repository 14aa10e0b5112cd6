"""The photos that a student backbone is distilled on: random crops, each with the index of its name where it has one."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from examples.research.train_tiny.texts import clean_name, is_kept_out, is_test_row, read_rows, read_wide

# Side of the crops of a step, and how often each comes. Sizes that differ keep a ViT from depending on one grid of positions.
SIZES = ((96, 0.5), (128, 0.3), (160, 0.2))
RECON_SHARE = 0.6
"""Share of crops from recon/train, whose names are measured; the others come from wide/."""


@dataclass(frozen=True)
class Batch:
    """One step's crops."""

    images: Tensor  # (B, 3, S, S) in [0, 1]
    labels: Tensor  # (B,) the row of each crop's name, -1 where unknown


class DistilImages:
    """All training photos of recon/train and wide/, as bytes in memory. Batch of step s, by s alone."""

    def __init__(self, data: Path, *, batch: int):
        recon, wide = recon_rows(data), wide_rows(data)
        self.batch = batch
        self.names = sorted({name for _, name in recon + wide if name})
        row_of = {name: row for row, name in enumerate(self.names)}
        self.files = [path.read_bytes() for path, _ in recon + wide]
        self.labels = np.array([row_of.get(name, -1) for _, name in recon + wide])
        self.probabilities = np.concatenate(
            [np.full(len(recon), RECON_SHARE / len(recon)), np.full(len(wide), (1 - RECON_SHARE) / len(wide))]
        )

    def __call__(self, step: int) -> Batch:
        rng = np.random.default_rng((11, step))
        size = int(rng.choice([s for s, _ in SIZES], p=[share for _, share in SIZES]))
        count = round(self.batch * (128 / size) ** 2)
        chosen = rng.choice(len(self.files), count, p=self.probabilities)
        crops = np.stack([random_crop(self.files[i], size, rng) for i in chosen])
        images = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
        return Batch(images=jitter(images, rng), labels=torch.from_numpy(self.labels[chosen]))

    def read_ahead(self, first: int, steps: int) -> Iterator[tuple[int, Batch]]:
        """Number and batch of every step; the next batch is made while a step runs."""
        with ThreadPoolExecutor(1) as thread:
            coming = thread.submit(self, first)
            for step in range(first, steps):
                batch = coming.result()
                coming = thread.submit(self, step + 1)
                yield step, batch


def recon_rows(data: Path) -> list[tuple[Path, str]]:
    """File and name of the photos of recon/train that may be seen: no test rows and no kept-out names, of either pack."""
    kept_out = set((data / "wide/recon_train_rows_with_kept_out_names.txt").read_text().split())
    rows = []
    for row in read_rows(data):
        label = row["label"]
        if row["file"] in kept_out or (label and (is_test_row(row["file"]) or is_kept_out(label))):
            continue
        rows.append((data / "recon" / row["file"], clean_name(label) if label else ""))
    return rows


def wide_rows(data: Path) -> list[tuple[Path, str]]:
    """File and first name of the training photos of wide/ with a short side of 128 px or more, without kept-out names."""
    rows = (row for row in read_wide(data) if min(int(row["width"]), int(row["height"])) >= 128)
    return [(data / row["file"], row["labels"].split(";")[0]) for row in rows]


def random_crop(content: bytes, size: int, rng: np.random.Generator) -> np.ndarray:
    """(size, size, 3) uint8: 30 to 100 % of the area at aspect ratios of 3:4 to 4:3, mirrored half of the time."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    area = image.width * image.height * rng.uniform(0.3, 1.0)
    ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    width, height = min(image.width, math.sqrt(area * ratio)), min(image.height, math.sqrt(area / ratio))
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    box = (left, top, left + width, top + height)
    crop = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def jitter(images: Tensor, rng: np.random.Generator) -> Tensor:
    """(B, 3, S, S) in [0, 1], both ways: contrast, saturation and brightness drawn per image."""

    def draw(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (len(images), 1, 1, 1))).float()

    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * draw(0.6, 1.4)
    return ((images - 0.5) * draw(0.8, 1.2) + 0.5 + draw(-0.1, 0.1)).clamp(0, 1)
