"""`PyramidTokenizer`: the composition of ready modules, on one page.

image -> backbone -> FeaturePyramid -> quantizer -> TokenPyramid -> trunk -> fused maps -> pixel decoder -> image
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, overload

import torch
from torch import Tensor, nn

from pyramid_tokenizer import hub
from pyramid_tokenizer.backbones import Backbone, load_backbone, name_backbone
from pyramid_tokenizer.backbones.base import compute_fingerprint
from pyramid_tokenizer.backbones.features import FeaturePyramid
from pyramid_tokenizer.bucketing import OnError, encode_by_size
from pyramid_tokenizer.config.models import Composition, LevelConfig, TokenizerConfig
from pyramid_tokenizer.decoder import PixelDecoder, TopDownTrunk
from pyramid_tokenizer.errors import CheckpointError, NotFittedError, TokenMismatchError, TokenRangeError
from pyramid_tokenizer.hub.build import build_config, build_pixel_decoder, build_trunk, open_model
from pyramid_tokenizer.images import IMAGE_RECIPE_VERSION, ImageLike, pad_to_multiple, to_batch
from pyramid_tokenizer.quantizer.build import build_quantizer
from pyramid_tokenizer.quantizer.fit.batches import image_batches
from pyramid_tokenizer.quantizer.fit.levels import LevelReport, fit_quantizer
from pyramid_tokenizer.quantizer.pyramid import PyramidQuantizer
from pyramid_tokenizer.text import Classification, Templates, TextEncoder
from pyramid_tokenizer.tokens import TokenHealth, TokenPyramid, Vocabulary, measure_health
from pyramid_tokenizer.tokens.geometry import grids_of
from pyramid_tokenizer.tokens.pyramid import Precision, trusted_pyramid

FIT_CROP_PX = 160
"""Side of the crops that `fit` draws, before it is rounded up to a multiple of the tokenizer's strides."""
OWN_PARTS = ("quantizer", "trunk", "pixel_decoder")
"""The parts whose tensors model.safetensors holds; the frozen backbone has files of its own."""

Images = ImageLike | Sequence[ImageLike]
"""One image, or several of one size: see `images.read.to_batch`."""


