"""`ConfusionMatrix`: wanted against predicted classes, counted pixel by pixel over a stream, and the scores of it."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from pyramid_tokenizer.errors import ConfigError, DataError

NONE = -1
"""A predicted label that says: none of these classes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfusionScores:
    """What semantic segmentation is measured by. Each is in [0, 1], or nan where nothing was counted for it.

    A class that is in no ground truth but is predicted somewhere has an IoU of 0. Whether that 0 counts is where evaluation
    codes differ, by points: papers with detectron2 report `miou_present`, papers with mmseg `miou_union`.

    Source: detectron2 `SemSegEvaluator` for the former, mmsegmentation `IoUMetric` for the latter.
    """

    miou_present: float
    """Mean IoU of the classes that the ground truth holds (detectron2's habit)."""
    miou_union: float
    """Mean IoU of the classes that the ground truth or a prediction holds (mmseg's habit); at most `miou_present`."""
    fwiou: float
    """Frequency-weighted IoU: each class weighs as many pixels as the ground truth has of it."""
    pixel_accuracy: float
    """Share of the labelled pixels that are right."""
    mean_class_accuracy: float
    """Mean over the classes of the ground truth: share of a class's pixels that are right."""
    iou: tuple[float, ...]
    """Per class: right pixels / pixels that are of the class or predicted as it; nan where there are none of either."""


