"""`Segmenter`: tokenizer + head + words -> labelled masks, from stored tokens alone.

tokens -> addresses of their codes -> embedding per cell [-> refined on the shared trunk] -> scores with words -> labels
"""

from __future__ import annotations

import tempfile
import typing
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyramid_tokenizer import hub
from pyramid_tokenizer.backbones.features import enlarge
from pyramid_tokenizer.config.models import SegmentationConfig, TokenizerConfig
from pyramid_tokenizer.errors import CapabilityError, CheckpointError, ConfigError
from pyramid_tokenizer.hub.directory import HEAD_FILE
from pyramid_tokenizer.images.read import ImageLike, to_batch
from pyramid_tokenizer.quantizer.nearest import gather_rows
from pyramid_tokenizer.segmentation.head import SegmentationHead
from pyramid_tokenizer.segmentation.scoring import Scorer, best_classes, grid_of, scorer_of
from pyramid_tokenizer.text import BACKGROUND, TextEncoder, VocabularyEmbeddings
from pyramid_tokenizer.tokenizer import PyramidTokenizer, build_trunk
from pyramid_tokenizer.tokens.pyramid import TokenPyramid

Mode = Literal["auto", "lookup", "decoder", "dense"]


Resolution = Literal["pixels", "cells"]


KEPT_TABLE_FLOATS = 2**26
"""Score tables of the last vocabulary are kept while they are no larger (256 MB)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentationMap:
    """What is where."""

    labels: Tensor
    """(B, H, W) int64: an index into `names`, -1 for background; on the tokenizer's device."""
    scores: Tensor
    """(B, H, W) float32: the winner's score. "decoder": its sigmoid, in [0, 1]. "dense": its cosine. "lookup": the product
    of the summed addresses with the word, a cosine shrunk by how sure the codes are; in [-1, 1] but for a little."""
    names: tuple[str, ...]
    """A class's name is its first synonym."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Guidance:
    """The fused codebooks, for segmenters of other makes."""

    lookup: Tensor
    """(B, D, h, w) float32: each cell's place in the text space, on the finest grid."""
    refined: Tensor | None
    """(B, D, h, w) float32: the same after the head; None without one."""
    fused: tuple[Tensor, ...]
    """(B, C_l, h_l, w_l) per level, the trunk's maps, coarse to fine."""


