"""Batches for the backbone: crops with their labels, dense labels, captions and the outputs of the teachers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from image_teachers import SHAPES, VOC_NAMES
from images import CROPS, TrainingImage, crop_box, dense_cells, dense_vocabulary, jitter, read_crop
from PIL import Image
from texts import imagenet_names, is_kept_out, training_captions
from torch import Tensor

# Image sizes of a step and how often each comes; the number of crops shrinks with the area.
SIZES = ((96, 0.15), (128, 0.25), (192, 0.25), (256, 0.35))


@dataclass
class Batch:
    """One step's crops. C = S / 32 cells a side; classes of `dense` index `Vocabulary.names`."""

    images: Tensor  # (B, 3, S, S) in [0, 1]
    labels: Tensor  # (B,) row in Vocabulary.labels, -1 where unknown
    kinds: Tensor  # (B, 1001) MobileNet's probabilities without the kept-out classes; sums to what is left of 1
    pooled: Tensor  # (B, 256) MobileNet's pooled last map
    cells: Tensor  # (B, 256, C, C) the same in cells
    middle: Tensor  # (B, 96, 2C, 2C) its stride-16 map
    dense: Tensor  # (B, names, C, C) share of each dense class in each cell
    allowed: Tensor  # (B, names) bool: the classes that this image's dense labels tell apart
    caption_rows: Tensor  # (R,) the crops that have a caption
    caption_ids: Tensor  # (R,) one of each crop's captions, as a row of Vocabulary.captions

    def to(self, device: torch.device) -> Batch:
        """The same on `device`."""
        return Batch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def first(self, count: int) -> Batch:
        """Its first crops alone."""
        captioned = self.caption_rows < count
        parts = {field.name: getattr(self, field.name)[:count] for field in fields(self)}
        parts |= {"caption_rows": self.caption_rows[captioned], "caption_ids": self.caption_ids[captioned]}
        return Batch(**parts)


class Vocabulary:
    """The names that images are matched to."""

    def __init__(self, data: Path, pictures: list[TrainingImage]):
        self.captions = training_captions(data)
        self.labels = sorted({p.label for p in pictures if p.label})
        self.kinds = [row[0] for row in imagenet_names(data)]
        self.kind_known = torch.tensor([i > 0 and not is_kept_out(name) for i, name in enumerate(self.kinds)])
        self.dense, self.tables = dense_vocabulary(data)
        self.voc = {i: name for i, name in enumerate(VOC_NAMES) if i > 0 and not is_kept_out(name)}
        for name in self.voc.values():
            if name not in self.dense:
                self.dense.append(name)


class ImageBatches:
    """Batch of step s, by s alone."""

    def __init__(self, data: Path, targets: Path, pictures: list[TrainingImage], vocabulary: Vocabulary, *, batch: int):
        self.pictures, self.vocabulary, self.batch = pictures, vocabulary, batch
        self.keys = [str(p.file.relative_to(data)) for p in pictures]
        self.images = [Image.open(p.file).convert("RGB") for p in pictures]
        self.dense = [Image.open(p.dense).copy() if p.dense else None for p in pictures]
        self.teachers = {name: np.load(targets / f"mobilenet_{name}.npy", mmap_mode="r") for name in SHAPES}
        self.voc = np.load(targets / "voc.npy", mmap_mode="r")
        self.middle_scale = float(self.teachers["middle"][:: max(1, len(pictures) // 200), 0].astype(np.float32).std())
        weights = np.array([p.weight for p in pictures])
        self.probabilities = weights / weights.sum()
        self.label_row = {name: i for i, name in enumerate(vocabulary.labels)}
        self.caption_row = {text: i for i, text in enumerate(vocabulary.captions)}
        self.dense_row = {name: i for i, name in enumerate(vocabulary.dense)}

    def __call__(self, step: int) -> Batch:
        rng = np.random.default_rng((7, step))
        size = int(rng.choice([s for s, _ in SIZES], p=[share for _, share in SIZES]))
        count = max(8, round(self.batch * (128 / size) ** 2))
        chosen = rng.choice(len(self.pictures), count, p=self.probabilities)
        crops = rng.integers(0, CROPS, count)
        flips = rng.random(count) < 0.5
        boxes = [crop_box(self.images[i].size, self.keys[i], k) for i, k in zip(chosen, crops, strict=True)]
        pixels = np.stack([read_crop(self.images[i], box, size) for i, box in zip(chosen, boxes, strict=True)])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        dense, allowed = zip(
            *(self._dense(i, box, size // 32) for i, box in zip(chosen, boxes, strict=True)), strict=True
        )
        grids = {
            "images": images,
            "cells": F.interpolate(self._teacher("cells", chosen, crops), size=(size // 32,) * 2, mode="area"),
            "middle": F.interpolate(
                self._teacher("middle", chosen, crops) / self.middle_scale, size=(size // 16,) * 2, mode="bilinear"
            ),
            "dense": torch.from_numpy(np.stack(dense)),
        }
        mirror = torch.from_numpy(flips)
        for grid in grids.values():
            grid[mirror] = grid[mirror].flip(-1)
        grids["images"] = jitter(grids["images"], rng)
        captioned = [row for row, i in enumerate(chosen) if self.pictures[i].captions]
        captions = [str(rng.choice(self.pictures[chosen[row]].captions)) for row in captioned]
        kinds = self._teacher("logits", chosen, crops).softmax(1) * self.vocabulary.kind_known
        return Batch(
            labels=torch.tensor([self.label_row.get(self.pictures[i].label, -1) for i in chosen]),
            kinds=kinds,
            pooled=self._teacher("pooled", chosen, crops),
            allowed=torch.from_numpy(np.stack(allowed)),
            caption_rows=torch.tensor(captioned, dtype=torch.long),
            caption_ids=torch.tensor([self.caption_row[text] for text in captions], dtype=torch.long),
            **grids,
        )

    def _teacher(self, name: str, chosen: np.ndarray, crops: np.ndarray) -> Tensor:
        rows = [self.teachers[name][i, k] for i, k in zip(chosen, crops, strict=True)]
        return torch.from_numpy(np.stack(rows).astype(np.float32))

    def _dense(self, index: int, box: tuple[float, ...], cells: int) -> tuple[np.ndarray, np.ndarray]:
        """(names, C, C) shares and (names,) the classes told apart: of the image's own labels, else of DeepLab's."""
        names = self.vocabulary.dense
        shares, allowed = np.zeros((len(names), cells, cells), np.float32), np.zeros(len(names), bool)
        labels = self.dense[index]
        if labels is not None:
            table = self.vocabulary.tables[self.pictures[index].source]
            known = np.flatnonzero(table >= 0)
            found = dense_cells(labels, box, cells, int(known.max()) + 1)
            shares[table[known]] = found[:, :, known].transpose(2, 0, 1)
            allowed[table[known]] = True
        else:
            width, height = self.images[index].size
            grid = self.voc.shape[-1]
            left, top, right, bottom = np.array(box) * grid / np.array([width, height, width, height])
            columns, rows = np.arange(grid) + 0.5, np.arange(grid) + 0.5
            part = np.asarray(self.voc[index], np.float32)
            part = part[:, (rows > top) & (rows < bottom)][:, :, (columns > left) & (columns < right)]
            part = F.interpolate(torch.from_numpy(part)[None], size=(cells, cells), mode="area")[0].numpy()
            for value, name in self.vocabulary.voc.items():
                shares[self.dense_row[name]] = part[value]
                allowed[self.dense_row[name]] = True
        return shares, allowed
