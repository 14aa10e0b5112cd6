"""`Segmenter`: tokenizer + head + words -> labelled masks, from stored tokens alone.

tokens -> text embeddings of their codes -> embedding per cell [-> refined by the head] -> scores with words -> labels
"""

from __future__ import annotations

import math
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer import hub
from pyramid_tokenizer.backbones.features import enlarge
from pyramid_tokenizer.checks.arguments import check_kind
from pyramid_tokenizer.checks.devices import CheckedDevices
from pyramid_tokenizer.checks.finite import all_finite, require_finite
from pyramid_tokenizer.config.models import SegmentationConfig
from pyramid_tokenizer.config.plain import to_dict
from pyramid_tokenizer.errors import CapabilityError, CheckpointError, ConfigError
from pyramid_tokenizer.images.labelled.labels import NO_CLASS
from pyramid_tokenizer.images.read import to_batch
from pyramid_tokenizer.quantizer.nearest import gather_rows
from pyramid_tokenizer.quantizer.pyramid import WEIGHTS_ADVICE
from pyramid_tokenizer.segmentation.head import SegmentationHead, build_head
from pyramid_tokenizer.segmentation.lookup import KEPT_TABLE_FLOATS, ScoreTables, finite_rows
from pyramid_tokenizer.segmentation.scoring import Scorer, best_classes, grid_of, scorer_of
from pyramid_tokenizer.text import TextEncoder, VocabularyEmbeddings
from pyramid_tokenizer.tokenizer import Images, PyramidTokenizer
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.tokens.wrapping import check_pyramid

Mode = Literal["auto", "lookup", "decoder", "dense"]