class Segmenter(nn.Module):
    """Words -> masks, over a tokenizer and, where there is one, a trained head.

    Args:
        tok: A fitted tokenizer. Its trunk is shared unless the head has its own.
        head: None segments by look-up alone, which needs no training; else moved to the tokenizer's device and dtype.
        text: Turns class names into embeddings; one with the default templates and no disk cache if not given.

    Example:
        >>> seg = Segmenter.from_pretrained("tiny")
        >>> found = seg.segment(torch.rand(2, 3, 64, 96), ["sky", "tree|bush", "car"])
        >>> found.labels.shape, found.names
        (torch.Size([2, 64, 96]), ('sky', 'tree', 'car'))
        >>> tokens = seg.tok.encode(torch.rand(1, 3, 64, 64))      # stored tokens do as well as pixels
        >>> seg.segment(tokens, ["sky", "grass"], background=["wall", "floor"]).labels.min() >= -1
        tensor(True)
    """

    def __init__(self, tok: PyramidTokenizer, head: SegmentationHead | None = None, *, text: TextEncoder | None = None):
        super().__init__()
        self.tok = tok
        self.head = None if head is None else head.to(device=tok.device, dtype=tok.dtype)
        self.text = text or TextEncoder(tok.backbone)
        self._kept: tuple[Any, Tensor, list[Tensor]] | None = None
        self.eval().requires_grad_(False)

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
        places = {key: options[key] for key in ("revision", "cache_dir", "local_files_only") if key in options}
        directory = hub.resolve_model(name, **places)
        tok = PyramidTokenizer.from_pretrained(directory, **{k: v for k, v in options.items() if k not in places})
        head = None
        if tok.config.segmentation is not None:
            head = build_head(tok.config, embedding_dim=tok.backbone.embedding_dim)
            head.load_state_dict(hub.read_weights(directory / HEAD_FILE, head.state_dict()))
        return cls(tok, head, text=TextEncoder(tok.backbone, cache_dir=text_cache))

    @torch.no_grad()
    def segment(
        self,
        source: TokenPyramid | ImageLike | Sequence[ImageLike],
        names: Sequence[str],
        *,
        background: float | Sequence[str] | None = None,
        mode: Mode = "auto",
        resolution: Resolution = "pixels",
        size: int | None = None,
    ) -> SegmentationMap:
        """The best class of every pixel.

        Args:
            source: Tokens, or images as `PyramidTokenizer.encode` takes them.
            names: One entry per class; synonyms as "car|automobile".
            background: What is none of the classes. None: every pixel gets a class. Words: whatever is likelier one of
                them. A number: pixels whose best score is below it (`SegmentationMap.scores` says on which scale).
            mode: "lookup": addresses of the codes, no training. "decoder": refined by the head. "auto": "decoder" where
                there is a head. "dense": the backbone's own dense map, without tokens; needs images.
            resolution: "pixels", or "cells" for the finest grid of the tokens ("dense": of the map), much faster.
            size: Resize images to this short side first; tokens have their size already.

        Raises:
            ConfigError: No names, repeated or empty ones, an unknown mode, `mode="decoder"` without a head.
            CapabilityError: "dense" of tokens, or of a backbone without such a map.
            TokenMismatchError: Another tokenizer made the tokens.
            ImageError: As `PyramidTokenizer.encode`.
        """
        mode = self._resolve(mode, resolution)
        words = None if background is None or isinstance(background, (int, float)) else background
        text = self.text.encode_names(names, background=words)
        score, stride, grid, image_size = self._score(source, text, mode, size)
        size_px = image_size if resolution == "pixels" else None
        labels, scores = best_classes(score, text, grid=grid, image_size=size_px, stride=stride)
        if mode == "decoder":
            assert self.head is not None
            scores = self.head.to_logits(scores).sigmoid()
        if isinstance(background, (int, float)):
            labels = torch.where(scores < background, BACKGROUND, labels)
        return SegmentationMap(labels=labels, scores=scores, names=text.names)

    @torch.no_grad()
    def class_scores(
        self,
        source: TokenPyramid | ImageLike | Sequence[ImageLike],
        names: Sequence[str],
        *,
        mode: Mode = "auto",
        size: int | None = None,
    ) -> Tensor:
        """The score of every class at every pixel, all in memory: for averages over windows; for masks use `segment`.

        Args:
            source: As `segment` takes it.
            names: One entry per class; the background's words, "wall|floor", may be one of them.
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
        """The codebooks fused: places in the text space per cell, and the trunk's maps. Tokens of all levels or of a prefix.

        Raises:
            TokenMismatchError: Another tokenizer made the tokens.
        """
        refined = None if self.head is None else self._refined(tokens)
        return Guidance(lookup=self._lookup(tokens), refined=refined, fused=tuple(self.tok.fused(tokens)))

    def save_pretrained(
        self, directory: str | Path, *, half: bool = False, evaluation: dict[str, Any] | None = None
    ) -> Path:
        """Writes the tokenizer's files (`PyramidTokenizer.save_pretrained`) and, where there is a head, its own.

        Raises:
            NotFittedError, CheckpointError, OSError: As `PyramidTokenizer.save_pretrained`. CheckpointError also for a head of
                another shape than `tok.config.segmentation` says.
        """
        head = None if self.head is None else self.head.state_dict()
        if head is not None:
            _check_described(head, self.tok)
        return self.tok.save_pretrained(directory, half=half, evaluation=evaluation, head=head)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads tokenizer and head to a Hub repository, made where missing; its commit's address.

        Args:
            repo_id: "user/repo".
            options: `private`, `token` and `commit_message`, as `PyramidTokenizer.push_to_hub` takes them.

        Raises:
            NotFittedError, CheckpointError: As `save_pretrained`.
            HubError: The Hub cannot be reached or refuses.
        """
        with tempfile.TemporaryDirectory() as folder:
            return hub.push(self.save_pretrained(folder), repo_id, **options)

    def _resolve(self, mode: Mode, resolution: Resolution) -> Mode:
        for value, kind, what in ((mode, Mode, "mode"), (resolution, Resolution, "resolution")):
            choices = typing.get_args(kind)
            if value not in choices:
                raise ConfigError(f"expected {what} in {choices}, got {value!r}: name one of them")
        if mode == "decoder" and self.head is None:
            raise ConfigError(
                'expected a segmentation head for mode "decoder", got a tokenizer without one: use mode="lookup", or train '
                "one with `pyramid-tokenizer finetune --segmentation`"
            )
        return ("lookup" if self.head is None else "decoder") if mode == "auto" else mode

    def _score(
        self, source: Any, text: VocabularyEmbeddings, mode: Mode, size: int | None
    ) -> tuple[Scorer, int, tuple[int, int, int], tuple[int, int]]:
        """What scores phrases, its stride, its grid (B, h, w), and the images' size."""
        if isinstance(source, TokenPyramid) and size is not None:
            # no_grad is a frame too
            warnings.warn(f"size={size} is ignored: tokens have the size of their images", stacklevel=4)
        if mode == "dense":
            cells, stride, image_size = self._dense(source, size)
            return scorer_of(cells, text), stride, grid_of(cells), image_size
        tokens = source if isinstance(source, TokenPyramid) else self.tok.encode(source, size=size)
        strides = self.tok.quantizer.strides
        if mode == "decoder":
            cells = self._refined(tokens)
            return scorer_of(cells, text), strides[-1], grid_of(cells), tokens.image_size
        grid = (tokens.batch_size, *tokens.grids[-1])
        return self._lookup_scorer(tokens, text), strides[len(tokens) - 1], grid, tokens.image_size

    def _lookup_scorer(self, tokens: TokenPyramid, text: VocabularyEmbeddings) -> Scorer:
        ids = self.tok.ids(tokens)
        tables = self._tables(text)
        if tables is not None:
            return lambda part: gather_rows([table[:, part] for table in tables], ids)
        rows = self.tok.quantizer.weighted_text_embeddings()
        embeddings = text.embeddings.to(self.tok.device)
        return lambda part: gather_rows([level @ embeddings[part].T for level in rows], ids)

    def _tables(self, text: VocabularyEmbeddings) -> list[Tensor] | None:
        """(K_l, P) scores of every code with every phrase, kept for the next call with the same words; None if too large."""
        phrases = len(text.embeddings)
        if sum(self.tok.quantizer.codebook_sizes) * phrases > KEPT_TABLE_FLOATS:
            return None
        maker = self.tok.fingerprint, self.tok.device  # a refit or a move makes them stale
        if self._kept is None or self._kept[0] != maker or not torch.equal(self._kept[1], text.embeddings):
            embeddings = text.embeddings.to(self.tok.device)
            tables = [rows @ embeddings.T for rows in self.tok.quantizer.weighted_text_embeddings()]
            self._kept = maker, text.embeddings, tables
        return self._kept[2]

    def _lookup(self, tokens: TokenPyramid) -> Tensor:
        """(B, D, h, w) on the finest grid, also of a prefix."""
        found = gather_rows(self.tok.quantizer.weighted_text_embeddings(), self.tok.ids(tokens))
        return enlarge(found, self.tok.quantizer.strides[len(tokens) - 1] // self.tok.quantizer.strides[-1])

    def _refined(self, tokens: TokenPyramid) -> Tensor:
        assert self.head is not None
        codes = self.tok.codes(tokens)
        trunk = self.head.trunk if self.head.trunk is not None else self.tok.trunk
        return self.head(self._lookup(tokens), trunk([level.to(self.tok.dtype) for level in codes]))

    def _dense(self, source: Any, size: int | None) -> tuple[Tensor, int, tuple[int, int]]:
        """(B, D, h, w) unit vectors of the backbone's dense map, its stride, and the images' size."""
        if isinstance(source, TokenPyramid):
            raise CapabilityError('expected images for mode "dense", got tokens: use mode "lookup" or "decoder"')
        if not self.tok.backbone.has_dense:
            raise CapabilityError(
                'expected a backbone with a dense text-aligned map for mode "dense", got one without: use mode "lookup"'
            )
        batch = to_batch(source, size=size)
        features = self.tok.features(batch, with_dense=True)
        assert features.dense is not None
        height, width = batch.shape[-2:]
        return F.normalize(features.dense, dim=1), features.image_size[0] // features.dense.shape[-2], (height, width)


def build_head(config: TokenizerConfig, *, embedding_dim: int) -> SegmentationHead:
    """The untrained head that `config.segmentation` describes; one with the defaults where it is None.

    Args:
        config: Of the tokenizer.
        embedding_dim: D of its backbone.
    """
    settings = config.segmentation or SegmentationConfig()
    levels, decoder = config.quantizer.levels, config.decoder
    strides = [level.stride for level in levels]
    return SegmentationHead(
        embedding_dim=embedding_dim,
        fused_channels=decoder.widths,
        ratios=[stride // strides[-1] for stride in strides],
        width=settings.width,
        depth=settings.depth,
        trunk=None if settings.shared_decoder else build_trunk(config),
    )


def _check_described(head: dict[str, Tensor], tok: PyramidTokenizer) -> None:
    """Raises CheckpointError where the saved config would not build this head."""
    with torch.device("meta"):
        described = build_head(tok.config, embedding_dim=tok.backbone.embedding_dim).state_dict()
    if {name: t.shape for name, t in head.items()} != {name: t.shape for name, t in described.items()}:
        raise CheckpointError(
            f"expected a head of the shape {tok.config.segmentation or SegmentationConfig()}, got another: set "
            "tok.config's segmentation to what it was built from"
        )
