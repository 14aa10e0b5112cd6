"""`ToyBackbone`: a tiny backbone filled by formulas. Offline, the same on every machine; for tests, docs and first steps."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyramid_tokenizer.backbones.base import (
    RowReader,
    check_images,
    check_reading,
    check_texts,
    compute_fingerprint,
    order_readings,
    resolve_blocks,
)
from pyramid_tokenizer.backbones.features import FeaturePyramid
from pyramid_tokenizer.backbones.rows import with_last
from pyramid_tokenizer.checks.devices import exact_float32
from pyramid_tokenizer.config.models import BackboneConfig
from pyramid_tokenizer.errors import ConfigError

_CHANNELS = (8, 16, 24, 32)
_STRIDES = (4, 8, 16, 32)
_EMBEDDING_DIM = 16
_MEAN, _STD = 0.5, 0.25

# Luma and two chroma axes, and (colour, vertical, horizontal) of the cosine patterns that a 4x4 patch keeps: mean colour
# and the lowest luma frequencies hold most of a photo.
_COLOURS = ((1 / 3**0.5,) * 3, (1 / 6**0.5, 1 / 6**0.5, -2 / 6**0.5), (1 / 2**0.5, -1 / 2**0.5, 0.0))
_PATTERNS = ((0, 0, 0), (1, 0, 0), (2, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (0, 0, 2), (0, 2, 0))
_HAAR = (((1, 1), (1, 1)), ((1, -1), (1, -1)), ((1, 1), (-1, -1)), ((1, -1), (-1, 1)))


class ToyBackbone(nn.Module):
    """Four maps of a fixed wavelet-like transform, with a made-up text space. It knows nothing about images.

    The finest map keeps eight cosine patterns of each 4x4 patch; each coarser one averages 2x2 cells and keeps eight of
    their differences. A bent line after every step keeps the maps from being linear functions of each other, as in a
    real backbone. `blocks` are indices 0 (stride 4) to 3 (stride 32); the stem is the finest map before the line is bent.

    Example:
        >>> backbone = ToyBackbone()
        >>> features = backbone(torch.full((1, 3, 32, 64), 0.5), with_dense=True)
        >>> features.embedding.shape, features.dense.shape
        (torch.Size([1, 16]), torch.Size([1, 16, 1, 2]))
        >>> backbone.encode_text(["a cat", "a dog"]).shape
        torch.Size([2, 16])
    """

    has_dense = True
    embedding_dim = _EMBEDDING_DIM

    def __init__(self, config: BackboneConfig | None = None):
        """Builds the backbone.

        Args:
            config: Of kind "toy"; only its `blocks`, `stem` and `dense_reading` matter. None takes all blocks.

        Raises:
            ConfigError: Another kind, blocks outside 0 to 3, or another dense reading than "projection".
        """
        super().__init__()
        self.config = config if config is not None else BackboneConfig(kind="toy")
        if self.config.kind != "toy":
            raise ConfigError(f'expected a config of kind "toy", got {self.config.kind!r}: call load_backbone instead')
        self.dense_readings = order_readings(self.config.dense_reading, ("projection",))
        self.blocks = resolve_blocks(self.config.blocks, preset=range(len(_STRIDES)), count=len(_STRIDES))
        self.channels = (*(_CHANNELS[block] for block in reversed(self.blocks)), *_CHANNELS[: self.config.stem])
        self.strides = (*(_STRIDES[block] for block in reversed(self.blocks)), *_STRIDES[: self.config.stem])
        self.multiple_px = _STRIDES[-1]
        kernels = [_patch_kernel(), *(_merge_kernel(channels) for channels in _CHANNELS[:-1])]
        self.kernels = nn.ParameterList(nn.Parameter(kernel, requires_grad=False) for kernel in kernels)
        projection = _cosine_rows(_EMBEDDING_DIM, _CHANNELS[-1])[:, :, None, None]
        self.projection = nn.Parameter(projection, requires_grad=False)
        facts = {"mean": _MEAN, "std": _STD, "blocks": self.blocks} | ({"stem": True} if self.config.stem else {})
        self.fingerprint = compute_fingerprint(self.state_dict(), **facts)
        self.eval()

    def forward(self, images: Tensor, *, with_dense: bool = False) -> FeaturePyramid:
        """Maps of a (B, 3, H, W) float batch in [0, 1]; with `with_dense` also its embedding and dense features."""
        depth = len(self.kernels) if with_dense else self.blocks[-1] + 1
        check_images(images, multiple=_STRIDES[depth - 1])
        with torch.no_grad(), exact_float32(), torch.autocast(images.device.type, enabled=False):
            stem, stages = self._stages(images, depth)
            dense = F.conv2d(stages[-1], self.projection).float() if with_dense else None  # (B, D, H/32, W/32)
        return FeaturePyramid(
            maps=(
                *(stages[block].float() for block in reversed(self.blocks)),
                *([stem.float()] if self.config.stem else []),
            ),
            strides=self.strides,
            embedding=dense.mean(dim=(2, 3)) if dense is not None else None,
            dense=dense,
        )

    @property
    def runs_by_rows(self) -> bool:
        """True: every step reads blocks of rows."""
        return True

    def by_rows(self, bands: Iterable[Tensor], read: RowReader, *, with_dense: bool = False) -> FeaturePyramid:
        """Runs on bands of rows, none of which depends on another; see `Backbone`."""
        parts: list[Tensor] = []
        for band, last in with_last(bands):
            features = self(band, with_dense=with_dense)
            for index, rows in enumerate(features.maps):
                read(index, rows, last)
            parts += [features.dense] if features.dense is not None else []
        dense = torch.cat(parts, 2) if parts else None
        return FeaturePyramid(maps=(), strides=(), embedding=None if dense is None else dense.mean((2, 3)), dense=dense)

    def shallow(self, images: Tensor) -> Tensor:
        """(B, C, h, w) float32: the shallowest block's map of a batch of any range, with a gradient to `images`."""
        check_images(images, multiple=_STRIDES[self.blocks[0]], any_range=True)
        with torch.autocast(images.device.type, enabled=False):
            return self._stages(images, self.blocks[0] + 1)[1][-1].float()

    def _stages(self, images: Tensor, depth: int) -> tuple[Tensor, list[Tensor]]:
        """The first convolution's output, and the maps of the first `depth` blocks."""
        x = ((images.float() - _MEAN) / _STD).to(self.projection.dtype)
        outputs, stages = [], []
        for kernel in self.kernels[:depth]:
            outputs.append(F.conv2d(x, kernel, stride=kernel.shape[-1]))
            x = outputs[-1] + 0.05 * outputs[-1] * outputs[-1].abs()
            stages.append(x)
        return outputs[0], stages

    def dense(self, images: Tensor, *, reading: str | None = None) -> Tensor:
        """The dense features: (B, D, h, w) float32, a fixed projection of the coarsest map.

        Raises:
            CapabilityError: Another dense reading than "projection".
            ImageValueError: As for `forward`.
        """
        check_reading(reading, self.dense_readings, backbone="the toy backbone")
        dense = self(images, with_dense=True).dense
        assert dense is not None
        return dense

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """(N, D) float32 unit rows; a text's row depends on its characters alone and means nothing."""
        rows = [np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype="<u2") for text in check_texts(texts)]
        numbers = torch.tensor(
            np.array(rows, dtype=np.float32).reshape(len(rows), _EMBEDDING_DIM)
        )  # (N, D) in 0..65535
        return F.normalize(numbers - 32767.5, dim=-1).to(self.projection.device)

    def save(self, directory: Path, *, half: bool = True) -> None:
        """Writes nothing: the weights are formulas."""

    def train(self, mode: bool = True) -> ToyBackbone:
        """Stays in eval mode: the backbone is frozen."""
        return super().train(False)


