"""Features <-> ids: `PyramidQuantizer` lets one `LevelQuantizer` per level build on the others.

Painting every cell of every level gives the *linear reconstruction*, the image that the ids hold without any decoder.

Everything here stays in float32 whatever the tokenizer is cast to: ids must not depend on precision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyramid_tokenizer.backbones.features import FeaturePyramid, enlarge, semantic_target
from pyramid_tokenizer.config.models import LevelConfig, QuantizerConfig
from pyramid_tokenizer.errors import ConfigError, ImageValueError, NotFittedError, TokenRangeError
from pyramid_tokenizer.quantizer.level import LevelQuantizer, float32_on
from pyramid_tokenizer.quantizer.regrid import regrid, regridded_channels


class PyramidQuantizer(nn.Module):
    """All levels together.

    Args:
        config: Levels coarse to fine and their composition.
        channels: Channels of the backbone's maps, coarse to fine.
        strides: Strides of the backbone's maps.
        embedding_dim: D of the backbone.

    Raises:
        ConfigError: A level reads a map that the backbone does not have, or whose stride does not fit its own.

    Example:
        >>> from pyramid_tokenizer.backbones import ToyBackbone
        >>> backbone, levels = ToyBackbone(), []
        >>> for stride, maps, size in ((16, (1,), 8), (8, (2,), 32)):
        ...     levels.append(LevelConfig(stride=stride, maps=maps, codebook_size=size, dim=4))
        >>> quantizer = PyramidQuantizer(
        ...     QuantizerConfig(levels=tuple(levels)), channels=backbone.channels, strides=backbone.strides, embedding_dim=16
        ... )
        >>> quantizer.patch_px, quantizer.codebook_sizes, quantizer.is_fitted
        (8, (8, 32), False)
        >>> for index in (0, 1):  # `fit_quantizer` does it better
        ...     _ = torch.nn.init.normal_(quantizer.level(index).codebook)
        >>> ids = quantizer.encode(backbone(torch.rand(2, 3, 32, 64)))
        >>> [tuple(level.shape) for level in ids]
        [(2, 2, 4), (2, 4, 8)]
        >>> quantizer.linear_reconstruction(quantizer.codes(ids[:1])).shape
        torch.Size([2, 3, 32, 64])
    """

    def __init__(self, config: QuantizerConfig, *, channels: Sequence[int], strides: Sequence[int], embedding_dim: int):
        super().__init__()
        self.config = config
        self.strides = tuple(level.stride for level in config.levels)
        self.codebook_sizes = tuple(level.codebook_size for level in config.levels)
        self.patch_px = self.strides[-1]
        self.levels = nn.ModuleList()
        for index, level in enumerate(config.levels):
            in_channels = sum(_channels_read(channels, strides, level, map_index) for map_index in level.maps)
            in_channels += self._context_channels(index) + (embedding_dim if level.reads_dense else 0)
            self.levels.append(
                LevelQuantizer(
                    level,
                    in_channels=in_channels,
                    patch_px=self.patch_px,
                    embedding_dim=embedding_dim,
                    unit_text_embeddings=config.semantics == "whole",
                )
            )
        if config.embedding == "linear":
            self.to_embedding = nn.Linear(embedding_dim, embedding_dim)
        self.requires_grad_(False)

    def _context_channels(self, index: int) -> int:
        if self.config.composition == "residual" and index > 0:
            coarser = self.config.levels[:index] if self.config.semantics == "residual" else ()
            return 3 * self.patch_px**2 + sum(level.dim for level in coarser)
        if self.config.composition == "bottom_up" and index + 1 < len(self.config.levels):
            return self.config.levels[index + 1].dim
        return 0

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PyramidQuantizer:
        """Follows the tokenizer to another device, and stays float32 when it is cast."""

        def keep_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if tensor.is_floating_point() and moved.dtype != tensor.dtype else moved

        return super()._apply(keep_float32, recurse)

    def level(self, index: int) -> LevelQuantizer:
        """The level's own quantizer, 0 = coarsest."""
        module = self.levels[index]
        assert isinstance(module, LevelQuantizer)
        return module

    @property
    def order(self) -> list[int]:
        """Levels in the order in which they are computed: fine to coarse for "bottom_up", else coarse to fine."""
        indices = list(range(len(self.levels)))
        return indices[::-1] if self.config.composition == "bottom_up" else indices

    @property
    def reads_dense(self) -> bool:
        """Whether features need their text-aligned outputs (`with_dense=True`) to be encoded."""
        return any(level.reads_dense for level in self.config.levels)

    @property
    def is_fitted(self) -> bool:
        """Whether every codebook was filled."""
        return all(self.level(i).is_fitted for i in range(len(self.levels)))

    @torch.no_grad()
    def encode(self, features: FeaturePyramid) -> tuple[Tensor, ...]:
        """Ids per level, coarse to fine: (B, h_l, w_l) int64 each.

        Raises:
            NotFittedError: The codebooks are empty.
            ImageValueError: The image size is no multiple of the coarsest stride.
        """
        self._require_fitted()
        with float32_on(features.maps[0].device):
            ids: dict[int, Tensor] = {}
            codes: dict[int, Tensor] = {}
            for index, x in self.inputs(features, codes):
                level = self.level(index)
                ids[index] = level.assign(level.project(x))
                codes[index] = level.look_up(ids[index])
        return tuple(ids[i] for i in range(len(self.levels)))

    @torch.no_grad()
    def encode_continuous(self, features: FeaturePyramid) -> tuple[Tensor, ...]:
        """What `encode` would give codes for, before quantisation: (B, d_l, h_l, w_l) float32 per level.

        Levels that see other levels see these maps in place of their codes.

        Raises:
            NotFittedError: The codebooks are empty.
            ImageValueError: The image size is no multiple of the coarsest stride.
        """
        self._require_fitted()
        with float32_on(features.maps[0].device):
            codes: dict[int, Tensor] = {}
            for index, x in self.inputs(features, codes):
                codes[index] = self.level(index).project(x)
        return tuple(codes[i] for i in range(len(self.levels)))

    def codes(self, ids: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Codebook vectors of the ids of every level or of a prefix.

        Args:
            ids: (B, h_l, w_l) int64 in [0, K_l) per level, coarse to fine.

        Returns:
            (B, d_l, h_l, w_l) float32 per level given.

        Raises:
            NotFittedError: The codebooks are empty.
            TokenRangeError: More levels than codebooks, grids that do not belong together, or an id outside its codebook.
        """
        self._check_pyramid(ids)
        return tuple(self.level(i).look_up(level_ids) for i, level_ids in enumerate(ids))

    def _check_pyramid(self, ids: Sequence[Tensor]) -> None:
        self._require_fitted()
        if not 1 <= len(ids) <= len(self.levels):
            raise TokenRangeError(
                f"expected ids of 1 to {len(self.levels)} levels, got {len(ids)}: give a prefix of the levels"
            )
        for index, level_ids in enumerate(ids):
            self._check_ids(index, level_ids, ids[0])

    def _check_ids(self, index: int, ids: Tensor, coarsest: Tensor) -> None:
        ratio = self.strides[0] // self.strides[index]
        batch, height, width = coarsest.shape
        expected = (batch, height * ratio, width * ratio)
        if tuple(ids.shape) != expected:
            raise TokenRangeError(
                f"expected ids of level {index} of shape {expected}, got {tuple(ids.shape)}: give ids of one encode"
            )
        low, high = (int(extreme) for extreme in ids.aminmax()) if ids.numel() else (0, 0)
        size = self.codebook_sizes[index]
        if low < 0 or high >= size:
            raise TokenRangeError(
                f"expected ids of level {index} in [0, {size}), got {low if low < 0 else high}: "
                "these are tokens of another tokenizer"
            )

    def linear_reconstructions(self, codes: Sequence[Tensor]) -> list[Tensor]:
        """The image at the end of each level, at that level's own scale: (B, 3, p h_l, p w_l), roughly in [0, 1].

        Args:
            codes: (B, d_l, h_l, w_l) float32 of every level or of a prefix, coarse to fine.
        """
        images: list[Tensor] = []
        for index, level_codes in enumerate(codes):
            image = self.level(index).pixels_of(level_codes)
            if self.config.composition == "residual" and images:
                image = image + self.coarser(images[-1], index)
            images.append(image)
        return images

    def linear_reconstruction(self, codes: Sequence[Tensor]) -> Tensor:
        """The last of `linear_reconstructions` at the resolution of the finest level: (B, 3, H, W) for any prefix of levels."""
        return enlarge(self.linear_reconstructions(codes)[-1], self.strides[len(codes) - 1] // self.patch_px)

    def coarser(self, image: Tensor, index: int) -> Tensor:
        """Level `index - 1`'s image at the scale of level `index`."""
        return enlarge(image, self.strides[index - 1] // self.strides[index])

    def inputs(self, features: FeaturePyramid, codes: dict[int, Tensor]) -> Iterator[tuple[int, Tensor]]:
        """Each level's index and input (B, C_l, h_l, w_l) float32, in `order`.

        Args:
            features: Of a batch whose sides are multiples of the coarsest stride.
            codes: The caller puts a level's codes (B, d_l, h_l, w_l) in here, under its index, before it asks for the
                next level, which may see them.

        Raises:
            ImageValueError: The image size is no multiple of the coarsest stride.
        """
        height, width = features.image_size
        if height % self.strides[0] or width % self.strides[0]:
            raise ImageValueError(
                f"expected sides in multiples of {self.strides[0]} px, got {height} x {width}: pad the batch first"
            )
        image: Tensor | None = None
        for index in self.order:
            level = self.config.levels[index]
            parts = [regrid(features.maps[m].float(), features.strides[m], level.stride) for m in level.maps]
            if level.reads_dense:
                parts.append(semantic_target(features, parts[0]))
            if self.config.composition == "residual" and index > 0:
                pixels_of = self.level(index - 1).pixels_of(codes[index - 1])
                image = pixels_of if image is None else image + pixels_of
                image = self.coarser(image, index)
                # how good an image is already there is an input, not a path for gradients to the coarser level
                parts.append(F.pixel_unshuffle(image.detach(), self.patch_px))
                parts += self._coarser_codes(index, codes)
            if self.config.composition == "bottom_up" and index + 1 in codes:
                parts.append(F.avg_pool2d(codes[index + 1].detach(), level.stride // self.strides[index + 1]))
            yield index, torch.cat(parts, 1)

    def _coarser_codes(self, index: int, codes: dict[int, Tensor]) -> list[Tensor]:
        """What a level must know to say what coarser levels left of the meaning: their codes, on its own grid."""
        if self.config.semantics == "whole":
            return []
        ratios = [self.strides[i] // self.strides[index] for i in range(index)]
        return [_repeat(codes[i].detach(), ratio) for i, ratio in enumerate(ratios)]

    def embedding(self, ids: Sequence[Tensor]) -> Tensor:
        """Image embedding of ids: unit (B, D) float32, the mean over cells of the sum over levels of their addresses.

        Where each level says the whole meaning, it counts by its `share` of what was explained when it was fitted. With
        `config.embedding` "linear" the mean goes through the map fitted to the backbone's own image embedding.

        Args:
            ids: As `codes` takes them.

        Raises:
            NotFittedError: The codebooks are empty.
            TokenRangeError: As `codes`.
        """
        self._check_pyramid(ids)
        with float32_on(ids[0].device):
            place = self.mean_text_embedding(ids)
            return F.normalize(self.to_embedding(place) if self.config.embedding == "linear" else place, dim=1)

    def mean_text_embedding(self, ids: Sequence[Tensor]) -> Tensor:
        """(B, D) float32, the mean over cells of their places in the text space; ids as `embedding` takes them, unchecked."""
        places = [_mean_row(rows, own) for rows, own in zip(self.weighted_text_embeddings(), ids, strict=False)]
        return torch.stack(places).sum(0)

    def weighted_text_embeddings(self) -> tuple[Tensor, ...]:
        """Per level (K_l, D) float32: its entries' addresses times its share. A cell's place is the sum over levels.

        Of residual meaning every share is 1.
        """
        levels = [self.level(i) for i in range(len(self.levels))]
        return tuple(level.share * level.text_embeddings() for level in levels)

    def update_digest(self, digest: hashlib._Hash) -> None:
        """Feeds its tensors that determine ids, and nothing else: no address, and `pixel_readout` only where a finer level sees it."""
        for index in range(len(self.levels)):
            level = self.level(index)
            tensors = [level.mean, level.std, level.down.weight, level.down.bias, level.codebook]
            if self.config.composition == "residual" and index + 1 < len(self.levels):
                tensors += [level.pixel_readout.weight, level.pixel_readout.bias]
            for tensor in tensors:
                digest.update(repr(tuple(tensor.shape)).encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())

    def _require_fitted(self) -> None:
        if not self.is_fitted:
            raise NotFittedError("expected fitted codebooks, got empty ones: call fit(batches) or load a trained model")


def _mean_row(rows: Tensor, ids: Tensor) -> Tensor:
    """The mean over cells of the rows (K, D) that ids (B, h, w) name: (B, D)."""
    cells = ids.flatten(1)
    counts = torch.zeros(len(ids), len(rows), device=ids.device)
    counts.scatter_add_(1, cells, torch.ones_like(cells, dtype=counts.dtype))  # (B, K)
    return counts @ rows / cells.shape[1]


def _repeat(x: Tensor, ratio: int) -> Tensor:
    """(B, C, h, w) -> (B, C, ratio h, ratio w), every cell repeated."""
    return x if ratio == 1 else x.repeat_interleave(ratio, 2).repeat_interleave(ratio, 3)


def _channels_read(channels: Sequence[int], strides: Sequence[int], level: LevelConfig, index: int) -> int:
    """Channels that a level reads from map `index` of the backbone."""
    if not 0 <= index < len(channels):
        raise ConfigError(
            f"expected maps in [0, {len(channels)}), got {index}: "
            f"the backbone gives {len(channels)} maps of strides {tuple(strides)}"
        )
    own, wanted = strides[index], level.stride
    if own % wanted and wanted % own:
        raise ConfigError(
            f"expected a level stride that divides or is a multiple of {own}, got {wanted}: choose another stride or map"
        )
    return regridded_channels(channels[index], own, wanted)
