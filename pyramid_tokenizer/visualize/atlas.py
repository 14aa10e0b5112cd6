"""What a codebook atlas shows, gathered from a folder of images: how often each code is used, and its nearest real patches.

Memory does not grow with the number of images: of each code the places of its few nearest patches are kept, and their pixels are
read in a second pass into a file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pyramid_tokenizer.backbones.features import FeaturePyramid
from pyramid_tokenizer.checks.devices import exact_float32
from pyramid_tokenizer.errors import DataError, ImageError
from pyramid_tokenizer.images.pixels import to_pil
from pyramid_tokenizer.images.sources import ImageSource, read_resized
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.tokens.geometry import cut_to_grids
from pyramid_tokenizer.tokens.health import LevelHealth

logger = logging.getLogger(__name__)

THUMBNAIL_PX = 32
"""Side of a patch as it is stored."""
_LEAST_VIEW_PX = 32
_CODES_PER_PRODUCT = 512


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LevelPatches:
    """One level: the use of its codes over the images, and where the nearest patches of each code are.

    The patches of a code come from different images, the nearest first: those whose features, as the level projects them, are
    closest to the code. Places without a patch have image -1.
    """

    stride: int
    """Pixels along each side of a cell."""
    counts: NDArray[np.int64]
    """(K,): how often each code came."""
    distances: NDArray[np.float32]
    """(K, P): squared distances of the patches from their code; infinite where there is no patch."""
    places: NDArray[np.int32]
    """(K, P, 3): image, row and column of each patch."""

    @property
    def view_px(self) -> int:
        """Side of the square around a cell that a patch shows: twice the cell, but not less than 32 px."""
        return max(_LEAST_VIEW_PX, 2 * self.stride)

    @property
    def health(self) -> LevelHealth:
        """Usage and perplexity."""
        return LevelHealth(counts=torch.from_numpy(self.counts))

    @classmethod
    def empty(cls, stride: int, codebook_size: int, patches: int) -> LevelPatches:
        """A level before the first image."""
        return cls(
            stride=stride,
            counts=np.zeros(codebook_size, np.int64),
            distances=np.full((codebook_size, patches), np.inf, np.float32),
            places=np.full((codebook_size, patches, 3), -1, np.int32),
        )

    def add(self, image: int, ids: NDArray[Any], distances: NDArray[Any], image_size: tuple[int, int]) -> None:
        """Counts the codes of one image (h, w), and keeps its nearest patch of each code if it is among the best."""
        self.counts[:] += np.bincount(ids.ravel(), minlength=len(self.counts))
        rows, columns = (max(1, side // self.stride) for side in image_size)  # whole cells: padding is no patch
        inside, near = ids[:rows, :columns], distances[:rows, :columns]
        order = np.lexsort((near.ravel(), inside.ravel()))  # by code, then by distance
        codes, first = np.unique(inside.ravel()[order], return_index=True)
        cells = order[first]
        worst = self.distances[codes].argmax(1)
        better = near.ravel()[cells] < self.distances[codes, worst]
        codes, cells, worst = codes[better], cells[better], worst[better]
        self.distances[codes, worst] = near.ravel()[cells]
        self.places[codes, worst] = np.stack([np.full(len(cells), image), *np.divmod(cells, columns)], 1)

    def sort(self) -> None:
        """Brings the patches of each code into order, the nearest first."""
        order = np.argsort(self.distances, axis=1, kind="stable")
        self.distances[:] = np.take_along_axis(self.distances, order, 1)
        self.places[:] = np.take_along_axis(self.places, order[..., None], 1)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Gathered:
    """The result of the first pass over the images."""

    levels: tuple[LevelPatches, ...]
    """Every level, coarse to fine, detail levels too."""
    num_images: int
    """Images that were read."""
    skipped: tuple[str, ...]
    """What could not be read, with the reason."""


@torch.no_grad()
def gather(
    tok: PyramidTokenizer,
    source: ImageSource,
    *,
    size: int | None,
    patches: int,
    advance: Callable[[], None] = lambda: None,
) -> Gathered:
    """Encodes the images one by one, and keeps what an atlas needs of them.

    Args:
        tok: A fitted tokenizer.
        source: The images.
        size: Short side in pixels; None keeps the native size.
        patches: Patches to keep of each code, at least 1.
        advance: Called after each image.

    Raises:
        DataError: None of the images can be read.
    """
    strides, sizes = tok.quantizer.strides, tok.quantizer.codebook_sizes
    levels = [LevelPatches.empty(stride, count, patches) for stride, count in zip(strides, sizes, strict=True)]
    skipped = []
    for index in range(len(source)):
        try:
            image = read_resized(source, index, size=size)
        except ImageError as error:
            logger.debug("left out of the atlas: %s", error)
            skipped.append(str(error))
        else:
            image_size = image.shape[1], image.shape[2]
            found = zip(*(cut_to_grids(x, image_size, strides) for x in nearest_codes(tok, image)), strict=True)
            for level, (ids, distances) in zip(levels, found, strict=True):
                level.add(index, ids[0].numpy(), distances[0].numpy(), image_size)
        advance()
    if len(skipped) == len(source):
        raise DataError(
            f"expected images for an atlas, got {len(source)} that cannot be read: {'; '.join(skipped[:1])}"
        )
    for level in levels:
        level.sort()
    return Gathered(levels=tuple(levels), num_images=len(source) - len(skipped), skipped=tuple(skipped))


@torch.no_grad()
def nearest_codes(tok: PyramidTokenizer, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The ids of every level, as `encode` gives them, and how far each code is from what it stands for.

    Args:
        tok: A fitted tokenizer.
        image: (3, H, W) float in [0, 1].

    Returns:
        (1, h_l, w_l) int64 and (1, h_l, w_l) float32 squared distances per level, of the padded image.
    """
    quantizer = tok.quantizer
    features: FeaturePyramid = tok.features(image[None])
    ids: dict[int, Tensor] = {}
    codes: dict[int, Tensor] = {}
    distances: dict[int, Tensor] = {}
    with exact_float32():
        for index in quantizer.order:
            level = quantizer.level(index)
            projected = level.project(quantizer.level_input(index, features, codes))
            ids[index] = level.assign(projected)
            codes[index] = level.look_up(ids[index])
            distances[index] = (projected - codes[index]).square().sum(1)
    order = sorted(ids)
    return [ids[i].cpu() for i in order], [distances[i].cpu() for i in order]


