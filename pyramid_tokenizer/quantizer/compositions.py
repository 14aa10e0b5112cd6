"""How the levels of a pyramid build on each other: one small object per way, chosen by name in `COMPOSITIONS`.

"residual"    The recipe. A level encodes what the coarser ones leave: pixels and text embeddings add up over levels.
"bottom_up"   The paper's. A level also reads the codes of the next finer level; each level stands for the whole image.
"none"        Levels read nothing of each other; each level stands for the whole image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.backbones.features import enlarge
from pyramid_tokenizer.quantizer.regrid import EnlargedImage, InputPart, Part
from pyramid_tokenizer.tokens.presence import keep_present

if TYPE_CHECKING:
    from pyramid_tokenizer.quantizer.pyramid import PyramidQuantizer

LEAST_TEXT_WEIGHT = 1e-3
"""A level counts at least this much in an image's text embedding before the weights are scaled to a sum of 1."""


class Composition(Protocol):
    """What every composition answers. Levels are numbered from 0, the coarsest."""

    name: str
    """Its name in `QuantizerConfig.composition`."""
    unit_text_embeddings: bool
    """Whether a level's text embeddings are unit vectors; otherwise they are terms of a sum over levels."""
    reads_pixels: bool
    """Whether levels read the linear reconstruction of coarser ones, whose pixel read-outs then determine ids."""

    def order(self, num_levels: int) -> list[int]:
        """The levels in the order in which they are computed."""
        ...

    def context_channels(self, index: int, *, dims: Sequence[int], patch_px: int) -> int:
        """Channels that level `index` reads of the other levels.

        Args:
            index: The level.
            dims: Dimensions of the codes of every level, coarse to fine.
            patch_px: Side of the patch that one cell of the level decodes to.
        """
        ...

    def context(self, pyramid: PyramidQuantizer, index: int, codes: Mapping[int, Tensor]) -> list[Part]:
        """What level `index` reads of the other levels, without gradient.

        Args:
            pyramid: All levels.
            index: The level.
            codes: (B, d_l, h_l, w_l) float32 of at least the levels that come before it in `order`.
        """
        ...

    def add(self, coarser: Tensor | None, own: Tensor, ratio: int, mask: Tensor | None = None) -> Tensor:
        """The pixels or text embeddings at the end of a level; where a cell is absent, those of the coarser levels.

        Args:
            coarser: (B, C, h, w), those at the end of the next coarser level; None for level 0.
            own: (B, C, ratio h, ratio w), what the level itself gives.
            ratio: How many of its places a place of the coarser one has, along each side.
            mask: (B, h_l, w_l) bool, which cells of the level are present; None for all.
        """
        ...

    def targets(
        self, pyramid: PyramidQuantizer, index: int, codes: Mapping[int, Tensor], pixels: Tensor, semantics: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The pixels and the text embeddings that level `index` is fitted to give.

        Args:
            pyramid: All levels.
            index: The level.
            codes: (B, d_l, h_l, w_l) float32 of at least the levels that come before it in `order`.
            pixels: (B, 3, p h, p w), the images at the level's scale.
            semantics: (B, D, h, w), the backbone's dense features on the level's grid.
        """
        ...

    def text_weights(self, explained: Sequence[float]) -> list[float]:
        """How much each level's text embeddings count in an image's.

        Args:
            explained: Per level, the share of the semantic target's variance that its codes explain.
        """
        ...


class Residual:
    """A level reads the image and the codes that coarser levels give, and is fitted to what they leave."""

    name = "residual"
    unit_text_embeddings = False
    reads_pixels = True

    def order(self, num_levels: int) -> list[int]:
        """Coarse to fine."""
        return list(range(num_levels))

    def context_channels(self, index: int, *, dims: Sequence[int], patch_px: int) -> int:
        """The pixels of a cell and the codes of all coarser levels."""
        return 3 * patch_px**2 + sum(dims[:index]) if index else 0

    def context(self, pyramid: PyramidQuantizer, index: int, codes: Mapping[int, Tensor]) -> list[Part]:
        """The coarser levels' linear reconstruction, space to depth, then their codes, repeated to this level's grid."""
        if not index:
            return []
        coarser = [codes[i].detach() for i in range(index)]
        image = pyramid.linear_reconstructions(coarser)[-1].detach()
        stride = pyramid.strides[index]
        repeated = [InputPart(code, pyramid.strides[i], stride, repeat=True) for i, code in enumerate(coarser)]
        return [EnlargedImage(image, pyramid.pixel_ratio(index), pyramid.level(index).patch_px), *repeated]

    def add(self, coarser: Tensor | None, own: Tensor, ratio: int, mask: Tensor | None = None) -> Tensor:
        """The coarser levels' result, enlarged bilinearly, plus the level's own."""
        return own if coarser is None else keep_present(own, mask) + enlarge(coarser, ratio)

    def targets(
        self, pyramid: PyramidQuantizer, index: int, codes: Mapping[int, Tensor], pixels: Tensor, semantics: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the coarser levels leave of both."""
        if not index:
            return pixels, semantics
        coarser = [codes[i] for i in range(index)]
        image, text = pyramid.linear_reconstructions(coarser)[-1], pyramid.text_embedding_maps(coarser)[-1]
        return pixels - enlarge(image, pyramid.pixel_ratio(index)), semantics - enlarge(text, pyramid.ratio(index))

    def text_weights(self, explained: Sequence[float]) -> list[float]:
        """1 for every level: the levels' text embeddings are the terms of a sum."""
        return [1.0] * len(explained)


class BottomUp:
    """A level also reads the codes of the next finer level, averaged over each of its cells.

    Source: the bottom-up composition of Zhang, Zhang and Li, "Feature Pyramid Tokenization", arXiv 2412.14145.
    """

    name = "bottom_up"
    unit_text_embeddings = True
    reads_pixels = False

    def order(self, num_levels: int) -> list[int]:
        """Fine to coarse."""
        return list(range(num_levels))[::-1]

    def context_channels(self, index: int, *, dims: Sequence[int], patch_px: int) -> int:
        """The dimensions of the next finer level's codes; 0 for the finest level."""
        return dims[index + 1] if index + 1 < len(dims) else 0

    def context(self, pyramid: PyramidQuantizer, index: int, codes: Mapping[int, Tensor]) -> list[Part]:
        """The next finer level's codes, averaged to this level's grid."""
        if index + 1 == len(pyramid.strides):
            return []
        averaged = F.avg_pool2d(codes[index + 1].detach(), pyramid.ratio(index + 1))
        return [InputPart(averaged, pyramid.strides[index], pyramid.strides[index])]

    def add(self, coarser: Tensor | None, own: Tensor, ratio: int, mask: Tensor | None = None) -> Tensor:
        """The level's own result."""
        return own if coarser is None or mask is None else keep_present(own, mask, enlarge(coarser, ratio))

    def targets(
        self, pyramid: PyramidQuantizer, index: int, codes: Mapping[int, Tensor], pixels: Tensor, semantics: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Both as they are: every level stands for the whole image."""
        return pixels, semantics

    def text_weights(self, explained: Sequence[float]) -> list[float]:
        """By the share of the semantic target that a level explains; they sum to 1."""
        return _shares(explained)


class Independent:
    """Levels read the backbone alone."""

    name = "none"
    unit_text_embeddings = True
    reads_pixels = False

    def order(self, num_levels: int) -> list[int]:
        """Coarse to fine; any order would do."""
        return list(range(num_levels))

    def context_channels(self, index: int, *, dims: Sequence[int], patch_px: int) -> int:
        """None."""
        return 0

    def context(self, pyramid: PyramidQuantizer, index: int, codes: Mapping[int, Tensor]) -> list[Part]:
        """Nothing."""
        return []

    def add(self, coarser: Tensor | None, own: Tensor, ratio: int, mask: Tensor | None = None) -> Tensor:
        """The level's own result."""
        return own if coarser is None or mask is None else keep_present(own, mask, enlarge(coarser, ratio))

    def targets(
        self, pyramid: PyramidQuantizer, index: int, codes: Mapping[int, Tensor], pixels: Tensor, semantics: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Both as they are: every level stands for the whole image."""
        return pixels, semantics

    def text_weights(self, explained: Sequence[float]) -> list[float]:
        """By the share of the semantic target that a level explains; they sum to 1."""
        return _shares(explained)


COMPOSITIONS: dict[str, Composition] = {made.name: made for made in (Residual(), BottomUp(), Independent())}
"""Every composition by its name in `QuantizerConfig.composition`."""


def _shares(explained: Sequence[float]) -> list[float]:
    kept = [max(share, LEAST_TEXT_WEIGHT) for share in explained]
    return [share / sum(kept) for share in kept]
