"""`PyramidTokenizer`: the composition of ready modules, on one page.

image -> backbone -> FeaturePyramid -> quantizer -> TokenPyramid -> trunk -> fused maps -> pixel decoder -> image
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyramid_tokenizer.backbones import Backbone
from pyramid_tokenizer.checks.arguments import check_whole
from pyramid_tokenizer.checks.finite import all_finite
from pyramid_tokenizer.config.models import TokenizerConfig
from pyramid_tokenizer.decoder import PixelDecoder, TopDownTrunk, explain_maps, explain_pixels
from pyramid_tokenizer.decoder.bands import BAND_PIXELS, HALOS_PER_BAND, cut_rows, enlargement_halo_px, in_bands
from pyramid_tokenizer.decoder.thumbnails import reduce_image, reduction_of
from pyramid_tokenizer.encoding import Encoder, Images
from pyramid_tokenizer.images import to_batch
from pyramid_tokenizer.quantizer.fit.batches import feature_samples, image_batches
from pyramid_tokenizer.quantizer.fit.levels import LevelReport, fit_quantizer
from pyramid_tokenizer.quantizer.fit.progress import Progress
from pyramid_tokenizer.quantizer.pyramid import WEIGHTS_ADVICE, PyramidQuantizer
from pyramid_tokenizer.text import Classification, LanguageModelTokenizer, Templates, TextEncoder, to_language_model
from pyramid_tokenizer.text.language_models import Layout
from pyramid_tokenizer.tokens import TokenHealth, TokenPyramid, Vocabulary, measure_health
from pyramid_tokenizer.tokens.geometry import cut_to_grids
from pyramid_tokenizer.tokens.splits import Presence
from pyramid_tokenizer.tokens.wrapping import check_fits, check_image_tokens, check_own, check_pyramid, pyramid_of_ids


class PyramidTokenizer(Encoder):
    """Images -> a pyramid of discrete tokens -> images.

    Make one with `from_pretrained`, `from_backbone` or `from_config`; the constructor takes ready modules. `text` is the one
    `TextEncoder` that `classify`, `similarity` and a `Segmenter` share; assign another to keep embeddings on disk.

    A method that takes images raises ImageError for what is not an image, and NotFittedError before a first `fit`. A method
    that takes tokens raises TokenMismatchError for those of another tokenizer, TokenRangeError for those no encoder made.
    Where features or weights are NaN or infinite, each raises BackboneError or CheckpointError and names them.

    Example:
        >>> tok = PyramidTokenizer.from_pretrained("tiny")
        >>> tokens = tok.encode(torch.rand(2, 3, 64, 96))
        >>> [tuple(ids.shape) for ids in tokens.ids]
        [(2, 2, 3), (2, 4, 6), (2, 8, 12)]
        >>> tok.decode(tokens).shape, tok.decode(tokens[:1]).shape
        (torch.Size([2, 3, 64, 96]), torch.Size([2, 3, 64, 96]))
    """

    def __init__(
        self,
        config: TokenizerConfig,
        *,
        backbone: Backbone,
        quantizer: PyramidQuantizer,
        trunk: TopDownTrunk,
        pixel_decoder: PixelDecoder,
    ):
        super().__init__(config, backbone=backbone, quantizer=quantizer, trunk=trunk, pixel_decoder=pixel_decoder)
        self.text = TextEncoder(backbone)

    @property
    def vocabulary(self) -> Vocabulary:
        """Flattens token pyramids to one integer sequence and back."""
        return Vocabulary(fingerprint=self.fingerprint, **self._kind())

    def to_language_model(self, tokenizer: Any, *, layout: Layout = "pyramid") -> LanguageModelTokenizer:
        """A language model's tokenizer of texts, extended by the tokens of images.

        Args:
            tokenizer: A `tokenizers.Tokenizer` or a fast tokenizer of transformers; it is copied.
            layout: How an image is written, "pyramid" or "emu3"; `text.language_models.to_language_model` says more.
        """
        return to_language_model(tokenizer, self.vocabulary, layout=layout)

    @torch.no_grad()
    def decode(self, tokens: TokenPyramid, *, scale: float = 1) -> Tensor:
        """Images of tokens, or of any prefix of their levels: (B, 3, H, W) float32 in [0, 1], at the original size.

        Args:
            tokens: Token pyramid of B images.
            scale: 1, or 1/2, 1/4 or 1/8 for thumbnails (B, 3, ceil(H scale), ceil(W scale)). These are the linear
                reconstruction of the tokens, reduced by averaging: no block of the decoder runs. They differ from a full decode
                that is reduced in the same way by 34 to 38 dB on the bundled model (`benchmarks/decode.py`).

        Raises:
            ConfigError: Another scale.

        Example:
            >>> tok = PyramidTokenizer.from_pretrained("tiny")
            >>> tok.decode(tok.encode(torch.rand(1, 3, 64, 90)), scale=1 / 4).shape
            torch.Size([1, 3, 16, 23])
        """
        reduction, ids, present = reduction_of(scale), self.ids(tokens), self.present(tokens)
        codes = self.quantizer.codes(ids, present)
        if reduction > 1:
            return self._to_thumbnails(codes, tokens.image_size, present, reduction)
        return self._to_images(codes, tokens.image_size, present)

    def reconstruct(self, images: Images, *, size: int | None = None) -> Tensor:
        """`decode(encode(images, size=size))`: (B, 3, H, W) float32 in [0, 1]."""
        return self.decode(self.encode(images, size=size))

    forward = reconstruct

    @torch.no_grad()
    def reconstruct_continuous(self, images: Images, *, size: int | None = None) -> Tensor:
        """As `reconstruct`, from the features before quantisation: the difference is what the codebooks cost."""
        batch = to_batch(images, size=size)
        height, width = batch.shape[-2:]
        maps = self.quantizer.encode_continuous(self._features(batch))
        return self._to_images(
            cut_to_grids(maps, (height, width), self.quantizer.strides[: len(maps)]), (height, width)
        )

    def ids(self, tokens: TokenPyramid) -> list[Tensor]:
        """The tokens' ids, (B, h_l, w_l) int64 per level, on the tokenizer's device; -1 where a token is absent.

        Their values are not checked again.
        """
        check_pyramid(tokens)
        check_own(tokens.fingerprint, self.fingerprint)
        self.require_fitted()
        check_fits(tokens, **self._kind())
        return [ids.to(self.device) for ids in tokens.ids]

    def present(self, tokens: TokenPyramid) -> Presence:
        """The masks of sparse levels, (B, h_l, w_l) bool, on the tokenizer's device; None for a full level."""
        return tuple(None if mask is None else mask.to(self.device) for mask in tokens.present)

    def tokens(self, ids: Sequence[Any], *, image_size: tuple[int, int], image_ids: Any = None) -> TokenPyramid:
        """Tokens of ids of this tokenizer that came without the rest, checked; `tokens.wrapping.pyramid_of_ids` has the rules.

        Without `image_ids` they can be decoded and segmented, but have no image embedding where the tokenizer has image tokens.

        Example:
            >>> tok = PyramidTokenizer.from_pretrained("tiny")
            >>> tok.decode(tok.tokens([[[7, 5, 3]]], image_size=(32, 96))).shape  # level 0 of one image, one row of three ids
            torch.Size([1, 3, 32, 96])
        """
        return pyramid_of_ids(
            ids, image_size=image_size, image_ids=image_ids, fingerprint=self.fingerprint, **self._kind()
        )

    def codes(self, tokens: TokenPyramid) -> tuple[Tensor, ...]:
        """Codebook vectors of the tokens: (B, d_l, h_l, w_l) float32 per level, zero where a token is absent."""
        codes = self.quantizer.codes(self.ids(tokens), self.present(tokens))
        if not all_finite(codes):
            self.quantizer.require_finite_weights()
        return codes

    @torch.no_grad()
    def fused(self, tokens: TokenPyramid) -> list[Tensor]:
        """The trunk's maps of tokens or of a prefix: (B, width_l, h_l, w_l) for every level that is no detail level."""
        maps = self.trunk([level.to(self.dtype) for level in self.codes(tokens)], self.present(tokens))
        if not all_finite(maps):
            explain_maps(maps, self.trunk, weights_advice=WEIGHTS_ADVICE)
        return maps

    @torch.no_grad()
    def embedding(self, tokens: TokenPyramid) -> Tensor:
        """The images' embeddings in CLIP's joint space, from tokens alone: (B, D) float32, unit norm."""
        ids = self.ids(tokens)
        check_image_tokens(tokens, self.quantizer.image.codebook_sizes)
        return self.quantizer.embedding(ids, self.present(tokens), image_ids=tokens.image_ids.to(self.device))

    def similarity(self, source: TokenPyramid | Images, texts: Sequence[str], *, size: int | None = None) -> Tensor:
        """Cosine of every image with every text, from tokens alone: (B, N) float32 in [-1, 1].

        `source` is tokens, or images, which are encoded first, at `size`. Texts are read as they are, without a prompt.
        """
        words = self.text.encode(texts, templates="plain").to(self.device)
        return self.embedding(self.tokens_of(source, size=size)) @ words.T

    def classify(
        self,
        source: TokenPyramid | Images,
        names: Sequence[str],
        *,
        templates: Templates = "default",
        size: int | None = None,
    ) -> Classification:
        """The class that suits each image best, from tokens alone.

        Args:
            source: Tokens, or images, which are encoded first.
            names: N classes; synonyms as "car|automobile". ConfigError where one is empty or occurs twice.
            templates: Prompts that names are put into: a set of `text.TEMPLATES`, or some with one "{}" each.
            size: Resize the short side of images to this many pixels first.

        Example:
            >>> tok = PyramidTokenizer.from_pretrained("tiny")
            >>> found = tok.classify(torch.rand(2, 3, 64, 64), ["dog", "cat", "bicycle|bike"])
            >>> found.scores.shape, found.names
            (torch.Size([2, 3]), ('dog', 'cat', 'bicycle'))
        """
        words = self.text.encode_names(names, templates=templates)
        return words.classify(self.embedding(self.tokens_of(source, size=size)))

    def health(self, tokens: TokenPyramid | Iterable[TokenPyramid]) -> TokenHealth:
        """How well tokens, of any image sizes, use the codebooks: usage, perplexity, unused codes and advice per level."""
        health = measure_health(tokens)
        check_own(health.fingerprint, self.fingerprint)
        return health

    def fit(
        self,
        source: Any,
        *,
        num_crops: int = 4800,
        crop_px: int | None = None,
        vectors_per_code: int = 64,
        seed: int = 0,
        keep_adapters: bool = False,
        progress: Progress | None = None,
    ) -> list[LevelReport]:
        """Fits the codebooks on images, without gradients, in minutes; one report per level, coarse to fine.

        Afterwards the tokenizer decodes to the linear reconstruction of its codes until a decoder is trained. One that was
        trained before does not fit the new codes and is reset, with a warning, unless `keep_adapters` is set.

        Args:
            source: What `train` takes: a folder, a list of images or files, .tar or .parquet files, anything that
                `open_images` knows; random crops of it are drawn. Or batches of images (B, 3, H, W) in [0, 1], which are
                used whole: a list, `RandomCrops`, or a function that returns the same batches at each call.
            num_crops: Crops to draw from `source`. More keep more names: on a small ViT 1,200 kept 84 % of those that the
                backbone knew, 4,800 kept 91 % (`benchmarks/recipe.py`).
            crop_px: Side of a crop in pixels; None takes 160 px, rounded up to a multiple of `multiple_px`.
            vectors_per_code: Cells sampled per codebook entry, at most.
            seed: Draws crops and cells and starts k-means.
            keep_adapters: Refit codebooks and read-outs alone, starting from the present ones, for images of another kind:
                codes keep their meaning, and a trained decoder stays.
            progress: Called as progress("level 0: k-means", 0.6): the stage, and the share of the whole fit that is done.

        Raises:
            DataError: There are no images or fewer cells than codes, all images are alike, or the source can be read only once.
            ConfigError, NotFittedError: `num_crops` is below 1, `progress` no function; `keep_adapters` before a first fit.

        Example:
            >>> from pyramid_tokenizer.config import LevelConfig
            >>> level = LevelConfig(stride=8, maps=(2, 3), codebook_size=32, dim=4)
            >>> tok = PyramidTokenizer.from_backbone("toy", levels=[level])
            >>> photos = [torch.rand(3, 64, 80), torch.rand(3, 96, 64)]
            >>> [report.vectors for report in tok.fit(photos, num_crops=10, crop_px=64)]
            [640]
        """
        check_whole(vectors_per_code=vectors_per_code)
        crops = {"num_crops": num_crops, "crop_px": crop_px, "multiple_px": self.multiple_px, "seed": seed}
        batches = image_batches(source, **crops)
        samples = feature_samples(batches, self.features, multiple_px=self.multiple_px, device=self.device)
        options = {"vectors_per_code": vectors_per_code, "seed": seed, "keep_adapters": keep_adapters}
        reports = fit_quantizer(self.quantizer, samples, progress=progress, num_batches=batches.count, **options)
        self.update_fingerprint()
        if self.pixel_decoder.is_trained and not keep_adapters:
            self.reset_decoder()
        return reports

    def _kind(self) -> dict[str, Any]:
        """What tokens must fit."""
        kind = {"codebook_sizes": self.quantizer.codebook_sizes, "strides": self.quantizer.strides}
        return {**kind, "image_codebook_sizes": self.quantizer.image.codebook_sizes}

    def _to_images(self, codes: Sequence[Tensor], image_size: tuple[int, int], present: Presence = ()) -> Tensor:
        fused = self.trunk([level.to(self.dtype) for level in codes], present)[-1]

        def decode_rows(rows: slice) -> Tensor:
            """The images (B, 3, h, W) of some rows of level 0, not cut to their size."""
            part = [cut_rows(level, rows, codes[0]) for level in codes]
            masks = tuple(mask if mask is None else cut_rows(mask, rows, codes[0]) for mask in present)
            linear_reconstruction = self.quantizer.linear_reconstruction(part, masks)
            images = self.pixel_decoder(cut_rows(fused, rows, codes[0]), linear_reconstruction.to(self.dtype)).float()
            if not all_finite([images]):
                self.quantizer.require_finite_weights()
                explain_pixels(images, self.trunk, self.pixel_decoder, weights_advice=WEIGHTS_ADVICE)
            return images.clamp_(0, 1)

        count, _, rows, columns = codes[0].shape
        stride = self.quantizer.strides[0]
        scales = [self.quantizer.scale(index) for index in range(len(self.quantizer.levels))]
        halo = -(-(self.pixel_decoder.halo_px + enlargement_halo_px(scales)) // stride)
        band = max(HALOS_PER_BAND * halo, BAND_PIXELS // (count * columns * stride**2))
        images = in_bands(decode_rows, rows=rows, band=band, halo=halo)
        return images[..., : image_size[0], : image_size[1]]

    def _to_thumbnails(
        self, codes: Sequence[Tensor], image_size: tuple[int, int], present: Presence, reduction: int
    ) -> Tensor:
        image = self.quantizer.linear_reconstructions(codes, present)[-1]
        thumbnails = reduce_image(image, scale=self.quantizer.scale(len(codes) - 1), reduction=reduction)
        if not all_finite([thumbnails]):
            self.quantizer.require_finite_weights()
        height, width = (-(-side // reduction) for side in image_size)
        return thumbnails.clamp(0, 1)[..., :height, :width]
