"""Which classes a code stands for: the classes of the pixels that it covers, their purity, and the masks they would give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyramid_tokenizer.errors import ConfigError, DataError, TokenRangeError
from pyramid_tokenizer.evaluation.confusion import ConfusionMatrix, ConfusionScores
from pyramid_tokenizer.images.labelled.labels import IGNORED, NO_CLASS
from pyramid_tokenizer.tokens.splits import ABSENT


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LevelSemantics:
    """How the pixels of each codebook entry are distributed over classes. Everything is computed from the counts.

    Purity is measured on the same pixels that label the codes, so it grows with K: an entry that occurs once is pure. Compare it
    with `majority_share`, which is the purity of a codebook of one entry, and with `oracle_scores`, which uses other images.

    Example:
        >>> level = LevelSemantics(counts=torch.tensor([[9, 1], [2, 6], [0, 0]]))
        >>> [round(x, 2) for x in level.purity.tolist()], level.majority.tolist()
        ([0.9, 0.75, nan], [0, 1, -1])
        >>> round(level.mean_purity, 4), round(level.majority_share, 4)
        (0.8333, 0.6111)
    """

    counts: Tensor
    """(K, N) int64 on the CPU: how many labelled pixels of entry k have class n."""

    @property
    def purity(self) -> Tensor:
        """(K,) float64: share of an entry's pixels that have its most frequent class; nan for an entry without pixels."""
        return self.counts.amax(1).double() / self.counts.sum(1)

    @property
    def mean_purity(self) -> float:
        """The mean purity of the entries, weighted by their numbers of pixels."""
        return float(self.counts.amax(1).sum().double() / self.counts.sum())

    @property
    def majority_share(self) -> float:
        """Share of all pixels that have the most frequent class: the accuracy of predicting it everywhere."""
        return float(self.counts.sum(0).amax().double() / self.counts.sum())

    @property
    def majority(self) -> Tensor:
        """(K,) int64: an entry's most frequent class (of equals the lowest); −1 for an entry without labelled pixels."""
        return self.counts.argmax(1).masked_fill(self.counts.sum(1) == 0, NO_CLASS)

    @property
    def num_seen(self) -> int:
        """How many entries cover a labelled pixel."""
        return int((self.counts.sum(1) > 0).sum())


class TokenSemantics:
    """Counts pixels by codebook entry and class over a stream of images; it keeps one (K_l, N) table per level.

    Args:
        codebook_sizes: The number of entries K_l of each level.
        strides: The stride of each level: image pixels along each side of a cell.
        num_classes: The number of classes N; the classes are 0 … N − 1.
        ignore: The label of pixels that are not counted, outside 0 … N − 1.

    Raises:
        ConfigError: `codebook_sizes` and `strides` have different lengths or a value below 1, or `ignore` is a class.

    Example:
        >>> semantics = TokenSemantics((4, 8), strides=(2, 1), num_classes=2)
        >>> labels = torch.tensor([[[0, 0, 1, 1], [0, 1, 1, -1]]])
        >>> semantics.add((torch.tensor([[[3, 1]]]), torch.arange(8).reshape(1, 2, 4)), labels)
        >>> semantics.levels[0].counts.tolist()
        [[0, 0], [0, 3], [0, 0], [3, 1]]
    """

    def __init__(
        self, codebook_sizes: Sequence[int], *, strides: Sequence[int], num_classes: int, ignore: int = IGNORED
    ):
        numbers = (*codebook_sizes, *strides, num_classes)
        if not codebook_sizes or len(codebook_sizes) != len(strides) or min(numbers) < 1:
            got = f"{tuple(codebook_sizes)}, {tuple(strides)} and {num_classes}"
            raise ConfigError(
                f"expected a codebook size and a stride per level and num_classes, each from 1, got {got}: correct them"
            )
        if 0 <= ignore < num_classes:
            raise ConfigError(f"expected an ignore id outside 0 to {num_classes - 1}, got {ignore}: use -1")
        self.strides, self.num_classes, self.ignore = tuple(strides), num_classes, ignore
        self._counts = [torch.zeros(size, num_classes, dtype=torch.int64) for size in codebook_sizes]

    def add(self, ids: Sequence[Tensor], labels: Tensor) -> None:
        """Counts a batch of images.

        Args:
            ids: For each level (B, h_l, w_l) of an integer dtype, for example `TokenPyramid.ids`; -1 where a token is absent,
                whose pixels do not count on that level. Cells beyond the labels, which come from padding at the right and the
                bottom, are left out.
            labels: The labels (B, H, W) of an integer dtype: 0 … N − 1 or `ignore`.

        Raises:
            TokenRangeError: The number of levels differs, a grid does not cover the labels, or an id is outside its codebook.
            DataError: A label is neither a class nor `ignore`, or the labels are not integers (B, H, W).
        """
        if len(ids) != len(self._counts):
            raise TokenRangeError(f"expected ids of {len(self._counts)} levels, got {len(ids)}: pass TokenPyramid.ids")
        new = [
            _count(level, stride, len(counts), self.num_classes, self.ignore, labels)
            for level, stride, counts in zip(ids, self.strides, self._counts, strict=True)
        ]
        for counts, more in zip(self._counts, new, strict=True):
            counts.add_(more)

    @property
    def levels(self) -> tuple[LevelSemantics, ...]:
        """The counts so far, coarse to fine; later calls of `add` do not change the returned ones."""
        return tuple(LevelSemantics(counts=counts.clone()) for counts in self._counts)