def patches_by_image(level: LevelPatches) -> dict[int, NDArray[np.int64]]:
    """Number of an image -> (N, 2), code and rank of each patch that it has."""
    there = np.argwhere(level.places[..., 0] >= 0)  # (N, 2)
    images = level.places[there[:, 0], there[:, 1], 0]
    order = np.argsort(images, kind="stable")
    numbers, starts = np.unique(images[order], return_index=True)
    return dict(zip(numbers.tolist(), np.split(there[order], starts[1:]), strict=True))


def put_patches(level: LevelPatches, image: Tensor, chosen: NDArray[np.int64], into: NDArray[np.uint8]) -> None:
    """Cuts some patches of a level out of one image.

    Args:
        level: Where they are.
        image: (3, H, W) float in [0, 1].
        chosen: (N, 2), code and rank of each patch that lies in this image.
        into: (K, P, 32, 32, 3), which is filled at these places.
    """
    margin = (level.view_px - level.stride) // 2
    padded = to_pil(F.pad(image[None], (margin,) * 4, mode="replicate"))[0]
    for code, rank in chosen.tolist():
        row, column = level.places[code, rank, 1:].tolist()
        left, top = column * level.stride, row * level.stride
        patch = padded.crop((left, top, left + level.view_px, top + level.view_px))
        into[code, rank] = np.asarray(patch.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS))


def neighbours(codebook: Tensor, count: int) -> NDArray[np.int64]:
    """(K, count): the codes nearest to each code by Euclidean distance, itself left out, the nearest first.

    Example:
        >>> neighbours(torch.tensor([[0.0], [1.0], [3.0]]), 1).tolist()
        [[1], [0], [1]]
    """
    codes = codebook.detach().cpu().double()
    found = []
    for start in range(0, len(codes), _CODES_PER_PRODUCT):
        part = torch.cdist(codes[start : start + _CODES_PER_PRODUCT], codes)
        part[torch.arange(len(part)), torch.arange(start, start + len(part))] = torch.inf
        found.append(part.topk(min(count, len(codes) - 1), largest=False).indices)
    return torch.cat(found).numpy()
