"""What `segmentation.py` counts: cells of every source, and the pixels that each list of names gets.

A source is where a cell's place in the text space comes from (tokens, a head, the backbone's dense map). Scores are made once
per image and source, over all names of a set; each list of names is a choice among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from examples.research.train_tiny.texts import kept_out_name
from pyramid_tokenizer import TokenPyramid
from pyramid_tokenizer.backbones.features import enlarge
from pyramid_tokenizer.evaluation import ConfusionMatrix, LevelSemantics, TokenSemantics
from pyramid_tokenizer.evaluation.confusion import ClassCounts
from pyramid_tokenizer.images.labelled import SegmentationSet
from pyramid_tokenizer.images.labelled.class_names import BACKGROUND_NAME
from pyramid_tokenizer.images.labelled.labels import IGNORED
from pyramid_tokenizer.images.pixels import pad_to_multiple
from pyramid_tokenizer.images.read import read_image
from pyramid_tokenizer.segmentation.segmenter import Segmenter
from pyramid_tokenizer.text import VocabularyEmbeddings
from pyramid_tokenizer.training.head_inputs import cell_inputs

DECODER = "decoder, from tokens"
LOOKUP = "look-up, from tokens"
DENSE = "dense map, no tokens"
DECODER_ON_FEATURES = "decoder, from features before quantisation"
TRAINED_ON_FEATURES = "decoder trained on features, from features"
EVERY = 50
"""Images between two lines of progress."""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """The lists of names of a set, as (n,) int64 indices into `all`."""

    all: tuple[str, ...]
    """As classes.txt has them; a label is an index into these."""
    named: Tensor
    """All that can be asked for: without the background."""
    learned: Tensor
    """Those that training may show."""
    kept_out: Tensor
    """Those that it may not."""

    @classmethod
    def of(cls, names: Sequence[str]) -> Names:
        """Sorts a set's names into the lists."""
        named = [i for i, name in enumerate(names) if name.casefold() != BACKGROUND_NAME]
        learned = [i for i in named if kept_out_name(names[i]) is None]
        kept_out = [i for i in named if i not in learned]
        lists = (torch.tensor(indices, dtype=torch.int64) for indices in (named, learned, kept_out))
        return cls(all=tuple(names), **dict(zip(("named", "learned", "kept_out"), lists, strict=True)))

    @property
    def has_background(self) -> bool:
        """Whether a class is none that can be asked for; its pixels are ignored."""
        return len(self.named) < len(self.all)


@dataclass(kw_only=True, slots=True)
class Counts:
    """All that the tables of a set are made of."""

    semantics: TokenSemantics
    """Classes under each code, on pixels of learned names."""
    learned: dict[str, list[ClassCounts]] = field(default_factory=dict)
    """By source, of each image: among the learned names."""
    images_of_kept_out: dict[str, list[Tensor]] = field(default_factory=dict)
    """By source, (N, N + 1) of each image that shows a kept-out class: among all names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CellMap:
    """Places in the text space."""

    cells: Tensor
    """(1, D, h, w) float32."""
    stride: int
    """Pixels per cell of the image as the tokenizer saw it."""


def cell_maps(
    seg: Segmenter, image: Tensor, tokens: TokenPyramid, continuous: Segmenter | None = None
) -> dict[str, CellMap]:
    """The cells of an image by source; sources that the model lacks are left out.

    Args:
        seg: The model.
        image: (3, H, W) in [0, 1].
        tokens: Of the image.
        continuous: The same tokenizer with a head that was trained on features before quantisation.
    """
    stride = seg.tok.trunk.strides[-1]
    guidance = seg.guidance(tokens)
    maps = {LOOKUP: CellMap(cells=guidance.lookup, stride=stride)}
    if guidance.refined is not None:
        maps = {DECODER: CellMap(cells=guidance.refined, stride=stride), **maps}
    if seg.tok.backbone.has_dense:
        features = seg.tok.features(image[None], with_dense=True)
        assert features.dense is not None
        dense_stride = features.image_size[0] // features.dense.shape[-2]
        maps[DENSE] = CellMap(cells=F.normalize(features.dense, dim=1), stride=dense_stride)
    if seg.head is not None:
        maps[DECODER_ON_FEATURES] = cells_of_features(seg, image, tokens)
    if continuous is not None:
        maps[TRAINED_ON_FEATURES] = cells_of_features(continuous, image, tokens)
    return maps


@torch.no_grad()
def cells_of_features(seg: Segmenter, image: Tensor, tokens: TokenPyramid) -> CellMap:
    """What the head makes of the features before quantisation, on the grids of the tokens."""
    tok, head = seg.tok, seg.head
    assert head is not None
    batch = pad_to_multiple(image[None].to(tok.device), multiple=tok.multiple_px)
    read = cell_inputs(tok, batch, continuous=True)
    codes = [level[..., :h, :w] for level, (h, w) in zip(read.codes, tokens.grids, strict=True)]
    height, width = tokens.grids[-1]
    trunk = tok.trunk if head.trunk is None else head.trunk
    fused = trunk([level.to(tok.dtype) for level in codes])
    refined = head(read.lookup[..., :height, :width], fused, read.image)
    return CellMap(cells=refined, stride=tok.trunk.strides[-1])


def pixel_scores(
    source: CellMap, words: VocabularyEmbeddings, *, seen: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Scores of every class at the size of the labels: (N, H, W) float32.

    Args:
        source: Cells of one image.
        words: N classes.
        seen: (h, w) of the image as the tokenizer saw it; the cells may cover more.
        size: (H, W) of the labels.
    """
    phrases = torch.einsum("bdhw,pd->bphw", source.cells, words.embeddings.to(source.cells.device))
    scores = enlarge(words.class_scores(phrases, dim=1), source.stride)[..., : seen[0], : seen[1]]
    if seen != size:
        scores = F.interpolate(scores, size, mode="bilinear", align_corners=False)
    return scores[0].float().cpu()


