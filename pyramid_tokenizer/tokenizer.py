"""`PyramidTokenizer`: the composition of ready modules, on one page.

image -> backbone -> FeaturePyramid -> quantizer -> TokenPyramid -> trunk -> fused maps -> pixel decoder -> image
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from pyramid_tokenizer import hub
from pyramid_tokenizer.backbones import load_backbone, name_backbone
from pyramid_tokenizer.backbones.features import FeaturePyramid
from pyramid_tokenizer.bucketing import encode_by_size
from pyramid_tokenizer.config.models import Composition, LevelConfig, SegmentationConfig, TokenizerConfig
from pyramid_tokenizer.config.plain import to_dict
from pyramid_tokenizer.decoder.pixels import PixelDecoder
from pyramid_tokenizer.decoder.trunk import TopDownTrunk
from pyramid_tokenizer.errors import CheckpointError, DataError, NotFittedError, TokenMismatchError, TokenRangeError
from pyramid_tokenizer.hub.directory import WEIGHTS_FILE, backbone_folder, write_model
from pyramid_tokenizer.images.pixels import pad_to_multiple
from pyramid_tokenizer.images.read import ImageLike, to_batch
from pyramid_tokenizer.quantizer.build import build_quantizer
from pyramid_tokenizer.quantizer.fit.levels import LevelReport, fit_quantizer
from pyramid_tokenizer.quantizer.pyramid import PyramidQuantizer
from pyramid_tokenizer.quantizer.recipe import preset_config
from pyramid_tokenizer.text import TextEncoder
from pyramid_tokenizer.tokens.geometry import grids_of
from pyramid_tokenizer.tokens.health import TokenHealth, measure_health
from pyramid_tokenizer.tokens.pyramid import Precision, TokenPyramid, trusted_pyramid
from pyramid_tokenizer.tokens.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Classification:
    """Names of images."""

    labels: Tensor
    """(B,) int64, an index into `names`."""
    scores: Tensor
    """(B, N) float32: cosine of the image's embedding with each class, in [-1, 1]; the highest of its synonyms'."""
    names: tuple[str, ...]
    """A class's name is its first synonym."""


OWN_PARTS = ("quantizer", "trunk", "pixel_decoder")
"""The parts that model.safetensors holds; the frozen backbone has files of its own."""


