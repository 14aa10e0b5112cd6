"""`Encoder`: the part of a tokenizer that turns images into tokens.

image -> batch -> backbone -> FeaturePyramid -> quantizer -> TokenPyramid [-> thinned to a budget]
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Unpack, overload

import torch
from torch import Tensor

from pyramid_tokenizer.backbones.features import FeaturePyramid
from pyramid_tokenizer.checks.arguments import check_kind
from pyramid_tokenizer.config.budget import Budget
from pyramid_tokenizer.encoding.by_content import Kept, keep_to_budget, warn_of_misses
from pyramid_tokenizer.encoding.by_rows import encode_by_rows, is_large, runs_by_rows
from pyramid_tokenizer.encoding.by_size import OnError, encode_by_size
from pyramid_tokenizer.encoding.by_windows import check_window, encode_by_windows, usual_window
from pyramid_tokenizer.errors import ConfigError, ImageValueError, TokenError
from pyramid_tokenizer.hub.pretrained import PretrainedModel
from pyramid_tokenizer.images import ImageLike, pad_to_multiple, to_batch
from pyramid_tokenizer.images.checks import check_dense
from pyramid_tokenizer.quantizer.gains import estimate_gains, measure_gains
from pyramid_tokenizer.tokens import TokenPyramid
from pyramid_tokenizer.tokens.geometry import cut_to_grids
from pyramid_tokenizer.tokens.thinning import Gains
from pyramid_tokenizer.tokens.trusted import trusted_pyramid

if TYPE_CHECKING:
    from typing import TypedDict

    class Limits(TypedDict, total=False):
        """How many tokens an image gets: see `Budget`."""

        max_tokens: int | None
        target_psnr: float | None
        quality: float | None


Images = ImageLike | Sequence[ImageLike]
"""One image, or several of one size: see `images.read.to_batch`."""


class Encoder(PretrainedModel):
    """Images -> a pyramid of discrete tokens. `PyramidTokenizer` is the one kind there is, and documents the errors."""

    _warned_of_whole = False
    """Whether it was told that this backbone reads large images whole."""

    @property
    def multiple_px(self) -> int:
        """Both sides of a batch are padded to multiples of this."""
        return math.lcm(self.quantizer.strides[0], self.backbone.multiple_px)

    def encode(
        self,
        images: Images,
        *,
        size: int | None = None,
        levels: int | None = None,
        window_px: int | None = None,
        **limits: Unpack[Limits],
    ) -> TokenPyramid:
        """Tokens of images of one size, after resizing their short side to `size` pixels where given.

        Ids do not depend on the batch size but for rounding in the backbone: of 1,088,000 ids of the bundled model none
        differed between batches of 1, 2, 7, 8 and 32, nor between processes (benchmarks/reconstruction.py, 2-core CPU).

        Args:
            images: One image, or several of one size.
            size: Short side in pixels; None keeps the native size.
            levels: How many levels, coarse to fine. None: all but the detail levels, and with a limit all of them.
            window_px: Side of the overlapping windows in which larger images are read, a multiple of `multiple_px` and at least
                four times as much; docs/backbones.md says what it costs. Tokens are then others than those of the whole image,
                and carry no mark of it. None reads an image whole, or in bands of rows with the ids of the whole where the
                backbone can; one that can do so needs no windows, and reads them all the same where it is told to.
            limits: One of `max_tokens`, `target_psnr` and `quality`, as `Budget` explains them: each image then gets the
                tokens that are worth their bits, and its finer levels may be sparse. A `target_psnr` decodes images twice, and
                warns where an image cannot reach it.

        Raises:
            ConfigError: A number of levels that there are not, windows of no such side, several limits at once, or one that
                none can mean.
            TokenRangeError: `max_tokens` is below the cells of level 0.

        Example:
            >>> from pyramid_tokenizer import PyramidTokenizer
            >>> tok = PyramidTokenizer.from_pretrained("tiny")
            >>> tok.encode(torch.rand(1, 3, 64, 64), max_tokens=40).num_tokens <= 40
            True
        """
        budget = Budget(**limits)
        kept = self.encode_within(to_batch(images, size=size), budget, levels=levels, window_px=window_px)
        warn_of_misses(kept, budget, stacklevel=2)
        return kept.tokens

    def encode_within(
        self, batch: Tensor, budget: Budget, *, levels: int | None = None, window_px: int | None = None
    ) -> Kept:
        """What `encode` gives, and the PSNR of the images that cannot reach a target, without a warning.

        Args:
            batch: (B, 3, H, W) float in [0, 1].
            budget: How many tokens an image gets.
            levels: As for `encode`.
            window_px: As for `encode`.

        Raises:
            ConfigError, TokenRangeError: As for `encode`.
        """
        self.check_window(window_px)
        if budget.is_open:
            return Kept(self._encode(batch, levels, window_px))
        tokens = self._encode(batch, len(self.quantizer.levels) if levels is None else levels, window_px)
        originals = batch.to(self.device)

        def squared_error(thinner: TokenPyramid) -> Tensor:
            return (self.decode(thinner) - originals).square().flatten(1).sum(1)

        gains = measure_gains(self.quantizer, tokens.ids, originals)
        return keep_to_budget(tokens, gains, budget, squared_error=squared_error)

    def decode(self, tokens: TokenPyramid) -> Tensor:
        """Images of tokens; `PyramidTokenizer` has it."""
        raise NotImplementedError

    @overload
    def encode_many(
        self,
        images: Iterable[ImageLike],
        *,
        size: int | None = None,
        batch_size: int = 8,
        levels: int | None = None,
        window_px: int | None = None,
        **limits: Unpack[Limits],
    ) -> list[TokenPyramid]: ...

    @overload
    def encode_many(
        self,
        images: Iterable[ImageLike],
        *,
        size: int | None = None,
        batch_size: int = 8,
        on_error: OnError,
        levels: int | None = None,
        window_px: int | None = None,
        **limits: Unpack[Limits],
    ) -> list[TokenPyramid | None]: ...

    def encode_many(
        self,
        images: Iterable[ImageLike],
        *,
        size: int | None = None,
        batch_size: int = 8,
        on_error: OnError = "raise",
        levels: int | None = None,
        window_px: int | None = None,
        **limits: Any,
    ) -> Sequence[TokenPyramid | None]:
        """Tokens of images of any sizes, one pyramid each, in order.

        Args:
            images: As `by_size.encode_by_size` takes them; so are `size`, `batch_size` and `on_error`.
            size: Short side in pixels; None keeps the native size.
            batch_size: Images of one size that are encoded together.
            on_error: "raise", or "skip" for an image that cannot be read.
            levels: As `encode` takes it.
            window_px: As `encode` takes it.
            limits: As `encode` takes them.
        """
        Budget(**limits)  # refused before the first image is read
        self.check_window(window_px)

        def encode(batch: Tensor) -> TokenPyramid:
            return self.encode(batch, levels=levels, window_px=window_px, **limits)

        return encode_by_size(encode, images, size=size, batch_size=batch_size, on_error=on_error)

    def gains(self, tokens: TokenPyramid, images: Images | None = None, *, size: int | None = None) -> Gains:
        """What each token of full pyramids saves, for `thin`: without the backbone, from tokens and images.

        Without the images it is estimated from the tokens alone: a code saves on average what it adds, but one image may
        differ. `benchmarks/by_content.py` measures what the estimate loses.

        Args:
            tokens: Full pyramids.
            images: Those that the tokens were made of; None where they are gone.
            size: As for `encode`.

        Raises:
            TokenError: A level is sparse already.
            ImageValueError: The images have another size than the tokens, or are more or fewer.
        """
        ids = self.ids(tokens)
        if tokens.is_sparse:
            raise TokenError(f"expected full pyramids, got {tokens}: encode the images without a limit")
        if images is None:
            return estimate_gains(self.quantizer, ids, tokens.image_size)
        batch = to_batch(images, size=size)
        expected = (tokens.batch_size, 3, *tokens.image_size)
        if tuple(batch.shape) != expected:
            raise ImageValueError(
                f"expected the images of the tokens, {expected}, got {tuple(batch.shape)}: give the same images and size="
            )
        return measure_gains(self.quantizer, ids, batch.to(self.device))

    def thin(self, tokens: TokenPyramid, gains: Gains | None = None, **limits: Unpack[Limits]) -> TokenPyramid:
        """Full pyramids that were stored, kept to a budget: without images and without the backbone.

        With the gains of `gains(tokens, images)` kept beside the tokens, `max_tokens` and `quality` give exactly what `encode`
        gives. A `target_psnr` is then that of the linear reconstruction, which is some tenths of dB below that of the trained
        decoder: decoded images have more than they were asked for.

        Args:
            tokens: Full pyramids.
            gains: Of the same images; None estimates them from the tokens, which knows no error and so no `target_psnr`.
            limits: As for `encode`.

        Raises:
            ConfigError: No limit, several at once, one that none can mean, or `target_psnr` without gains.
            TokenError, TokenRangeError: As for `gains` and `encode`.

        Example:
            >>> from pyramid_tokenizer import PyramidTokenizer
            >>> tok = PyramidTokenizer.from_pretrained("tiny")
            >>> images = torch.rand(1, 3, 64, 64)
            >>> tokens = tok.encode(images)
            >>> thinner = tok.thin(tokens, tok.gains(tokens, images), quality=0.5)
            >>> thinner == tok.encode(images, levels=3, quality=0.5)
            True
        """
        budget = Budget(**limits)
        if budget.is_open or (budget.target_psnr is not None and gains is None):
            expected = "one of max_tokens and quality" + ("" if gains is None else ", or target_psnr")
            raise ConfigError(f"expected {expected}, got {budget}: give one, with gains for target_psnr")
        kept = keep_to_budget(tokens, self.gains(tokens) if gains is None else gains, budget)
        warn_of_misses(kept, budget, stacklevel=2)
        return kept.tokens

    def tokens_of(self, source: TokenPyramid | Images, *, size: int | None = None, stacklevel: int = 3) -> TokenPyramid:
        """Tokens as they are; images encoded, at `size`. A `size` for tokens is ignored with a warning."""
        if not isinstance(source, TokenPyramid):
            return self.encode(source, size=size)
        if size is not None:
            warnings.warn(f"size={size} is ignored: tokens have the size of their images", stacklevel=stacklevel)
        return source

    def ids(self, tokens: TokenPyramid) -> list[Tensor]:
        """The tokens' ids; `PyramidTokenizer` has it."""
        raise NotImplementedError

    @torch.no_grad()
    def features(self, batch: Tensor, *, with_dense: bool = False) -> FeaturePyramid:
        """The frozen backbone's features of a (B, 3, H, W) batch in [0, 1], padded by edge replication.

        They include embedding and dense features with `with_dense`, or where a level reads these. BackboneError where they are
        NaN or infinite.
        """
        check_kind(batch, Tensor, name="batch", fix="make one by images.to_batch(images)", error=ImageValueError)
        check_dense(batch)
        features = self._features(batch, with_dense=with_dense)
        features.require_finite()
        return features

    @torch.no_grad()
    def _features(self, batch: Tensor, *, with_dense: bool = False) -> FeaturePyramid:
        """The features before the check for NaN; the quantizer makes its own on what it reads of them."""
        padded = pad_to_multiple(batch.to(self.device), multiple=self.multiple_px)
        return self.backbone(padded, with_dense=with_dense or self.quantizer.needs_dense)

    def _encode(self, batch: Tensor, levels: int | None, window_px: int | None) -> TokenPyramid:
        """Full pyramids of a batch (B, 3, H, W)."""
        self.require_fitted()
        count = self.quantizer.base_levels if levels is None else self._checked_levels(levels)
        height, width = batch.shape[-2:]
        ids, image_ids = self._padded_ids(batch, count, window_px)
        return trusted_pyramid(
            ids=[level.contiguous() for level in cut_to_grids(ids, (height, width), self.quantizer.strides[:count])],
            codebook_sizes=self.quantizer.codebook_sizes[:count],
            image_size=(height, width),
            fingerprint=self.fingerprint,
            precision=self.precision,
            image_ids=image_ids,
            image_codebook_sizes=self.quantizer.image.codebook_sizes,
        )

    def _padded_ids(self, batch: Tensor, levels: int, window_px: int | None) -> tuple[Sequence[Tensor], Tensor | None]:
        """Ids of the levels and of the image tokens of a batch, on the grids of its padded images."""
        backbone, parts = self.backbone, {"multiple_px": self.multiple_px, "levels": levels}
        if window_px is not None and max(batch.shape[-2:]) > window_px:
            parts["window_px"] = window_px
            return _one_by_one(batch, lambda one: encode_by_windows(backbone, self.quantizer, one, **parts))
        if is_large(batch) and runs_by_rows(backbone):
            return _one_by_one(batch, lambda one: encode_by_rows(backbone, self.quantizer, one, **parts))
        if is_large(batch) and window_px is None:
            self._warn_of_whole(batch)
        features = self._features(batch)
        return self.quantizer.encode(features, levels=levels), self.quantizer.encode_image(features)

    def _warn_of_whole(self, batch: Tensor) -> None:
        """Tells once that the backbone reads large images whole, and what else there is."""
        if self._warned_of_whole:
            return
        self._warned_of_whole = True
        height, width = batch.shape[-2:]
        warnings.warn(
            f"an image of {height} x {width} px is read whole, as this backbone cannot read bands of rows: that takes memory "
            f"and time which grow faster than its pixels. window_px={usual_window(self.multiple_px)} (--window on the command "
            "line) reads large images in overlapping windows, and gives other tokens",
            stacklevel=6,
        )

    def check_window(self, window_px: int | None) -> None:
        """Raises ConfigError for a side of windows that `encode` cannot take."""
        if window_px is not None:
            check_window(window_px, multiple_px=self.multiple_px)

    def _checked_levels(self, levels: int) -> int:
        most = len(self.quantizer.levels)
        if not isinstance(levels, int) or isinstance(levels, bool) or not 1 <= levels <= most:
            raise ConfigError(f"expected levels from 1 to {most}, got {levels!r}: ask for as many as there are")
        return levels


def _one_by_one(
    batch: Tensor, encode: Callable[[Tensor], tuple[Sequence[Tensor], Tensor | None]]
) -> tuple[Sequence[Tensor], Tensor | None]:
    """Ids of the levels and of the image tokens of a batch whose images (1, 3, H, W) are encoded one after the other."""
    ids, image_ids = zip(*map(encode, batch.split(1)), strict=True)
    found = [own for own in image_ids if own is not None]
    return [torch.cat(level) for level in zip(*ids, strict=True)], torch.cat(found) if found else None