def oracle_scores(fit: LevelSemantics, test: LevelSemantics) -> ConfusionScores:
    """Scores the masks that give every code its majority class: the best that a look-up of single codes could reach.

    Label the codes on one half of the images and measure on the other. With the same counts as `fit` and `test` the result is
    an upper bound that has seen the answers. A code that does not occur in `fit` is predicted as "none".

    Args:
        fit: The counts that label the codes.
        test: The counts of other images, for the same codebook and classes.

    Raises:
        DataError: The counts are of different codebooks or class lists.

    Example:
        >>> fit = LevelSemantics(counts=torch.tensor([[9, 1], [2, 6], [0, 0]]))
        >>> test = LevelSemantics(counts=torch.tensor([[4, 0], [1, 3], [0, 2]]))
        >>> oracle_scores(fit, test).iou, oracle_scores(fit, test).pixel_accuracy
        ((0.8, 0.5), 0.7)
    """
    if fit.counts.shape != test.counts.shape:
        got = f"{tuple(fit.counts.shape)} and {tuple(test.counts.shape)}"
        raise DataError(
            f"expected counts (K, N) of one codebook and class list, got {got}: give two counts of the same level"
        )
    num_classes = test.counts.shape[1]
    named = fit.majority % (num_classes + 1)  # (K,): −1 becomes the last column, "none"
    confusion = torch.zeros(num_classes + 1, num_classes, dtype=torch.int64).index_add_(0, named, test.counts)
    return ConfusionMatrix.from_counts(confusion.T).scores()


def _count(ids: Tensor, stride: int, size: int, num_classes: int, ignore: int, labels: Tensor) -> Tensor:
    """(K, N) int64: labelled pixels by id and class."""
    if labels.ndim != 3 or labels.dtype.is_floating_point or labels.dtype == torch.bool:
        raise DataError(
            f"expected integer labels (B, H, W), got {labels.dtype} {tuple(labels.shape)}: add a batch axis"
        )
    (batch, height, width), labels = labels.shape, labels.cpu().to(torch.int64)
    fits = ids.ndim == 3 and len(ids) == batch and ids.shape[1] * stride >= height and ids.shape[2] * stride >= width
    if not fits or ids.dtype.is_floating_point:
        expected = f"integer ids ({batch}, h, w) that cover {height}x{width} px at stride {stride}"
        raise TokenRangeError(
            f"expected {expected}, got {ids.dtype} {tuple(ids.shape)}: use ids and labels of one batch"
        )
    pixels = ids.cpu().to(torch.int64).repeat_interleave(stride, 1)[:, :height]
    pixels = pixels.repeat_interleave(stride, 2)[:, :, :width]  # (B, H, W)
    valid = labels != ignore
    pixels, labels = pixels[valid], labels[valid]
    if bool(((labels < 0) | (labels >= num_classes)).any()):
        got = f"{int(labels.min())} to {int(labels.max())}"
        raise DataError(
            f"expected labels 0 to {num_classes - 1} or {ignore} for ignored, got {got}: check the class list"
        )
    if bool(((ids < ABSENT) | (ids >= size)).any()):
        got = f"{int(ids.min())} to {int(ids.max())}"
        raise TokenRangeError(
            f"expected ids in [0, {size}), or {ABSENT} for absent tokens, got {got}: they belong to another codebook"
        )
    present = pixels != ABSENT
    pixels, labels = pixels[present], labels[present]
    return torch.bincount(pixels * num_classes + labels, minlength=size * num_classes).reshape(size, num_classes)