def _cosine_rows(count: int, length: int) -> Tensor:
    """(count, length): the first orthonormal cosine (DCT-II) patterns, rounded so that every machine has the same bits."""
    rows = [
        [round((2 / length) ** 0.5 * math.cos(math.pi * (n + 0.5) * k / length), 6) for n in range(length)]
        for k in range(count)
    ]
    rows[0] = [round(length**-0.5, 6)] * length
    return torch.tensor(rows)


def _patch_kernel() -> Tensor:
    """(8, 3, 4, 4): orthogonal patterns of a 4x4 RGB patch, scaled so that a flat image keeps its amplitude."""
    cosines = _cosine_rows(4, 4)
    colours = torch.tensor([[round(value, 6) for value in colour] for colour in _COLOURS])
    kernels = [torch.einsum("c,y,x->cyx", colours[c], cosines[v], cosines[h]) / 4 for c, v, h in _PATTERNS]
    return torch.stack(kernels)


def _merge_kernel(channels: int) -> Tensor:
    """(channels + 8, channels, 2, 2): the mean of 2x2 cells for every channel, then differences of the first ones."""
    differences = [(channel, pattern) for channel in range(3) for pattern in (1, 2, 3)][:8]
    kernel = torch.zeros(channels + 8, channels, 2, 2)
    for row, (channel, pattern) in enumerate([*((c, 0) for c in range(channels)), *differences]):
        kernel[row, channel] = torch.tensor(_HAAR[pattern]) / 4
    return kernel
