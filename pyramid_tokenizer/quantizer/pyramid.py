"""Features to ids and back: `PyramidQuantizer` holds one `LevelQuantizer` per level and lets them build on each other.

Beside them it holds the codebooks of the image tokens, `ImageQuantizer`, which no level reads.

Decoding every cell of every level by its linear read-out gives the *linear reconstruction*, the image that ids hold
without any trained decoder.

Everything here stays in float32 whatever the tokenizer is cast to: ids must not depend on precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyramid_tokenizer.backbones.features import FeaturePyramid, enlarge
from pyramid_tokenizer.checks.devices import exact_float32
from pyramid_tokenizer.checks.finite import all_finite, require_finite
from pyramid_tokenizer.errors import BackboneError, CheckpointError, ImageValueError, NotFittedError, TokenRangeError
from pyramid_tokenizer.quantizer.compositions import Composition
from pyramid_tokenizer.quantizer.image_codes import ImageQuantizer
from pyramid_tokenizer.quantizer.level import LevelQuantizer, float32_on
from pyramid_tokenizer.quantizer.nearest import mean_row
from pyramid_tokenizer.quantizer.regrid import BackboneInput, Part
from pyramid_tokenizer.tokens.presence import mask_of
from pyramid_tokenizer.tokens.splits import Presence

WEIGHTS_ADVICE = "weights were altered or trained to no result; load the model again, or fit it again"
"""What helps against NaN or infinite weights: the end of error messages."""
NOT_FITTED = "expected fitted codebooks, got empty ones: call fit(images) or load a trained model"


class PyramidQuantizer(nn.Module):
    """All levels together. `build_quantizer` makes one from a config.

    Args:
        levels: One per level, coarse to fine; their input channels fit `reads` and `composition`.
        reads: What each level reads of the backbone.
        composition: How levels build on each other.
        base_levels: How many of them `encode` gives unless it is asked for more; None for all. The others are detail levels.
        image_codebook_sizes: K of each image token; () for none.

    Example:
        >>> from pyramid_tokenizer.backbones import ToyBackbone
        >>> from pyramid_tokenizer.quantizer.compositions import Independent
        >>> backbone, reads = ToyBackbone(), []
        >>> for stride, maps in ((16, (1,)), (8, (2,))):
        ...     reads.append(BackboneInput(stride=stride, maps=maps))
        >>> sizes = {"dim": 4, "patch_px": 8, "embedding_dim": 16}
        >>> levels = [
        ...     LevelQuantizer(in_channels=24, codebook_size=8, **sizes),
        ...     LevelQuantizer(in_channels=16, codebook_size=32, **sizes),
        ... ]
        >>> quantizer = PyramidQuantizer(levels, reads=reads, composition=Independent())
        >>> quantizer.codebook_sizes, quantizer.base_levels, quantizer.is_fitted
        ((8, 32), 2, False)
        >>> for index in (0, 1):  # `fit_quantizer` does it better
        ...     _ = torch.nn.init.normal_(quantizer.level(index).codebook)
        >>> ids = quantizer.encode(backbone(torch.rand(2, 3, 32, 64)))
        >>> [tuple(level.shape) for level in ids]
        [(2, 2, 4), (2, 4, 8)]
        >>> quantizer.linear_reconstruction(quantizer.codes(ids[:1])).shape
        torch.Size([2, 3, 32, 64])
    """

    def __init__(
        self,
        levels: Sequence[LevelQuantizer],
        *,
        reads: Sequence[BackboneInput],
        composition: Composition,
        base_levels: int | None = None,
        image_codebook_sizes: Sequence[int] = (),
    ):
        super().__init__()
        self.base_levels = len(levels) if base_levels is None else base_levels
        self.levels = nn.ModuleList(levels)
        self.reads = tuple(reads)
        self.composition = composition
        self.strides = tuple(read.stride for read in reads)
        self.codebook_sizes = tuple(level.codebook_size for level in levels)
        self.order = composition.order(len(levels))
        """Levels in the order in which they are computed."""
        self.reads_dense = any(read.reads_dense for read in reads)
        """Whether levels read the text-aligned outputs of features."""
        self.image = ImageQuantizer(image_codebook_sizes, embedding_dim=levels[0].embedding_dim)
        self.to_embedding = nn.Linear(levels[0].embedding_dim, levels[0].embedding_dim)
        nn.init.eye_(self.to_embedding.weight)  # until it is fitted, an image's embedding is the mean over its cells
        nn.init.zeros_(self.to_embedding.bias)
        self.requires_grad_(False)

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

    def ratio(self, index: int) -> int:
        """Stride of level `index - 1` over that of level `index`; 1 for level 0."""
        return self.strides[index - 1] // self.strides[index] if index else 1

    def scale(self, index: int) -> int:
        """Pixels of the image per pixel of what level `index` decodes to, along each side."""
        return self.strides[index] // self.level(index).patch_px

    def pixel_ratio(self, index: int) -> int:
        """Scale of level `index - 1` over that of level `index`; 1 for level 0."""
        return self.scale(index - 1) // self.scale(index) if index else 1

    @property
    def is_fitted(self) -> bool:
        """Whether the codebook of every level was filled."""
        return all(self.level(i).is_fitted for i in range(len(self.levels)))

    @property
    def needs_dense(self) -> bool:
        """Whether features must be made with `with_dense=True`: levels read dense features, or there are image tokens."""
        return self.reads_dense or bool(self.image.codebook_sizes)

    @torch.no_grad()
    def encode(self, features: FeaturePyramid, *, levels: int | None = None) -> tuple[Tensor, ...]:
        """Ids per level, coarse to fine: (B, h_l, w_l) int64 each.

        Args:
            features: Of a batch.
            levels: How many of the coarsest levels; None for all but the detail levels.

        Raises:
            NotFittedError: The codebooks are empty.
            ImageValueError: The image size is no multiple of the coarsest stride.
            BackboneError, CheckpointError: Features or weights that decide ids are NaN or infinite; the message says which.
        """
        self.require_fitted()
        ids: dict[int, Tensor] = {}
        codes: dict[int, Tensor] = {}
        linear: list[Tensor] = []
        with float32_on(features.maps[0].device), exact_float32():
            for index in self.first_levels(levels):
                level = self.level(index)
                linear.append(level.linear(self.level_input(index, features, codes)))
                ids[index] = level.assign(level.constrain(linear[-1]))
                codes[index] = level.look_up(ids[index])
        self.require_finite(features, [*linear, *codes.values()])
        return tuple(ids[i] for i in sorted(ids))

    @torch.no_grad()
    def encode_image(self, features: FeaturePyramid) -> Tensor | None:
        """Ids of the image tokens, (B, M) int64; None where there are none.

        Args:
            features: Of a batch.

        Raises:
            NotFittedError, BackboneError, CheckpointError: As for `encode`; the features have no image embedding.
        """
        self.require_fitted()
        if not self.image.codebook_sizes:
            return None
        if features.embedding is None:
            raise BackboneError(
                "expected features with an image embedding for image tokens, got none: call the backbone with with_dense=True"
            )
        self.require_finite(features, [features.embedding, *self.image.codebooks])
        with exact_float32():
            return self.image.encode(features.embedding)

    @torch.no_grad()
    def encode_continuous(self, features: FeaturePyramid, *, levels: int | None = None) -> tuple[Tensor, ...]:
        """Projections before quantisation, for which `encode` takes the nearest codes: (B, d_l, h_l, w_l) float32.

        Levels that read the codes of other levels read those levels' projections instead.

        Args:
            features: Of a batch.
            levels: As `encode` takes them.

        Raises:
            NotFittedError: The codebooks are empty.
            ImageValueError: The image size is no multiple of the coarsest stride.
            BackboneError, CheckpointError: As for `encode`.
        """
        self.require_fitted()
        projected: dict[int, Tensor] = {}
        linear: list[Tensor] = []
        with float32_on(features.maps[0].device), exact_float32():
            for index in self.first_levels(levels):
                level = self.level(index)
                linear.append(level.linear(self.level_input(index, features, projected)))
                projected[index] = level.constrain(linear[-1])
        self.require_finite(features, linear)
        return tuple(projected[i] for i in sorted(projected))

    def first_levels(self, levels: int | None) -> list[int]:
        """The coarsest levels, in the order in which they are computed; none of them reads another."""
        count = self.base_levels if levels is None else levels
        return [index for index in self.order if index < count]

    def level_input(self, index: int, features: FeaturePyramid, codes: Mapping[int, Tensor]) -> list[Part]:
        """What a level reads: maps of the backbone, then what its composition gives of other levels.

        Args:
            index: The level.
            features: Of a batch whose sides are multiples of the coarsest stride.
            codes: (B, d_l, h_l, w_l) by level, of at least those that come before this one in `order`. No gradient flows
                back to them.

        Raises:
            ImageValueError: The image size is no multiple of the coarsest stride.
        """
        height, width = features.image_size
        if height % self.strides[0] or width % self.strides[0]:
            raise ImageValueError(
                f"expected sides in multiples of {self.strides[0]} px, got {height} x {width}: pad the batch first"
            )
        return [*self.reads[index].of(features), *self.composition.context(self, index, codes)]

    def codes(self, ids: Sequence[Tensor], present: Presence = ()) -> tuple[Tensor, ...]:
        """Codebook vectors of the ids of every level or of a prefix.

        Args:
            ids: (B, h_l, w_l) int64 per level, coarse to fine. They must be in [0, K_l), as those of a `TokenPyramid` are
                where tokens are present: looking at their values would make the CPU wait for a GPU.
            present: Masks of sparse levels; see `Presence`.

        Returns:
            (B, d_l, h_l, w_l) float32 per level given; zero where a token is absent.

        Raises:
            TokenRangeError: More levels than codebooks, or grids that do not belong together.
        """
        self._check_grids(ids)
        return tuple(self.level(i).look_up(level_ids, mask_of(present, i)) for i, level_ids in enumerate(ids))

    def linear_reconstructions(self, codes: Sequence[Tensor], present: Presence = ()) -> list[Tensor]:
        """The image at the end of each level, at that level's own scale: (B, 3, p_l h_l, p_l w_l), roughly in [0, 1].

        Args:
            codes: (B, d_l, h_l, w_l) float32 of every level or of a prefix, coarse to fine.
            present: Masks of sparse levels; an absent cell adds nothing to the coarser ones.
        """
        images: list[Tensor] = []
        for index, level_codes in enumerate(codes):
            before, own = images[-1] if images else None, self.level(index).pixels_of(level_codes)
            images.append(self.composition.add(before, own, self.pixel_ratio(index), mask_of(present, index)))
        return images

    def linear_reconstruction(self, codes: Sequence[Tensor], present: Presence = ()) -> Tensor:
        """The image of any prefix of levels at the resolution of the image: (B, 3, H, W).

        Args:
            codes: (B, d_l, h_l, w_l) float32 of every level or of a prefix, coarse to fine.
            present: Masks of sparse levels.
        """
        return self.to_image_size(self.linear_reconstructions(codes, present)[-1], len(codes) - 1)

    def to_image_size(self, image: Tensor, index: int) -> Tensor:
        """A linear reconstruction at the end of level `index`, at the resolution of the image.

        It is enlarged level by level, so that finer levels without a single token give the same as no finer levels.
        """
        for finer in range(index + 1, len(self.levels)):
            image = enlarge(image, self.pixel_ratio(finer))
        return enlarge(image, self.scale(len(self.levels) - 1))

    def text_embedding_maps(self, codes: Sequence[Tensor]) -> list[Tensor]:
        """The text embedding of every cell at the end of each level: (B, D, h_l, w_l) float32.

        Args:
            codes: (B, d_l, h_l, w_l) float32 of every level or of a prefix, coarse to fine, without absent tokens.
        """
        maps: list[Tensor] = []
        for index, level_codes in enumerate(codes):
            before, own = maps[-1] if maps else None, self.level(index).text_embeddings_of(level_codes)
            maps.append(self.composition.add(before, own, self.ratio(index)))
        return maps

    def summed_text_embeddings(self, codes: Sequence[Tensor]) -> Tensor:
        """The text embedding of every cell on the finest grid given: the weighted sum over levels, (B, D, h, w) float32.

        Of codes of ids this equals `gather_rows(weighted_text_embeddings(), ids)`; it also takes projections before
        quantisation. Coarser grids are enlarged bilinearly.

        Args:
            codes: (B, d_l, h_l, w_l) float32 of every level or of a prefix, coarse to fine.
        """
        total: Tensor | None = None
        for index, level_codes in enumerate(codes):
            level = self.level(index)
            own = level.text_weight * level.text_embeddings_of(level_codes)
            total = own if total is None else own + enlarge(total, self.ratio(index))
        assert total is not None
        return total

    def text_embeddings(self) -> tuple[Tensor, ...]:
        """The text embedding of every entry: (K_l, D) float32 per level."""
        return tuple(self.level(i).text_embeddings() for i in range(len(self.levels)))

    def weighted_text_embeddings(self) -> tuple[Tensor, ...]:
        """The text embedding of every entry times the weight of its level: (K_l, D) float32 per level, without detail levels.

        The text embedding of a cell of the finest level is the sum of these over its codes (`nearest.gather_rows`).
        """
        levels = [self.level(i) for i in range(self.base_levels)]
        return tuple(level.text_weight * level.text_embeddings() for level in levels)

    def embedding(self, ids: Sequence[Tensor], present: Presence = (), *, image_ids: Tensor | None = None) -> Tensor:
        """Image embeddings of ids: (B, D) float32 of unit norm.

        They are the sum of the image tokens' entries and of what the mean text embedding of the image's cells adds, by the
        linear map that was fitted to what image tokens leave of the backbone's own image embedding.

        Args:
            ids: As `codes` takes them.
            present: Masks of sparse levels; an absent token adds zero.
            image_ids: (B, M) int64 of the image tokens; None where there are none.

        Raises:
            TokenRangeError: As `codes`.
            CheckpointError: The embeddings are NaN or infinite, because weights are.
        """
        self._check_grids(ids)
        ids = ids[: self.base_levels]  # detail levels hold pixels alone
        with float32_on(ids[0].device):
            found = self.unscaled_embedding(ids, present, image_ids)
        if not all_finite([found]):
            self.require_finite_weights()
            require_finite({"them": found}, stage="image embeddings", advice=WEIGHTS_ADVICE, error=CheckpointError)
        return F.normalize(found, dim=1)

    def unscaled_embedding(self, ids: Sequence[Tensor], present: Presence, image_ids: Tensor | None) -> Tensor:
        """Image embeddings before they are brought to unit norm, (B, D); the ids are not checked."""
        of_cells = self.to_embedding(self.mean_text_embedding(ids, present))
        return of_cells if image_ids is None else of_cells + self.image.codes(image_ids)

    def mean_text_embedding(self, ids: Sequence[Tensor], present: Presence = ()) -> Tensor:
        """The mean over an image's cells of their text embeddings: (B, D) float32.

        Args:
            ids: As `codes` takes them; they are not checked.
            present: Masks of sparse levels; an absent token adds zero.
        """
        rows = self.weighted_text_embeddings()
        means = [mean_row(rows[level], own, mask_of(present, level)) for level, own in enumerate(ids)]
        return torch.stack(means).sum(0)

    def require_finite_weights(self) -> None:
        """Raises CheckpointError, naming the tensor, where a number of the quantizer is NaN or infinite."""
        require_finite(self.state_dict(), stage="the quantizer", advice=WEIGHTS_ADVICE, error=CheckpointError)

    def require_finite(self, features: FeaturePyramid, deciding: Sequence[Tensor]) -> None:
        """Tells what is NaN or infinite where something that decides ids is: infinity can survive no linear map unseen."""
        deviations = [
            self.level(index).std for index in range(len(self.levels))
        ]  # infinite, they divide a channel to zero
        if all_finite([*deciding, *deviations]):
            return
        features.require_finite()
        self.require_finite_weights()
        named = {f"step {number}": tensor for number, tensor in enumerate(deciding)}
        advice = (
            "features and weights are finite but so large that products overflow; use another backbone or fit again"
        )
        require_finite(named, stage="the projections of the levels", advice=advice, error=BackboneError)

    def require_fitted(self) -> None:
        """Raises NotFittedError where the codebooks are empty; a compiled graph cannot look, and its tokenizer has done so."""
        if not torch.compiler.is_compiling() and not self.is_fitted:
            raise NotFittedError(NOT_FITTED)

    def _check_grids(self, ids: Sequence[Tensor]) -> None:
        if not 1 <= len(ids) <= len(self.levels):
            raise TokenRangeError(
                f"expected ids of 1 to {len(self.levels)} levels, got {len(ids)}: give a prefix of the levels"
            )
        batch, height, width = ids[0].shape
        for index, level_ids in enumerate(ids):
            ratio = self.strides[0] // self.strides[index]
            expected = (batch, height * ratio, width * ratio)
            if tuple(level_ids.shape) != expected:
                raise TokenRangeError(
                    f"expected ids of level {index} of shape {expected}, got {tuple(level_ids.shape)}: "
                    "give ids of one encode"
                )