class PyramidTokenizer(nn.Module):
    """Images -> a pyramid of discrete tokens -> images.

    Make one with `from_pretrained`, `from_backbone` or `from_config`; the constructor takes ready modules.

    Args:
        config: The data the modules were built from.
        backbone: Frozen backbone, (B, 3, H, W) -> FeaturePyramid.
        quantizer: Features <-> ids.
        trunk: Codes -> fused maps.
        pixel_decoder: Finest fused map and linear reconstruction -> image.

    Example:
        >>> tok = PyramidTokenizer.from_pretrained("tiny")
        >>> photos = torch.rand(2, 3, 64, 96)
        >>> tokens = tok.encode(photos)
        >>> [tuple(ids.shape) for ids in tokens.ids]
        [(2, 2, 3), (2, 4, 6), (2, 8, 12)]
        >>> tok.decode(tokens).shape, tok.decode(tokens[:1]).shape
        (torch.Size([2, 3, 64, 96]), torch.Size([2, 3, 64, 96]))
    """

    def __init__(
        self,
        config: TokenizerConfig,
        *,
        backbone: Any,
        quantizer: PyramidQuantizer,
        trunk: TopDownTrunk,
        pixel_decoder: PixelDecoder,
    ):
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.quantizer = quantizer
        self.trunk = trunk
        self.pixel_decoder = pixel_decoder
        self.eval().requires_grad_(False)

    @classmethod
    def from_config(
        cls, config: TokenizerConfig, *, directory: Path | None = None, backbone: Any | None = None
    ) -> PyramidTokenizer:
        """Builds all modules: the backbone with its weights, the codebooks empty, the decoder untrained.

        Args:
            config: What to build.
            directory: The backbone's own folder (open_clip's local-directory layout), where it has no public address.
            backbone: A backbone that is loaded already.

        Raises:
            BackboneError: The backbone cannot be loaded.
            CheckpointError: The backbone is not the one whose fingerprint the config holds, or its files are damaged.
            ConfigError: Levels and backbone do not fit together.
        """
        network: Any = load_backbone(config.backbone, directory=directory) if backbone is None else backbone
        decoder = config.decoder
        quantizer = build_quantizer(
            config.quantizer, channels=network.channels, strides=network.strides, embedding_dim=network.embedding_dim
        )
        pixel_decoder = PixelDecoder(
            in_channels=decoder.widths[-1],
            stride=quantizer.strides[-1],
            widths=decoder.pixel_widths,
            depth=decoder.pixel_depth,
        )
        return cls(
            config, backbone=network, quantizer=quantizer, trunk=build_trunk(config), pixel_decoder=pixel_decoder
        )

    @classmethod
    def from_backbone(
        cls,
        name: str,
        *,
        pretrained: str | Path | None = None,
        blocks: Sequence[int] = (),
        levels: Sequence[LevelConfig] = (),
        composition: Composition = "residual",
    ) -> PyramidTokenizer:
        """A new tokenizer on a frozen backbone, in the layout that suits it, with empty codebooks: `fit` comes next.

        Args:
            name: An open_clip model name, "hf-hub:org/repo", a folder in open_clip's local-directory layout, or "toy".
            pretrained: A weight tag or a checkpoint file, beside an open_clip model name.
            blocks: Which of the backbone's blocks are read; the family's preset if not given.
            levels: In place of the preset's (`presets.preset_levels`).
            composition: How levels see each other.

        Raises:
            BackboneError: The name or tag is unknown (near ones are told), or the weights cannot be fetched.
            CheckpointError: The weights are of another architecture, or their file is damaged.
            ConfigError: Blocks or levels do not fit the backbone.

        Example:
            >>> tok = PyramidTokenizer.from_backbone("toy")
            >>> tok.quantizer.strides, tok.quantizer.codebook_sizes, tok.quantizer.is_fitted
            ((32, 16, 8), (4096, 4096, 4096), False)
        """
        network: Any = load_backbone(name_backbone(name, pretrained=pretrained and str(pretrained), blocks=blocks))
        config = preset_config(
            dataclasses.replace(network.config, blocks=network.blocks),
            channels=network.channels,
            strides=network.strides,
            levels=levels,
            composition=composition,
        )
        return cls.from_config(config, backbone=network)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> PyramidTokenizer:
        """The tokenizer of that name, ready to use.

        Args:
            name: A bundled model ("tiny"), a directory that `save_pretrained` wrote, or a Hub repository "user/repo".
            revision: Branch, tag or commit of a Hub repository.
            cache_dir: Where Hub files are kept.
            local_files_only: Never ask the network.
            device: Where the modules go.
            dtype: Of backbone and decoder; codebooks stay float32. With bfloat16 features, 0 to 5 % of a level's ids differ
                (two photos on the bundled model): encode a dataset in one precision, float32 unless you must.

        Raises:
            ModelNotFoundError: Nothing of that name.
            ConfigError: Its config.json has unknown fields or values out of range.
            CheckpointError: A weight is missing, extra, misshapen or altered.
            BackboneError: The backbone's weights cannot be fetched.
        """
        directory = hub.resolve_model(name, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only)
        config = hub.read_config(directory)
        tok = cls.from_config(config, directory=backbone_folder(directory, config.backbone))
        tok.load_own(hub.read_weights(directory / WEIGHTS_FILE, tok.own_tensors()))
        if config.fingerprint and tok.fingerprint != config.fingerprint:
            raise CheckpointError(
                f"expected codebooks with fingerprint {config.fingerprint[:12]}, got {tok.fingerprint[:12]}: "
                f"{directory / WEIGHTS_FILE} was altered; download or save the model again"
            )
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
        """SHA-256 (hex) of all that determines ids: backbone, adapters, codebooks and their config; not the decoder."""
        digest = hashlib.sha256(self.backbone.fingerprint.encode())
        digest.update(json.dumps(to_dict(self.config.quantizer), sort_keys=True).encode())
        if self.quantizer.reads_dense:
            digest.update(repr(self.backbone.dense_readings[:1]).encode())
        self.quantizer.update_digest(digest)
        return digest.hexdigest()

    @property
    def vocabulary(self) -> Vocabulary:
        """Flattens token pyramids to one integer sequence and back."""
        return Vocabulary(
            codebook_sizes=self.quantizer.codebook_sizes, strides=self.quantizer.strides, fingerprint=self.fingerprint
        )

    @property
    def multiple_px(self) -> int:
        """Both sides of a batch are padded to multiples of this."""
        return math.lcm(self.quantizer.strides[0], self.backbone.multiple_px)

    def encode(self, images: ImageLike | Sequence[ImageLike], *, size: int | None = None) -> TokenPyramid:
        """Tokens of one image or of a batch of one size.

        Ids do not depend on the batch size but for rounding in the backbone. Measured with the bundled model: of 268,800 ids at
        most 1 differs between batches of 1, 2, 7, 8 and 32, and none between processes (benchmarks/reconstruction.py, 2-core
        CPU).

        Args:
            images: A PIL image, a path, an array (H, W, 3), a tensor (3, H, W) or (B, 3, H, W), or a list of same-sized ones;
                arrays and tensors are uint8 in 0..255 or float in [0, 1] (`images.ImageLike` says more).
            size: Resize the short side to this many pixels first; None keeps the native size.

        Raises:
            MixedSizesError: A list of different sizes; use `encode_many`.
            ImageError: Unreadable files, NaN, wrong range, dtype or shape.
            NotFittedError: The codebooks are empty.
        """
        batch = to_batch(images, size=size)
        height, width = batch.shape[-2:]
        grids = grids_of((height, width), self.quantizer.strides)
        ids = self.quantizer.encode(self.features(batch))
        return trusted_pyramid(
            # a backbone coarser than level 0 needs more padding than the tokens
            ids=[level[:, :h, :w].contiguous() for level, (h, w) in zip(ids, grids, strict=True)],
            codebook_sizes=self.quantizer.codebook_sizes,
            image_size=(height, width),
            fingerprint=self.fingerprint,
            precision=self.precision,
        )

    def encode_many(
        self, images: Iterable[ImageLike], *, size: int | None = None, batch_size: int = 8
    ) -> list[TokenPyramid]:
        """Tokens of images of any sizes, one pyramid each, in order.

        Args:
            images: Any iterable of what `encode` takes one of; read once, one by one.
            size: Resize short sides to this many pixels first.
            batch_size: Images of one size that are encoded together; up to eight times as many wait in memory for
                others of their size.

        Raises:
            ImageError: As `encode`; the message tells the image's position. Also for a single image.
            ConfigError: `batch_size` is below 1.
            NotFittedError: The codebooks are empty.
        """
        return encode_by_size(self.encode, images, size=size, batch_size=batch_size)

    @torch.no_grad()
    def decode(self, tokens: TokenPyramid) -> Tensor:
        """Images of tokens, or of any prefix of their levels.

        Args:
            tokens: What `encode` gave, or a prefix of it, on any device.

        Returns:
            (B, 3, H, W) float32 in [0, 1] at the original size, on the tokenizer's device.

        Raises:
            TokenMismatchError: Another tokenizer made the tokens.
            TokenRangeError: Tokens that no encoder made: grids that do not fit the strides or the image size.
        """
        return self._to_images(self.codes(tokens), tokens.image_size)

    def reconstruct(self, images: ImageLike | Sequence[ImageLike], *, size: int | None = None) -> Tensor:
        """`decode(encode(images))`: (B, 3, H, W) float32 in [0, 1]."""
        return self.decode(self.encode(images, size=size))

    @torch.no_grad()
    def reconstruct_continuous(self, images: ImageLike | Sequence[ImageLike], *, size: int | None = None) -> Tensor:
        """As `reconstruct`, from the features before quantisation: what the codebooks cost. (B, 3, H, W) in [0, 1]."""
        batch = to_batch(images, size=size)
        height, width = batch.shape[-2:]
        maps = self.quantizer.encode_continuous(self.features(batch))
        grids = grids_of((height, width), self.quantizer.strides)
        return self._to_images([x[..., :h, :w] for x, (h, w) in zip(maps, grids, strict=True)], (height, width))

    @torch.no_grad()
    def features(self, batch: Tensor, *, with_dense: bool = False) -> FeaturePyramid:
        """What the frozen backbone gives for a (B, 3, H, W) batch in [0, 1], padded by edge replication.

        With `with_dense`, or where a level sees the dense map, also the text-aligned outputs.
        """
        padded = pad_to_multiple(batch.to(self.device), multiple=self.multiple_px)
        return self.backbone(padded, with_dense=with_dense or self.quantizer.reads_dense)

    def ids(self, tokens: TokenPyramid) -> list[Tensor]:
        """The tokens' ids on the tokenizer's device, (B, h_l, w_l) int64 per level, checked to be its own.

        Raises:
            TokenMismatchError: Another tokenizer made the tokens.
            TokenRangeError: Tokens that no encoder made: grids that do not fit the strides or the image size.
        """
        self._check_own(tokens.fingerprint)
        expected = grids_of(tokens.image_size, self.quantizer.strides)[: len(tokens)]
        if tokens.grids != expected:
            raise TokenRangeError(
                f"expected grids {expected} for images of {tokens.image_size} px, got {tokens.grids}: "
                "give the tokens of one encode, with their own image size"
            )
        return [ids.to(self.device) for ids in tokens.ids]

    def codes(self, tokens: TokenPyramid) -> tuple[Tensor, ...]:
        """Codebook vectors of the tokens: (B, d_l, h_l, w_l) float32 per level.

        Raises:
            TokenMismatchError: Another tokenizer made the tokens.
            TokenRangeError: Tokens that no encoder made: grids that do not fit the strides or the image size.
        """
        return self.quantizer.codes(self.ids(tokens))

    @torch.no_grad()
    def fused(self, tokens: TokenPyramid) -> list[Tensor]:
        """The trunk's maps of tokens or of a prefix: (B, width_l, h_l, w_l) for every level of the pyramid.

        Raises:
            TokenMismatchError, TokenRangeError: As `codes`.
        """
        return self.trunk([level.to(self.dtype) for level in self.codes(tokens)])

    @torch.no_grad()
    def embedding(self, tokens: TokenPyramid) -> Tensor:
        """The images' place in the space they share with words, from tokens alone: (B, D) float32, unit norm.

        Raises:
            TokenMismatchError: Another tokenizer made the tokens.
            TokenRangeError: Tokens that no encoder made: grids that do not fit the strides or the image size.
        """
        return self.quantizer.embedding(self.ids(tokens))

    @torch.no_grad()
    def similarity(self, tokens: TokenPyramid, texts: Sequence[str]) -> Tensor:
        """Cosine of every image with every text, from tokens alone: (B, N) float32 in [-1, 1].

        Args:
            tokens: Of B images.
            texts: N sentences or phrases, read as they stand; see `text.TextEncoder` for class names in prompts.

        Raises:
            ConfigError: A bare string, or an empty text.
            TokenMismatchError, TokenRangeError: As `embedding`.
        """
        words = TextEncoder(self.backbone, templates="plain").encode(texts)
        return self.embedding(tokens) @ words.to(self.device).T

    def classify(
        self, tokens: TokenPyramid, names: Sequence[str], *, templates: str | Sequence[str] = "default"
    ) -> Classification:
        """The name that suits each image best, from tokens alone.

        Args:
            tokens: Of B images.
            names: N classes; synonyms as "car|automobile".
            templates: Prompts that the names are read in: a set of `text.TEMPLATES`, or some with one "{}" each.

        Raises:
            ConfigError: No names, a bare string, empty or repeated words.
            TokenMismatchError, TokenRangeError: As `embedding`.

        Example:
            >>> tok = PyramidTokenizer.from_pretrained("tiny")
            >>> found = tok.classify(tok.encode(torch.rand(2, 3, 64, 64)), ["dog", "cat", "bicycle|bike"])
            >>> found.scores.shape, found.names
            (torch.Size([2, 3]), ('dog', 'cat', 'bicycle'))
        """
        words = TextEncoder(self.backbone, templates=templates).encode_names(names)
        scores = words.class_scores(self.embedding(tokens) @ words.embeddings.to(self.device).T)  # (B, N)
        return Classification(labels=scores.argmax(1), scores=scores, names=words.names)

    def health(self, tokens: TokenPyramid | Iterable[TokenPyramid]) -> TokenHealth:
        """How well the codebooks are used by these tokens: usage, perplexity, dead codes, a verdict and a cure per level.

        Args:
            tokens: One pyramid or any number of them, of any image sizes; all with as many levels.

        Raises:
            TokenMismatchError: Another tokenizer made them, or they have different numbers of levels.
            TokenError: There are none.
        """
        health = measure_health(tokens)
        self._check_own(health.fingerprint)
        return health

    def fit(
        self,
        batches: Iterable[Tensor] | Callable[[], Iterable[Tensor]],
        *,
        vectors_per_code: int = 64,
        seed: int = 0,
        keep_adapters: bool = False,
    ) -> list[LevelReport]:
        """Fits the codebooks without gradients: working ids in minutes, no gradient. The decoder then shows the linear reconstruction.

        Args:
            batches: Image batches (B, 3, H, W) in [0, 1]: a list, or a function that gives the same batches at each call.
            vectors_per_code: Cells sampled per codebook entry.
            seed: Of sampling and k-means.
            keep_adapters: Refit codebooks and read-outs alone, from the present ones: for images of another kind, with a
                decoder that is trained already.

        Returns:
            One report per level, coarse to fine.

        Raises:
            DataError: No images, images that are all alike, fewer cells than codes, or an iterator, which can be read
                only once.
            NotFittedError: `keep_adapters` before a first fit.
            ImageError: A batch that is no batch of images.
        """
        if isinstance(batches, Iterator):
            raise DataError(
                "expected batches that can be read once per level, got an iterator: give a list, or a function that "
                "makes a new iterator at each call"
            )
        make = batches if callable(batches) else lambda: batches

        def samples() -> Iterable[tuple[FeaturePyramid, Tensor]]:
            for batch in make():
                padded = pad_to_multiple(to_batch(batch).to(self.device), multiple=self.multiple_px)
                yield self.features(padded, with_dense=True), padded

        return fit_quantizer(
            self.quantizer, samples, vectors_per_code=vectors_per_code, seed=seed, keep_adapters=keep_adapters
        )

    def own_tensors(self) -> dict[str, Tensor]:
        """Names and tensors of model.safetensors: all parts but the frozen backbone."""
        return {
            f"{part}.{name}": tensor for part in OWN_PARTS for name, tensor in getattr(self, part).state_dict().items()
        }

    def load_own(self, tensors: dict[str, Tensor]) -> None:
        """Takes over tensors named as `own_tensors` names them; `hub.read_weights` has checked them."""
        for part in OWN_PARTS:
            getattr(self, part).load_state_dict(
                {n.removeprefix(f"{part}."): t for n, t in tensors.items() if n.startswith(f"{part}.")}
            )

    def save_pretrained(
        self,
        directory: str | Path,
        *,
        half: bool = False,
        evaluation: dict[str, Any] | None = None,
        head: dict[str, Tensor] | None = None,
    ) -> Path:
        """Writes config.json, model.safetensors, README.md and, where the backbone has no public address, backbone/.

        Args:
            directory: Made where missing; a model already there is replaced file by file, config.json last, and its
                evaluation.json goes.
            half: Store trunk, pixel decoder and head as float16 (half the size; decoded pixels change in the last bit or two).
            evaluation: Measured figures for evaluation.json and the model card.
            head: Tensors of the segmentation head that `config.segmentation` describes; `Segmenter.save_pretrained` gives
                them. None saves the tokenizer alone.

        Returns:
            The directory.

        Raises:
            NotFittedError: The codebooks are empty.
            CheckpointError: `directory` is a file, or the tokenizer was cast to another dtype.
            OSError: It cannot be written, e.g. the disk is full; a model that was there is as it was.
        """
        if not self.quantizer.is_fitted:
            raise NotFittedError("expected fitted codebooks to save, got empty ones: call fit(batches) first")
        if self.dtype != torch.float32:
            raise CheckpointError(
                f"expected a float32 tokenizer to save, got {self.dtype}, which has lost digits: load it without dtype="
            )
        tensors = {
            name: tensor.half() if half and not name.startswith("quantizer.") else tensor.float()
            for name, tensor in self.own_tensors().items()
        }
        segmentation = None if head is None else self.config.segmentation or SegmentationConfig()
        config = dataclasses.replace(self.config, fingerprint=self.fingerprint, segmentation=segmentation)
        directory = Path(directory).expanduser()
        if head is not None:
            head = {name: tensor.half() if half else tensor.float() for name, tensor in head.items()}
        write_model(directory, config, backbone=self.backbone, tensors=tensors, head=head, evaluation=evaluation)
        return directory

    def push_to_hub(
        self, repo_id: str, *, private: bool = False, token: str | None = None, commit_message: str = "Upload tokenizer"
    ) -> str:
        """Uploads the model to a Hub repository, made where missing.

        Args:
            repo_id: "user/repo".
            private: Visibility of a new repository.
            token: Access token; the one of `hf auth login` by default.
            commit_message: First line of the commit.

        Returns:
            Address of the commit.

        Raises:
            NotFittedError: The codebooks are empty.
            HubError: The Hub cannot be reached or refuses.
        """
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return hub.push(Path(folder), repo_id, private=private, token=token, commit_message=commit_message)

    def _check_own(self, fingerprint: str) -> None:
        if fingerprint != self.fingerprint:
            raise TokenMismatchError(
                f"expected tokens of tokenizer {self.fingerprint[:12]}, got tokens of {fingerprint[:12]}: "
                "load the tokenizer that made them, or encode the images again"
            )

    def _to_images(self, codes: Sequence[Tensor], image_size: tuple[int, int]) -> Tensor:
        linear_reconstruction = self.quantizer.linear_reconstruction(codes)
        fused = self.trunk([level.to(self.dtype) for level in codes])[-1]
        images = self.pixel_decoder(fused, linear_reconstruction.to(self.dtype)).float().clamp(0, 1)
        height, width = image_size
        return images[..., :height, :width]


def build_trunk(config: TokenizerConfig) -> TopDownTrunk:
    """An untrained trunk for the config's levels and decoder widths."""
    levels, decoder = config.quantizer.levels, config.decoder
    return TopDownTrunk(
        dims=[level.dim for level in levels],
        strides=[level.stride for level in levels],
        widths=decoder.widths,
        depths=decoder.depths,
    )