SCORES = tuple(field.name for field in fields(ConfusionScores) if field.name != "iou")
"""Names of the single numbers of `ConfusionScores`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClassCounts:
    """All that the scores need of a confusion matrix: three counts a class, small enough to keep for every image."""

    correct: Tensor
    """(N,) int64: pixels of the class that are predicted as it."""
    wanted: Tensor
    """(N,) int64: labelled pixels of the class."""
    predicted: Tensor
    """(N,) int64: labelled pixels that are predicted as the class."""

    def scores(self) -> ConfusionScores:
        """Every score of these counts, in float64."""
        iou, single = score_counts(self.correct.double(), self.wanted.double(), self.predicted.double())
        return ConfusionScores(iou=tuple(iou.tolist()), **{name: float(value) for name, value in single.items()})


class ConfusionMatrix:
    """Pixels counted by wanted and predicted class; exact, in int64 on the CPU, however long the stream.

    What is counted: every pixel whose wanted label is not `ignore`. A prediction of −1, "none of these", or of the ignore
    id is wrong for the wanted class and a false positive of no class, so a method that may abstain is punished once.
    Any other prediction outside the classes is an error, not a miss.

    Args:
        num_classes: N, at least 1; classes are 0 … N − 1.
        ignore: Label of pixels that do not count; outside 0 … N − 1, which 255 is not for 459 or 847 classes.

    Raises:
        ConfigError: `num_classes` below 1, or `ignore` is one of the classes.

    Example:
        >>> matrix = ConfusionMatrix(3)
        >>> matrix.add(torch.tensor([[0, 0, 2], [1, -1, 0]]), torch.tensor([[0, 0, 0], [1, 1, 255]]))
        >>> matrix.counts.tolist()  # the last column: predicted as none of the three
        [[2, 0, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0]]
        >>> scores = matrix.scores()  # class 2 is predicted and never there: its IoU of 0 is the difference
        >>> round(scores.miou_present, 4), round(scores.miou_union, 4), scores.pixel_accuracy
        (0.5833, 0.3889, 0.6)
    """

    def __init__(self, num_classes: int, *, ignore: int = 255):
        if num_classes < 1:
            raise ConfigError(
                f"expected num_classes of at least 1, got {num_classes}: give the length of the class list"
            )
        if 0 <= ignore < num_classes:
            expected = f"an ignore id outside the classes 0 to {num_classes - 1}"
            raise ConfigError(f"expected {expected}, got {ignore}: use -1 or 65535 where there are this many classes")
        self.num_classes, self.ignore = num_classes, ignore
        self.counts = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64)
        """(N, N + 1) int64: rows are wanted, columns predicted classes, the last column is "none"."""

    @classmethod
    def from_counts(cls, counts: Tensor, *, ignore: int = NONE) -> ConfusionMatrix:
        """A matrix of counts that were made elsewhere.

        Args:
            counts: (N, N + 1) integer, none negative, as the attribute of that name; copied.
            ignore: Label of pixels that do not count in what `add` is given later.

        Raises:
            DataError: The shape is not (N, N + 1), a count is negative, or the dtype is not an integer one.
        """
        whole = not counts.dtype.is_floating_point and counts.ndim == 2
        if not whole or counts.shape[1] != counts.shape[0] + 1 or bool((counts < 0).any()):
            got = f"{counts.dtype} {tuple(counts.shape)}"
            raise DataError(f"expected counts (N, N + 1) of integers from 0, got {got}: add a column for none")
        matrix = cls(len(counts), ignore=ignore)
        matrix.counts += counts.cpu()
        return matrix

    def add(self, predicted: Tensor, wanted: Tensor, *, name: str | None = None) -> None:
        """Counts one label map, or a batch of them.

        Args:
            predicted: (H, W) or (B, H, W) of an integer dtype on any device: 0 … N − 1, −1 or the ignore id.
            wanted: The same shape: 0 … N − 1 or the ignore id.
            name: Of the image or its file, for the message.

        Raises:
            DataError: Different or wrong shapes, no integers, or labels other than those; nothing is counted then.
        """
        where = f" in {name!r}" if name else ""
        _check_maps(predicted, wanted, where)
        predicted, wanted = (x.detach().cpu().to(torch.int64).flatten() for x in (predicted, wanted))  # (B · H · W,)
        none = (predicted == NONE) | (predicted == self.ignore)
        predicted = predicted.masked_fill(none, self.num_classes)
        self._check_labels(predicted[~none], f"predicted{where}", "predict classes of this list, or -1 for none")
        valid = wanted != self.ignore
        predicted, wanted = predicted[valid], wanted[valid]
        self._check_labels(wanted, f"wanted{where}", "check the protocol's class list and ignore ids")
        cells = torch.bincount(wanted * (self.num_classes + 1) + predicted, minlength=self.counts.numel())
        self.counts += cells.reshape(self.counts.shape)

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """The counts of both, e.g. of two processes; neither is changed."""
        if not isinstance(other, ConfusionMatrix):
            return NotImplemented
        if other.num_classes != self.num_classes:
            got = f"{self.num_classes} and {other.num_classes}"
            raise DataError(
                f"expected confusion matrices of one class list, got {got} classes: merge only what belongs"
            )
        return ConfusionMatrix.from_counts(self.counts + other.counts, ignore=self.ignore)

    def __repr__(self) -> str:
        return f"ConfusionMatrix({self.num_classes} classes, {self.num_pixels:,} pixels)"

    @property
    def num_pixels(self) -> int:
        """Labelled pixels counted so far."""
        return int(self.counts.sum())

    @property
    def none_share(self) -> float:
        """Share of the labelled pixels that were predicted as none of the classes; nan before any is counted."""
        return float(self.counts[:, -1].sum().double() / self.counts.sum())

    def class_counts(self) -> ClassCounts:
        """The three counts a class that the scores need."""
        classes = self.counts[:, :-1]
        return ClassCounts(correct=classes.diagonal().clone(), wanted=self.counts.sum(1), predicted=classes.sum(0))

    def scores(self) -> ConfusionScores:
        """Every score of what was counted so far."""
        return self.class_counts().scores()

    def _check_labels(self, labels: Tensor, what: str, fix: str) -> None:
        outside = labels[(labels < 0) | (labels >= self.num_classes)]
        if len(outside):
            expected = f"labels 0 to {self.num_classes - 1}, or {self.ignore} for ignored"
            raise DataError(f"expected {expected}, got {outside[0]} {what}: {fix}")


def score_counts(correct: Tensor, wanted: Tensor, predicted: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """IoU per class, and every score named in `SCORES`, of many counts at once.

    Args:
        correct: (..., N) float64, whole numbers; see `ClassCounts`.
        wanted: The same shape.
        predicted: The same shape.

    Returns:
        (..., N) float64, nan where undefined, and the scores as (...) float64 by name.
    """
    union = wanted + predicted - correct
    iou, accuracy = correct / union, correct / wanted  # nan where 0 / 0
    single = {
        "miou_present": _mean_where(wanted > 0, iou),
        "miou_union": _mean_where(union > 0, iou),
        "fwiou": (iou * wanted).nansum(-1) / wanted.sum(-1),
        "pixel_accuracy": correct.sum(-1) / wanted.sum(-1),
        "mean_class_accuracy": _mean_where(wanted > 0, accuracy),
    }
    return iou, single


def _mean_where(mask: Tensor, values: Tensor) -> Tensor:
    return values.where(mask, values.new_zeros(())).sum(-1) / mask.sum(-1)


def _check_maps(predicted: Tensor, wanted: Tensor, where: str) -> None:
    if predicted.shape != wanted.shape or predicted.ndim not in (2, 3):
        got = f"{tuple(predicted.shape)} predicted and {tuple(wanted.shape)} wanted"
        raise DataError(
            f"expected two maps (H, W) or (B, H, W) of one shape, got {got}{where}: resize the scores first"
        )
    for what, labels in (("predicted", predicted), ("wanted", wanted)):
        if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
            raise DataError(f"expected integer labels, got {labels.dtype} {what}{where}: take the argmax of the scores")