Resolution = Literal["pixels", "cells"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentationMap:
    """The class of every pixel of a batch of images."""

    labels: Tensor
    """(B, H, W) int64: an index into `names`, `NO_CLASS` (-1) for the background; on the tokenizer's device."""
    scores: Tensor
    """(B, H, W) float32: the score of the best class. With mode "decoder" a sigmoid, in [0, 1]; with "dense" a cosine; with
    "lookup" the product of the cell's look-up embedding with the word's, which is below the cosine where the codes of
    different levels disagree, and may leave [-1, 1] by a little."""
    names: tuple[str, ...]
    """The first synonym of each class."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Guidance:
    """Maps made of the tokens of a batch, from which another segmentation network can start."""

    lookup: Tensor
    """(B, D, h, w) float32: the look-up embedding of each cell of the finest grid."""
    refined: Tensor | None
    """(B, D, h, w) float32: the same after the head; None without a head."""
    fused: tuple[Tensor, ...]
    """(B, C_l, h_l, w_l) per level, the trunk's maps, coarse to fine."""


class Segmenter(CheckedDevices):
    """Words -> masks, by a tokenizer and, where there is one, a trained head.

    Class names are encoded by the tokenizer's own `text`, so that words are encoded once for `segment` and `classify`.
    Threads may share a segmenter.

    Args:
        tok: A fitted tokenizer. Its trunk is shared unless the head has its own.
        head: None segments by look-up alone, which needs no training; else moved to the tokenizer's device and dtype.

    Example:
        >>> seg = Segmenter.from_pretrained("tiny")
        >>> found = seg.segment(torch.rand(2, 3, 64, 96), ["sky", "tree|bush", "car"])
        >>> found.labels.shape, found.names
        (torch.Size([2, 64, 96]), ('sky', 'tree', 'car'))
        >>> tokens = seg.tok.encode(torch.rand(1, 3, 64, 64))      # stored tokens work as well as pixels
        >>> seg.segment(tokens, ["sky", "grass"], background=["wall", "floor"]).labels.min() >= -1
        tensor(True)
    """

    def __init__(self, tok: PyramidTokenizer, head: SegmentationHead | None = None):
        super().__init__()
        load = 'load one by PyramidTokenizer.from_pretrained("tiny"), or both by Segmenter.from_pretrained'
        check_kind(tok, PyramidTokenizer, name="tok", fix=load)
        if head is not None:
            check_kind(head, SegmentationHead, name="head", fix=f"leave it out, or {load}")
        self.tok = tok
        self.head = None if head is None else head.to(device=tok.device, dtype=tok.dtype)
        self._kept: ScoreTables | None = None
        self.eval().requires_grad_(False)

    @property
    def text(self) -> TextEncoder:
        """The tokenizer's text encoder."""
        return self.tok.text

    @classmethod
    def from_pretrained(cls, name: str | Path, *, text_cache: str | Path | None = None, **options: Any) -> Segmenter:
        """The tokenizer of that name with its head, where it has one.

        Args:
            name: A bundled model ("tiny"), a directory, or a Hub repository.
            text_cache: Directory that keeps text embeddings between runs; "auto" for the user's cache folder.
            options: As `PyramidTokenizer.from_pretrained` takes them.

        Raises:
            ModelNotFoundError, ConfigError, CheckpointError, BackboneError: As `PyramidTokenizer.from_pretrained`.
        """
        model = {key: options[key] for key in ("subfolder", "revision") if key in options}
        download = {key: options[key] for key in ("token", "cache_dir", "local_files_only") if key in options}
        directory = hub.resolve_model(name, **model, **download)
        tok = PyramidTokenizer.from_pretrained(directory, **{k: v for k, v in options.items() if k not in model})
        tok.text = TextEncoder(tok.backbone, cache_dir=text_cache)
        head = None
        if tok.config.segmentation is not None:
            hub.check_head_size(tok.config, embedding_dim=tok.backbone.embedding_dim, file=directory / hub.HEAD_FILE)
            shape = to_dict(tok.config.segmentation)
            head = build_head(tok.trunk, embedding_dim=tok.backbone.embedding_dim, **shape)
            head.load_state_dict(hub.read_weights(directory / hub.HEAD_FILE, head.state_dict()))
        return cls(tok, head)

    @torch.no_grad()
    def segment(
        self,
        source: TokenPyramid | Images,
        names: Sequence[str],
        *,
        background: Sequence[str] | None = None,
        threshold: float | None = None,
        mode: Mode = "auto",
        resolution: Resolution = "pixels",
        size: int | None = None,
    ) -> SegmentationMap:
        """The best class of every pixel.

        Args:
            source: Tokens, or images as `PyramidTokenizer.encode` takes them.
            names: One entry per class; synonyms as "car|automobile".
            background: Words for what is none of the classes: a pixel that suits one of them better than every class gets the
                label `NO_CLASS`.
            threshold: Pixels whose best score is below it get the label `NO_CLASS`; `SegmentationMap.scores` says on which
                scale. Without it and without `background` every pixel gets a class.
            mode: "lookup" uses the text embeddings of the codes, without training; "decoder" refines them by the head;
                "auto" is "decoder" where there is a head, else "lookup"; "dense" uses the backbone's dense features, without
                tokens, and needs images.
            resolution: "pixels", or "cells" for one label per cell of the finest grid, which is much faster.
            size: Resize images to this short side first; tokens have their size already.

        Raises:
            ConfigError: No names, repeated or empty ones, a number as `background`, an unknown mode, a threshold that is NaN,
                or `mode="decoder"` without a head.
            BackboneError, CheckpointError: Features, or weights of codebooks, trunk or head, are NaN or infinite.
            CapabilityError: "dense" of tokens, or of a backbone without dense features.
            TokenMismatchError: Another tokenizer made the tokens.
            TokenError: Tokens without the image tokens of their tokenizer, which the head reads.
            ImageError: As `PyramidTokenizer.encode`.
        """
        mode = self._resolve(mode, resolution)
        if threshold is not None:
            fix = "give a score, on the scale of SegmentationMap.scores"
            check_kind(threshold, Real, name="threshold", fix=fix)
            if math.isnan(threshold):
                raise ConfigError(f"expected a number as threshold, got NaN: {fix}")
        text = self.text.encode_names(names, background=background)
        score, stride, grid, image_size = self._score(source, text, mode, size)
        size_px = image_size if resolution == "pixels" else None
        labels, scores = best_classes(score, text, grid=grid, image_size=size_px, stride=stride)
        if mode == "decoder":
            assert self.head is not None
            scores = self.head.to_logits(scores).sigmoid()
        if threshold is not None:
            labels = torch.where(scores < threshold, NO_CLASS, labels)
        return SegmentationMap(labels=labels, scores=scores, names=text.names)

    @torch.no_grad()
    def class_scores(
        self,
        source: TokenPyramid | Images,
        names: Sequence[str],
        *,
        mode: Mode = "auto",
        size: int | None = None,
    ) -> Tensor:
        """The scores of all classes at every pixel, e.g. to average them over windows; for masks use `segment`.

        Args:
            source: As `segment` takes it.
            names: One entry per class; words for the background, "wall|floor", may be one of them.
            mode: As `segment` takes it.
            size: Resize images to this short side first.

        Returns:
            (B, N, H, W) float32 on the scale of `SegmentationMap.scores`.

        Raises:
            ConfigError, CapabilityError, TokenMismatchError, ImageError: As `segment`.
        """
        mode = self._resolve(mode, "pixels")
        text = self.text.encode_names(names)
        score, stride, _, (height, width) = self._score(source, text, mode, size)
        cells = text.class_scores(score(slice(None)), dim=1)
        scores = enlarge(cells, stride)[..., :height, :width].float()
        if mode == "decoder":
            assert self.head is not None
            scores = self.head.to_logits(scores).sigmoid()
        return scores

    @torch.no_grad()
    def guidance(self, tokens: TokenPyramid) -> Guidance:
        """Embeddings per cell and the trunk's maps, of tokens of all levels or of a prefix.

        Raises:
            TokenMismatchError: Another tokenizer made the tokens.
        """
        tokens = self._with_semantics(tokens)
        refined = None if self.head is None else self._refined(tokens)
        return Guidance(lookup=self._lookup(tokens), refined=refined, fused=tuple(self.tok.fused(tokens)))

    def save_pretrained(
        self, directory: str | Path, *, half: bool = False, evaluation: dict[str, Any] | None = None
    ) -> Path:
        """Writes the tokenizer's files (`PyramidTokenizer.save_pretrained`) and, where there is a head, its own.

        Raises:
            NotFittedError, CheckpointError, OSError: As `PyramidTokenizer.save_pretrained`.
        """
        return self.tok.save_pretrained(directory, half=half, evaluation=evaluation, head=self.stored_head())

    def stored_head(self) -> hub.StoredHead | None:
        """The head as files hold it; None without a head."""
        if self.head is None:
            return None
        shape = {"width": self.head.width, "depth": self.head.depth, "shared_decoder": self.head.trunk is None}
        return hub.StoredHead(config=SegmentationConfig(**shape), tensors=self.head.state_dict())

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads tokenizer and head to a Hub repository, made where missing; its commit's address.

        Args:
            repo_id: "user/repo".
            options: As `hub.push` takes them, e.g. `private`, `token` and `commit_message`.

        Raises:
            NotFittedError, CheckpointError: As `save_pretrained`.
            HubError: The Hub cannot be reached or refuses.
        """
        return hub.push_saved(self.save_pretrained, repo_id, **options)

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles hold: all but the tables, which the next call makes anew."""
        return {**self.__dict__, "_kept": None}

    def _resolve(self, mode: Mode, resolution: Resolution) -> Mode:
        for value, kind, what in ((mode, Mode, "mode"), (resolution, Resolution, "resolution")):
            choices = typing.get_args(kind)
            if not isinstance(value, str) or value not in choices:
                raise ConfigError(f"expected {what} in {choices}, got {value!r}: name one of them")
        if mode == "decoder" and self.head is None:
            raise ConfigError(
                'expected a segmentation head for mode "decoder", got a tokenizer without one: use mode="lookup", or train '
                "one with `pyramid-tokenizer finetune --segmentation`"
            )
        return ("lookup" if self.head is None else "decoder") if mode == "auto" else mode

    def _score(
        self, source: TokenPyramid | Images, text: VocabularyEmbeddings, mode: Mode, size: int | None
    ) -> tuple[Scorer, int, tuple[int, int, int], tuple[int, int]]:
        """What scores phrases, its stride, its grid (B, h, w), and the images' size."""
        if mode == "dense":
            cells, stride, image_size = self._dense(source, size)
            return scorer_of(cells, text), stride, grid_of(cells), image_size
        tokens = self._with_semantics(
            self.tok.tokens_of(source, size=size, stacklevel=5)
        )  # the line that called `segment`
        if mode == "decoder":
            cells = self._refined(tokens)
            return scorer_of(cells, text), self.tok.trunk.strides[-1], grid_of(cells), tokens.image_size
        grid = (tokens.batch_size, *tokens.grids[-1])
        stride = self.tok.quantizer.strides[len(tokens) - 1]
        return self._lookup_scorer(tokens, text), stride, grid, tokens.image_size

    def _with_semantics(self, tokens: TokenPyramid) -> TokenPyramid:
        """The tokens without their detail levels, which hold pixels alone."""
        check_pyramid(tokens)
        return tokens[: min(len(tokens), self.tok.quantizer.base_levels)]

    def _lookup_scorer(self, tokens: TokenPyramid, text: VocabularyEmbeddings) -> Scorer:
        ids, present = self.tok.ids(tokens), self.tok.present(tokens)
        tables = self._tables(text)
        if tables is not None:
            return lambda part: gather_rows([table[:, part] for table in tables], ids, present)
        rows = finite_rows(self.tok.quantizer)
        embeddings = text.embeddings.to(self.tok.device)
        return lambda part: gather_rows([level @ embeddings[part].T for level in rows], ids, present)

    def _tables(self, text: VocabularyEmbeddings) -> tuple[Tensor, ...] | None:
        """(K_l, P) scores of every code with every phrase, kept for the next call with the same words; None if too large."""
        if sum(self.tok.quantizer.codebook_sizes) * len(text.embeddings) > KEPT_TABLE_FLOATS:
            return None
        kept = self._kept  # read once: another thread may replace it at any moment
        if kept is None or not kept.fits(self.tok.quantizer, text.embeddings):
            kept = ScoreTables.make(self.tok.quantizer, text.embeddings)
            self._kept = kept
        return kept.tables

    def _lookup(self, tokens: TokenPyramid) -> Tensor:
        """(B, D, h, w) on the finest grid, also of a prefix."""
        found = gather_rows(finite_rows(self.tok.quantizer), self.tok.ids(tokens), self.tok.present(tokens))
        return enlarge(found, self.tok.quantizer.strides[len(tokens) - 1] // self.tok.trunk.strides[-1])

    def _refined(self, tokens: TokenPyramid) -> Tensor:
        assert self.head is not None
        codes = self.tok.codes(tokens)
        trunk = self.head.trunk if self.head.trunk is not None else self.tok.trunk
        refined = self.head(
            self._lookup(tokens),
            trunk([level.to(self.tok.dtype) for level in codes], self.tok.present(tokens)),
            self.tok.embedding(tokens),
        )
        # with scale and bias, so that scores are finite too
        if not all_finite([refined, self.head.log_scale, self.head.bias]):
            for part in (trunk, self.head):
                stage = f"the {type(part).__name__} of the segmenter"
                require_finite(part.state_dict(), stage=stage, advice=WEIGHTS_ADVICE, error=CheckpointError)
            advice = (
                f"all weights are finite, but {self.tok.dtype} is too narrow for this head; use float32 or bfloat16"
            )
            named = {"the refined embeddings": refined}
            require_finite(named, stage="the segmentation head", advice=advice, error=CheckpointError)
        return refined

    def _dense(self, source: TokenPyramid | Images, size: int | None) -> tuple[Tensor, int, tuple[int, int]]:
        """The backbone's dense features (B, D, h, w) as unit vectors, their stride, and the images' size."""
        if isinstance(source, TokenPyramid):
            raise CapabilityError('expected images for mode "dense", got tokens: use mode "lookup" or "decoder"')
        if not self.tok.backbone.has_dense:
            raise CapabilityError(
                'expected a backbone with dense features for mode "dense", got one without: use mode "lookup"'
            )
        batch = to_batch(source, size=size)
        features = self.tok.features(batch, with_dense=True)
        assert features.dense is not None
        height, width = batch.shape[-2:]
        return F.normalize(features.dense, dim=1), features.image_size[0] // features.dense.shape[-2], (height, width)
