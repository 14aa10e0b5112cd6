"""Batches for the backbone: crops with their labels, dense labels, captions and the outputs of the teachers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from image_teachers import TEACHER_PX, VOC_NAMES, ImageTeachers, to_batch
from images import TrainingImage, crop_box, dense_cells, dense_vocabulary, jitter, read_crop, sampling_weights
from PIL import Image
from texts import imagenet_names, is_kept_out, training_captions, wide_kept_out_names
from torch import Tensor

# Image sizes of a step and how often each comes; the number of crops shrinks with the area. Most of the training sees many
# small crops, its end large ones.
SIZES = ((96, 0.45), (128, 0.4), (192, 0.15))
LAST_SIZES = ((128, 0.3), (160, 0.3), (256, 0.4))
TAUGHT = 0.5
"""Share of a step's crops that MobileNetV2 reads: it costs more than the student."""
DEEPLAB_SHARE = 0.1
"""Share that DeepLab reads, of crops without a mask."""


@dataclass
class Batch:
    """One step's crops, of which MobileNetV2 reads the first T. C = S / 32 cells a side; `dense` follows `Vocabulary.dense`."""

    images: Tensor  # (B, 3, S, S) in [0, 1]
    labels: Tensor  # (B,) row in Vocabulary.labels, -1 where unknown
    kinds: Tensor  # (T, 1001) MobileNet's probabilities without the kept-out classes; sums to what is left of 1
    pooled: Tensor  # (T, 256) MobileNet's pooled last map
    cells: Tensor  # (T, 256, C, C) the same in cells
    dense: Tensor  # (B, names, C, C) share of each dense class in each cell
    allowed: Tensor  # (B, names) bool: the classes that this image's dense labels tell apart
    caption_rows: Tensor  # (R,) the crops that have a caption
    caption_ids: Tensor  # (R,) one of each crop's captions, as a row of Vocabulary.captions

    def to(self, device: torch.device) -> Batch:
        """The same on `device`."""
        return Batch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


class Vocabulary:
    """The names and captions that images are matched to."""

    def __init__(self, data: Path, photos: Sequence[TrainingImage]):
        own = [text for photo in photos for text in photo.captions]
        self.captions = list(dict.fromkeys([*own, *training_captions(data)]))
        self.labels = sorted({p.label for p in photos if p.label})
        hidden = wide_kept_out_names(data)
        kinds = imagenet_names(data)
        self.kinds = [row[0] for row in kinds]
        self.kind_known = torch.tensor(
            [i > 0 and not any(is_kept_out(name) or name in hidden for name in row) for i, row in enumerate(kinds)]
        )
        self.dense, self.tables = dense_vocabulary(data)
        self.voc = {i: name for i, name in enumerate(VOC_NAMES) if i > 0 and not is_kept_out(name)}
        for name in self.voc.values():
            if name not in self.dense:
                self.dense.append(name)


class ImageBatches:
    """Batch of step s, by s alone; from step `last_from` on with the last sizes."""

    def __init__(
        self,
        teachers: ImageTeachers,
        photos: Sequence[TrainingImage],
        vocabulary: Vocabulary,
        *,
        batch: int,
        last_from: int,
    ):
        self.teachers, self.last_from = teachers, last_from
        self.photos, self.vocabulary, self.batch = photos, vocabulary, batch
        self.probabilities = sampling_weights(list(photos))
        self.label_row = {name: i for i, name in enumerate(vocabulary.labels)}
        self.caption_row = {text: i for i, text in enumerate(vocabulary.captions)}
        self.dense_row = {name: i for i, name in enumerate(vocabulary.dense)}

    def __call__(self, step: int) -> Batch:
        rng = np.random.default_rng((7, step))
        sizes = SIZES if step < self.last_from else LAST_SIZES
        size = int(rng.choice([s for s, _ in sizes], p=[share for _, share in sizes]))
        count = max(8, round(self.batch * (128 / size) ** 2))
        chosen = [self.photos[i] for i in rng.choice(len(self.photos), count, p=self.probabilities)]
        taught = round(TAUGHT * count)
        crops, seen, shares, allowed = [], [], [], []
        for photo in chosen:
            image = Image.open(photo.file).convert("RGB")
            box = crop_box(image.size, rng)
            crops.append(read_crop(image, box, size))
            if len(seen) < taught:
                seen.append(read_crop(image, box, TEACHER_PX))
            found, known = self._masks(photo, box, size // 32)
            shares.append(found)
            allowed.append(known)
        images, dense, teacher_images = to_batch(crops), torch.from_numpy(np.stack(shares)), to_batch(seen)
        told = torch.from_numpy(np.stack(allowed))
        self._add_voc(chosen, teacher_images, dense, told)
        logits, pooled, cells = self.teachers.kinds(teacher_images, size // 32)
        mirror = torch.from_numpy(rng.random(count) < 0.5)
        for grid in (images, dense, cells):
            flipped = mirror[: len(grid)]
            grid[flipped] = grid[flipped].flip(-1)
        captioned = [row for row, photo in enumerate(chosen) if photo.captions]
        captions = [str(rng.choice(chosen[row].captions)) for row in captioned]
        return Batch(
            images=jitter(images, rng),
            labels=torch.tensor([self.label_row.get(photo.label, -1) for photo in chosen]),
            kinds=logits.softmax(1) * self.vocabulary.kind_known,
            pooled=pooled,
            cells=cells,
            dense=dense,
            allowed=told,
            caption_rows=torch.tensor(captioned, dtype=torch.long),
            caption_ids=torch.tensor([self.caption_row[text] for text in captions], dtype=torch.long),
        )

    def _masks(self, photo: TrainingImage, box: tuple[float, ...], cells: int) -> tuple[np.ndarray, np.ndarray]:
        """(names, C, C) shares and (names,) the classes told apart by the image's own mask; zeros without one."""
        names = self.vocabulary.dense
        shares, allowed = np.zeros((len(names), cells, cells), np.float32), np.zeros(len(names), bool)
        if photo.dense is not None:
            table = self.vocabulary.tables[photo.dense.parent.parent.name]
            known = np.flatnonzero(table >= 0)
            found = dense_cells(Image.open(photo.dense), box, cells, int(known.max()) + 1)
            shares[table[known]] = found[:, :, known].transpose(2, 0, 1)
            allowed[table[known]] = True
        return shares, allowed

    def _add_voc(self, chosen: list[TrainingImage], images: Tensor, dense: Tensor, allowed: Tensor) -> None:
        """Fills in DeepLab's probabilities, in place, for the first crops without a mask."""
        rows = [row for row, photo in enumerate(chosen[: len(images)]) if photo.dense is None]
        rows = rows[: max(1, round(DEEPLAB_SHARE * len(chosen)))]
        if rows:
            found = self.teachers.voc(images[rows], dense.shape[-1])
            for value, name in self.vocabulary.voc.items():
                dense[rows, self.dense_row[name]] = found[:, value]
                allowed[rows, self.dense_row[name]] = True