def best_of(scores: Tensor, choice: Tensor) -> Tensor:
    """(N, H, W) -> (H, W) int64: the best of the classes (n,) that may be chosen."""
    return choice[scores[choice].argmax(0)]


def only(labels: Tensor, choice: Tensor) -> Tensor:
    """The labels with all other classes than those ignored."""
    return torch.where(torch.isin(labels, choice), labels, IGNORED)


def count(
    seg: Segmenter, labelled: SegmentationSet, names: Names, *, px: int, limit: int | None, say: Say,
    continuous: Segmenter | None = None,
) -> Counts:  # fmt: skip
    """Counts the images of a test split, one at a time; each is encoded once."""
    counts = Counts(semantics=new_semantics(seg, names))
    words = seg.text.encode_names(names.all)
    for index in progress(labelled, limit, say):
        sample = labelled[index]
        image = read_image(sample.image, size=px)
        tokens = seg.tok.encode(image)
        counts.semantics.add(tokens.ids, at_size(only(sample.labels, names.learned), tokens.image_size))
        height, width = sample.labels.shape
        for source, cells in cell_maps(seg, image, tokens, continuous).items():
            scores = pixel_scores(cells, words, seen=tokens.image_size, size=(height, width))
            add_image(counts, source, scores, sample.labels, names)
    return counts


def add_image(counts: Counts, source: str, scores: Tensor, labels: Tensor, names: Names) -> None:
    """Counts an image's scores (N, H, W) among the learned names and, where a kept-out class is shown, among all."""
    matrix = ConfusionMatrix(len(names.all), ignore=IGNORED)
    matrix.add(best_of(scores, names.learned), only(labels, names.learned))
    counts.learned.setdefault(source, []).append(matrix.class_counts())
    if torch.isin(labels, names.kept_out).any():
        matrix = ConfusionMatrix(len(names.all), ignore=IGNORED)
        matrix.add(best_of(scores, names.named), only(labels, names.named))
        counts.images_of_kept_out.setdefault(source, []).append(matrix.counts)


def name_codes(
    seg: Segmenter, labelled: SegmentationSet, names: Names, *, px: int, limit: int | None, say: Say
) -> tuple[LevelSemantics, ...]:
    """The classes under each code on a train split, level by level."""
    semantics = new_semantics(seg, names)
    for index in progress(labelled, limit, say):
        sample = labelled[index]
        tokens = seg.tok.encode(sample.image, size=px)
        semantics.add(tokens.ids, at_size(only(sample.labels, names.learned), tokens.image_size))
    return semantics.levels


def new_semantics(seg: Segmenter, names: Names) -> TokenSemantics:
    quantizer = seg.tok.quantizer
    levels = quantizer.base_levels
    sizes, strides = quantizer.codebook_sizes[:levels], quantizer.strides[:levels]
    return TokenSemantics(sizes, strides=strides, num_classes=len(names.all))


def at_size(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """(H, W) int64 -> (1, h, w), the nearest label: codes are counted on the image that the tokenizer saw."""
    return F.interpolate(labels[None, None].float(), size, mode="nearest-exact")[0].long()


def progress(labelled: SegmentationSet, limit: int | None, say: Say) -> Iterator[int]:
    """Indices of the first images."""
    total = len(labelled) if limit is None else min(limit, len(labelled))
    for index in range(total):
        if index % EVERY == 0:
            say(f"image {index} of {total}")
        yield index