class PyramidTokenizer(nn.Module):
    """Images -> a pyramid of discrete tokens -> images.

    Make one with `from_pretrained`, `from_backbone` or `from_config`; the constructor takes ready modules. `text` is the one
    `TextEncoder` that `classify`, `similarity` and a `Segmenter` share; assign another to keep embeddings on disk.

    A method that takes images raises ImageError for what is not an image, and NotFittedError before a first `fit`. A method
    that takes tokens raises TokenMismatchError for those of another tokenizer, TokenRangeError for those no encoder made.

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
        """Takes the data that the modules were built from, the frozen backbone, and the modules of `hub.build`."""
        super().__init__()
        self.config = config
        self.backbone: Backbone = backbone
        self.quantizer = quantizer
        self.trunk = trunk
        self.pixel_decoder = pixel_decoder
        self.text = TextEncoder(backbone)
        self._fingerprint, self._fitted = "", False  # taken when first asked for, or by loading and fitting
        self.kept_head: hub.KeptHead | None = None
        self.eval().requires_grad_(False)

    @classmethod
    def from_config(
        cls, config: TokenizerConfig, *, directory: Path | None = None, backbone: Backbone | None = None
    ) -> PyramidTokenizer:
        """A tokenizer with empty codebooks and an untrained decoder.

        Args:
            config: What to build.
            directory: The folder of the backbone that the config names, where it has no public name; see `load_backbone`.
            backbone: In its place, one that is loaded already.
        """
        network = load_backbone(config.backbone, directory=directory) if backbone is None else backbone
        quantizer = build_quantizer(
            config.quantizer, channels=network.channels, strides=network.strides, embedding_dim=network.embedding_dim
        )
        parts = {"trunk": build_trunk(config), "pixel_decoder": build_pixel_decoder(config)}
        return cls(config, backbone=network, quantizer=quantizer, **parts)

    @classmethod
    def from_backbone(
        cls,
        name: str,
        *,
        pretrained: str | Path | None = None,
        blocks: Sequence[int] = (),
        levels: Sequence[LevelConfig] = (),
        composition: Composition = "residual",
        **download: Any,
    ) -> PyramidTokenizer:
        """A new tokenizer on a frozen backbone, in the layout that suits it, with empty codebooks: `fit` comes next.

        Args:
            name: An open_clip model name, "hf-hub:org/repo", a folder in open_clip's local-directory layout, or "toy".
            pretrained: A weight tag or a checkpoint file, beside an open_clip model name.
            blocks: Which of the backbone's blocks are read; the family's preset if not given.
            levels: In place of the preset's (`quantizer.recipe.preset_levels`).
            composition: How levels see each other.
            download: `token`, `cache_dir` and `local_files_only`, as for `load_backbone`.

        Raises:
            BackboneError, CheckpointError, ConfigError: As for `load_backbone`; ConfigError also for levels that do not fit.
        """
        wanted = name_backbone(name, pretrained=pretrained and str(pretrained), blocks=blocks)
        network = load_backbone(wanted, **download)
        return cls.from_config(build_config(network, levels=levels, composition=composition), backbone=network)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        token: str | bool | None = None,
        subfolder: str = "",
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> PyramidTokenizer:
        """The tokenizer of that name, ready to use.

        Args:
            name: A bundled model ("tiny"), a directory that `save_pretrained` wrote, or a Hub repository "user/repo".
            token: Access token for private and gated Hub repositories; None uses that of `hf auth login`.
            subfolder: Folder of the model inside the directory or the repository; "" for the top.
            revision: Branch, tag or commit of a Hub repository.
            cache_dir: Folder that keeps downloaded files, the backbone's included.
            local_files_only: Take files from the cache alone, and never ask the network.
            device: Where the modules go.
            dtype: Precision of backbone and decoder; codebooks stay float32. With bfloat16 features, 0 to 5 % of a level's
                ids differ (two photos on the bundled model): encode a dataset in one precision, float32 unless you must.

        Raises:
            ModelNotFoundError, ConfigError: There is no such model, or its config.json cannot be used.
            CheckpointError, BackboneError: A weight is missing, extra, misshapen or altered, or cannot be fetched.
        """
        download: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        found = open_model(name, subfolder=subfolder, revision=revision, **download)
        tok = cls.from_config(found.config, backbone=found.backbone)
        tok.load_own(hub.read_weights(found.weights_file, tok.own_tensors()))
        if found.config.fingerprint and tok.fingerprint != found.config.fingerprint:
            raise CheckpointError(
                f"expected codebooks with fingerprint {found.config.fingerprint[:12]}, got {tok.fingerprint[:12]}: "
                f"{found.weights_file} was altered; download or save the model again"
            )
        head = hub.read_head(found.directory, found.config.segmentation)
        tok.kept_head = hub.keep_head(head, tok.own_tensors())
        return tok.to(device=device, dtype=dtype)

    @property
    def device(self) -> torch.device:
        """Where the modules are."""
        return self.quantizer.level(0).codebook.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of backbone and decoder."""
        return self.pixel_decoder.to_pixels.weight.dtype

    @property
    def precision(self) -> Precision:
        """Name of the dtype that the backbone computes in; `encode` writes it into its tokens."""
        tensors = itertools.chain(self.backbone.parameters(), self.backbone.buffers())
        dtype = next(tensor.dtype for tensor in tensors if tensor.is_floating_point())
        return cast(Precision, str(dtype).removeprefix("torch."))

    @property
    def fingerprint(self) -> str:
        """Names the tokenizer that tokens belong to: 64 hexadecimal digits, see `update_fingerprint`."""
        return self._fingerprint or self.update_fingerprint()

    def update_fingerprint(self) -> str:
        """Takes the fingerprint anew; whoever changes codebooks, adapters or read-outs in place calls this afterwards.

        It is the SHA-256 of what determines ids and of nothing else (docs/design.md has the list), from weights as they are
        stored. Loading, `fit` and training take it; a cast does not change it, as tokens hold the precision beside it.
        """
        facts, tensors = self.quantizer.identity()
        facts["backbone"] = self.backbone.fingerprint
        facts["dense_reading"] = list(self.backbone.dense_readings[:1]) if self.quantizer.reads_dense else []
        facts["image_recipe"] = IMAGE_RECIPE_VERSION
        self._fingerprint, self._fitted = compute_fingerprint(tensors, **facts), self.quantizer.is_fitted
        return self._fingerprint

    @property
    def vocabulary(self) -> Vocabulary:
        """Flattens token pyramids to one integer sequence and back."""
        sizes, strides = self.quantizer.codebook_sizes, self.quantizer.strides
        return Vocabulary(codebook_sizes=sizes, strides=strides, fingerprint=self.fingerprint)

    @property
    def multiple_px(self) -> int:
        """Both sides of a batch are padded to multiples of this."""
        return math.lcm(self.quantizer.strides[0], self.backbone.multiple_px)

    def encode(self, images: Images, *, size: int | None = None) -> TokenPyramid:
        """Tokens of images of one size, after resizing their short side to `size` pixels where given.

        Ids do not depend on the batch size but for rounding in the backbone: of 268,800 ids of the bundled model at most 1
        differs between batches of 1, 2, 7, 8 and 32, none between processes (benchmarks/reconstruction.py, 2-core CPU).
        """
        batch = to_batch(images, size=size)
        height, width = batch.shape[-2:]
        ids = self.quantizer.encode(self.features(batch))
        return trusted_pyramid(
            ids=[level.contiguous() for level in self._cut(ids, (height, width))],
            codebook_sizes=self.quantizer.codebook_sizes,
            image_size=(height, width),
            fingerprint=self.fingerprint,
            precision=self.precision,
        )

    @overload
    def encode_many(
        self, images: Iterable[ImageLike], *, size: int | None = None, batch_size: int = 8
    ) -> list[TokenPyramid]: ...

    @overload
    def encode_many(
        self, images: Iterable[ImageLike], *, size: int | None = None, batch_size: int = 8, on_error: OnError
    ) -> list[TokenPyramid | None]: ...

    def encode_many(
        self,
        images: Iterable[ImageLike],
        *,
        size: int | None = None,
        batch_size: int = 8,
        on_error: OnError = "raise",
    ) -> Sequence[TokenPyramid | None]:
        """Tokens of images of any sizes, one pyramid each, in order; see `bucketing.encode_by_size` for the arguments.

        With `on_error="skip"`, None stands at the place of an image that cannot be read, and a warning is logged.
        """
        return encode_by_size(self.encode, images, size=size, batch_size=batch_size, on_error=on_error)

    @torch.no_grad()
    def decode(self, tokens: TokenPyramid) -> Tensor:
        """Images of tokens, or of any prefix of their levels: (B, 3, H, W) float32 in [0, 1], at the original size."""
        return self._to_images(self.codes(tokens), tokens.image_size)

    def reconstruct(self, images: Images, *, size: int | None = None) -> Tensor:
        """`decode(encode(images, size=size))`: (B, 3, H, W) float32 in [0, 1]."""
        return self.decode(self.encode(images, size=size))

    forward = reconstruct

    @torch.no_grad()
    def reconstruct_continuous(self, images: Images, *, size: int | None = None) -> Tensor:
        """As `reconstruct`, from the features before quantisation: the difference is what the codebooks cost."""
        batch = to_batch(images, size=size)
        height, width = batch.shape[-2:]
        maps = self.quantizer.encode_continuous(self.features(batch))
        return self._to_images(self._cut(maps, (height, width)), (height, width))

    @torch.no_grad()
    def features(self, batch: Tensor, *, with_dense: bool = False) -> FeaturePyramid:
        """The frozen backbone's features of a (B, 3, H, W) batch in [0, 1], padded by edge replication.

        With `with_dense`, or where a level reads the dense features, also the text-aligned outputs.
        """
        padded = pad_to_multiple(batch.to(self.device), multiple=self.multiple_px)
        return self.backbone(padded, with_dense=with_dense or self.quantizer.reads_dense)

    def ids(self, tokens: TokenPyramid) -> list[Tensor]:
        """The tokens' ids, (B, h_l, w_l) int64 per level, on the tokenizer's device. Their values are not checked again."""
        self._check_own(tokens.fingerprint)
        if not self._fitted:
            raise NotFittedError("expected fitted codebooks, got empty ones: call fit(images) or load a trained model")
        sizes = self.quantizer.codebook_sizes[: len(tokens)]
        if tokens.codebook_sizes != sizes:
            raise TokenRangeError(
                f"expected codebook_sizes {sizes}, got {tokens.codebook_sizes}: give the tokens of one encode"
            )
        expected = grids_of(tokens.image_size, self.quantizer.strides)[: len(tokens)]
        if tokens.grids != expected:
            raise TokenRangeError(
                f"expected grids {expected} for images of {tokens.image_size} px, got {tokens.grids}: "
                "give the tokens of one encode, with their own image size"
            )
        return [ids.to(self.device) for ids in tokens.ids]

    def codes(self, tokens: TokenPyramid) -> tuple[Tensor, ...]:
        """Codebook vectors of the tokens: (B, d_l, h_l, w_l) float32 per level."""
        return self.quantizer.codes(self.ids(tokens))

    @torch.no_grad()
    def fused(self, tokens: TokenPyramid) -> list[Tensor]:
        """The trunk's maps of tokens or of a prefix: (B, width_l, h_l, w_l) for every level of the pyramid."""
        return self.trunk([level.to(self.dtype) for level in self.codes(tokens)])

    @torch.no_grad()
    def embedding(self, tokens: TokenPyramid) -> Tensor:
        """The images' embeddings in CLIP's joint space, from tokens alone: (B, D) float32, unit norm."""
        return self.quantizer.embedding(self.ids(tokens))

    def similarity(self, source: TokenPyramid | Images, texts: Sequence[str], *, size: int | None = None) -> Tensor:
        """Cosine of every image with every text, from tokens alone: (B, N) float32 in [-1, 1].

        `source` is tokens, or images, which are encoded first, at `size`. Texts are read as they are, without a prompt.
        """
        words = self.text.encode(texts, templates="plain")
        return self.embedding(self.tokens_of(source, size=size)) @ words.to(self.device).T

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

    def tokens_of(self, source: TokenPyramid | Images, *, size: int | None = None, stacklevel: int = 3) -> TokenPyramid:
        """Tokens as they are; images encoded, at `size`. A `size` for tokens is ignored with a warning."""
        if not isinstance(source, TokenPyramid):
            return self.encode(source, size=size)
        if size is not None:
            warnings.warn(f"size={size} is ignored: tokens have the size of their images", stacklevel=stacklevel)
        return source

    def health(self, tokens: TokenPyramid | Iterable[TokenPyramid]) -> TokenHealth:
        """How well tokens, of any image sizes, use the codebooks: usage, perplexity, unused codes and advice per level."""
        health = measure_health(tokens)
        self._check_own(health.fingerprint)
        return health

    def fit(
        self,
        source: Any,
        *,
        num_crops: int = 1200,
        crop_px: int | None = None,
        vectors_per_code: int = 64,
        seed: int = 0,
        keep_adapters: bool = False,
    ) -> list[LevelReport]:
        """Fits the codebooks on images, without gradients, in minutes.

        Afterwards the tokenizer decodes to the linear reconstruction of its codes until a decoder is trained. A decoder that
        was trained before does not fit the new codes: trunk and pixel decoder are then reset to an untrained start, with a
        warning, unless `keep_adapters` is set.

        Args:
            source: What `train` takes: a folder, a list of images or files, .tar or .parquet files, anything that
                `open_images` knows; random crops of it are drawn. Or batches of images (B, 3, H, W) in [0, 1], which are
                used whole: a list, `RandomCrops`, or a function that returns the same batches at each call.
            num_crops: Crops to draw from `source`.
            crop_px: Side of a crop in pixels; None takes 160 px, rounded up to a multiple of `multiple_px`.
            vectors_per_code: Cells sampled per codebook entry, at most.
            seed: Draws crops and cells and starts k-means.
            keep_adapters: Refit codebooks and read-outs alone, starting from the present ones, for images of another kind:
                codes keep their meaning, and a trained decoder stays.

        Returns:
            One report per level, coarse to fine.

        Raises:
            DataError: No images, images that are all alike, fewer cells than codes, or an iterator, which can be read
                only once.
            ConfigError: `num_crops` is below 1.
            NotFittedError: `keep_adapters` before a first fit.
            ImageError: A batch that is no batch of images.

        Example:
            >>> from pyramid_tokenizer.config import LevelConfig
            >>> level = LevelConfig(stride=8, maps=(2, 3), codebook_size=32, dim=4)
            >>> tok = PyramidTokenizer.from_backbone("toy", levels=[level])
            >>> photos = [torch.rand(3, 64, 80), torch.rand(3, 96, 64)]
            >>> [report.vectors for report in tok.fit(photos, num_crops=10, crop_px=64)]
            [640]
        """
        side = crop_px or math.ceil(FIT_CROP_PX / self.multiple_px) * self.multiple_px
        batches = image_batches(source, num_crops=num_crops, crop_px=side, seed=seed)

        def samples() -> Iterable[tuple[FeaturePyramid, Tensor]]:
            for batch in batches():
                padded = pad_to_multiple(to_batch(batch).to(self.device), multiple=self.multiple_px)
                yield self.features(padded, with_dense=True), padded

        reports = fit_quantizer(
            self.quantizer, samples, vectors_per_code=vectors_per_code, seed=seed, keep_adapters=keep_adapters
        )
        self.update_fingerprint()
        if self.pixel_decoder.is_trained and not keep_adapters:
            self.trunk.reset_parameters()
            self.pixel_decoder.reset_parameters()
            message = (
                "the trained decoder was reset because it does not fit the new codes: train it again, or fit with "
                "keep_adapters=True, which keeps it"
            )
            warnings.warn(message, stacklevel=2)
        return reports

    def own_tensors(self) -> dict[str, Tensor]:
        """Names and tensors of model.safetensors: all parts but the frozen backbone."""
        return {f"{part}.{n}": t for part in OWN_PARTS for n, t in getattr(self, part).state_dict().items()}

    def load_own(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over tensors named as `own_tensors` names them; `hub.read_weights` has checked them."""
        for part in OWN_PARTS:
            own = {n.removeprefix(f"{part}."): t for n, t in tensors.items() if n.startswith(f"{part}.")}
            getattr(self, part).load_state_dict(own)
        self.update_fingerprint()

    def save_pretrained(
        self,
        directory: str | Path,
        *,
        half: bool = False,
        evaluation: dict[str, Any] | None = None,
        head: hub.StoredHead | None = None,
    ) -> Path:
        """Writes config.json, model.safetensors, README.md and, where the backbone has no public address, backbone/.

        Arguments and errors as for `hub.save_model`; `head` comes from `Segmenter.save_pretrained`. Without it, a segmentation
        head that the model was loaded with is written too, unless codebooks or trunk have changed, which is a warning.
        """
        if not self.quantizer.is_fitted:
            raise NotFittedError("expected fitted codebooks to save, got empty ones: call fit first")
        # anew, because files that do not fit their fingerprint cannot be loaded
        config = dataclasses.replace(self.config, fingerprint=self.update_fingerprint())
        tensors = self.own_tensors()
        head = hub.fitting_head(self.kept_head, tensors) if head is None else head
        parts = {"backbone": self.backbone, "tensors": tensors, "head": head}
        return hub.save_model(directory, config, **parts, half=half, evaluation=evaluation)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads the model to the Hub repository "user/repo" and returns the commit's address; options as for `hub.push`."""
        return hub.push_saved(self.save_pretrained, repo_id, **options)

    def __repr__(self) -> str:
        quantizer, name = self.quantizer, self.config.backbone.name or self.config.backbone.kind
        rate = sum(math.log2(k) / s**2 for k, s in zip(quantizer.codebook_sizes, quantizer.strides, strict=True))
        rows = [
            f"  {index:>5}  {stride:>9}  {size:>6}  {level.dim:>4}"
            for index, (stride, size, level) in enumerate(
                zip(quantizer.strides, quantizer.codebook_sizes, self.config.quantizer.levels, strict=True)
            )
        ]
        facts = f"{rate:.3g} bits per pixel, fingerprint {self.fingerprint[:12]}, {self.device}, {self.dtype}"
        return "\n".join([f"PyramidTokenizer on {name}", "  level  stride px   codes  dims", *rows, f"  {facts}"])

    def _check_own(self, fingerprint: str) -> None:
        if fingerprint != self.fingerprint:
            raise TokenMismatchError(
                f"expected tokens of tokenizer {self.fingerprint[:12]}, got tokens of {fingerprint[:12]}: "
                "load the tokenizer that made them, or encode the images again"
            )

    def _cut(self, levels: Sequence[Tensor], image_size: tuple[int, int]) -> list[Tensor]:
        """Maps (..., h, w) without the padding that a backbone coarser than level 0 needs beyond the tokens' own."""
        grids = grids_of(image_size, self.quantizer.strides)
        return [level[..., :h, :w] for level, (h, w) in zip(levels, grids, strict=True)]

    def _to_images(self, codes: Sequence[Tensor], image_size: tuple[int, int]) -> Tensor:
        linear_reconstruction = self.quantizer.linear_reconstruction(codes)
        fused = self.trunk([level.to(self.dtype) for level in codes])[-1]
        images = self.pixel_decoder(fused, linear_reconstruction.to(self.dtype)).float().clamp(0, 1)
        return images[..., : image_size[0], : image_size[1]]
