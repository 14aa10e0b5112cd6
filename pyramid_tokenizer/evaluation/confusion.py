"""`ConfusionMatrix`: counts of labelled against predicted classes over a stream of images, and their scores."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from pyramid_tokenizer.errors import ConfigError, DataError
from pyramid_tokenizer.images.labelled.labels import IGNORED, NO_CLASS


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfusionScores:
    """The usual scores of semantic segmentation. Each is in [0, 1], or nan if no pixel was counted for it.

    A class that no label has but that is predicted somewhere has an IoU of 0. Evaluation programs differ in whether this 0
    enters the mean, which changes mIoU by percentage points: papers that use detectron2 report `miou_present`, papers that use
    mmsegmentation report `miou_union`.

    Source: detectron2 `SemSegEvaluator` for the former, mmsegmentation `IoUMetric` for the latter.
    """

    miou_present: float
    """Mean IoU over the classes that occur in the labels (as detectron2 computes it)."""
    miou_union: float
    """Mean IoU over the classes that occur in the labels or in a prediction (as mmsegmentation does); at most `miou_present`."""
    fwiou: float
    """Frequency-weighted IoU: each class has the number of its labelled pixels as its weight."""
    pixel_accuracy: float
    """Share of the labelled pixels that are predicted correctly."""
    mean_class_accuracy: float
    """Mean over the classes in the labels of the share of a class's pixels that are predicted correctly."""
    iou: tuple[float, ...]
    """Intersection over union of each class; nan for a class that occurs neither in the labels nor in a prediction."""


SCORES = tuple(field.name for field in fields(ConfusionScores) if field.name != "iou")
"""The names of the fields of `ConfusionScores` that are one number each."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClassCounts:
    """The three counts per class from which the scores are computed, small enough to keep for every image."""

    correct: Tensor
    """(N,) int64: labelled pixels of the class that are predicted as the class."""
    wanted: Tensor
    """(N,) int64: labelled pixels of the class."""
    predicted: Tensor
    """(N,) int64: labelled pixels that are predicted as the class."""

    def scores(self) -> ConfusionScores:
        """Computes every score from these counts, in float64."""
        iou, single = score_counts(self.correct.double(), self.wanted.double(), self.predicted.double())
        return ConfusionScores(iou=tuple(iou.tolist()), **{name: float(value) for name, value in single.items()})


class ConfusionMatrix:
    """Counts pixels by labelled and predicted class, exactly, in int64 on the CPU, for a stream of any length.

    Every pixel whose label is not `ignore` is counted. A prediction of −1 ("none of these") or of the ignore id is wrong for
    the labelled class and is a false positive of no class, so a method that abstains is penalised once. Any other prediction
    outside the classes is an error.

    Args:
        num_classes: The number of classes N, at least 1; the classes are 0 … N − 1.
        ignore: The label of pixels that are not counted. It must be outside 0 … N − 1, so 255 is not possible for 256 or more
            classes.

    Raises:
        ConfigError: `num_classes` is below 1, or `ignore` is one of the classes.

    Example:
        >>> matrix = ConfusionMatrix(3)
        >>> matrix.add(torch.tensor([[0, 0, 2], [1, -1, 0]]), torch.tensor([[0, 0, 0], [1, 1, 255]]))
        >>> matrix.counts.tolist()  # the last column counts predictions of "none"
        [[2, 0, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0]]
        >>> scores = matrix.scores()  # class 2 is predicted but not labelled: its IoU of 0 makes the difference
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
        """(N, N + 1) int64: a row per labelled class and a column per predicted class; the last column is "none"."""

    @classmethod
    def from_counts(cls, counts: Tensor, *, ignore: int = IGNORED) -> ConfusionMatrix:
        """Makes a matrix from counts that were made elsewhere.

        Args:
            counts: (N, N + 1) non-negative integers, laid out as the attribute `counts`; they are copied.
            ignore: The label of pixels that later calls of `add` do not count.

        Raises:
            DataError: The shape is not (N, N + 1), a count is negative, or the dtype is not an integer one.
        """
        whole = not counts.dtype.is_floating_point and counts.ndim == 2
        if not whole or counts.shape[1] != counts.shape[0] + 1 or bool((counts < 0).any()):
            got = f"{counts.dtype} {tuple(counts.shape)}"
            raise DataError(
                f"expected counts (N, N + 1) of integers from 0, got {got}: the last column is for predictions of no class"
            )
        matrix = cls(len(counts), ignore=ignore)
        matrix.counts += counts.cpu()
        return matrix

    def add(self, predicted: Tensor, wanted: Tensor, *, name: str | None = None) -> None:
        """Counts one label map or a batch of label maps.

        Args:
            predicted: Predicted labels (H, W) or (B, H, W) of an integer dtype on any device: 0 … N − 1, −1 or the ignore id.
            wanted: The true labels, of the same shape: 0 … N − 1 or the ignore id.
            name: The name of the image or file, for error messages.

        Raises:
            DataError: The shapes differ or are wrong, the dtype is not an integer one, or a label is none of those above.
                Nothing is counted then.
        """
        where = f" in {name!r}" if name else ""
        _check_maps(predicted, wanted, where)
        predicted, wanted = (x.detach().cpu().to(torch.int64).flatten() for x in (predicted, wanted))  # (B · H · W,)
        none = (predicted == NO_CLASS) | (predicted == self.ignore)
        predicted = predicted.masked_fill(none, self.num_classes)
        self._check_labels(predicted[~none], f"predicted{where}", "predict classes of this list, or -1 for none")
        valid = wanted != self.ignore
        predicted, wanted = predicted[valid], wanted[valid]
        self._check_labels(wanted, f"wanted{where}", "check the protocol's class list and ignore ids")
        cells = torch.bincount(wanted * (self.num_classes + 1) + predicted, minlength=self.counts.numel())
        self.counts += cells.reshape(self.counts.shape)

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Returns the sum of two matrices, for example of two processes; neither is changed."""
        if not isinstance(other, ConfusionMatrix):
            return NotImplemented
        if other.num_classes != self.num_classes:
            got = f"{self.num_classes} and {other.num_classes}"
            raise DataError(
                f"expected confusion matrices of one class list, got {got} classes: add only matrices of the same list"
            )
        return ConfusionMatrix.from_counts(self.counts + other.counts, ignore=self.ignore)

    def __repr__(self) -> str:
        return f"ConfusionMatrix({self.num_classes} classes, {self.num_pixels:,} pixels)"

    @property
    def num_pixels(self) -> int:
        """The number of labelled pixels counted so far."""
        return int(self.counts.sum())

    @property
    def none_share(self) -> float:
        """The share of labelled pixels that were predicted as none of the classes; nan before any pixel is counted."""
        return float(self.counts[:, -1].sum().double() / self.counts.sum())

    def class_counts(self) -> ClassCounts:
        """Returns the three counts per class from which the scores are computed."""
        classes = self.counts[:, :-1]
        return ClassCounts(correct=classes.diagonal().clone(), wanted=self.counts.sum(1), predicted=classes.sum(0))

    def scores(self) -> ConfusionScores:
        """Computes every score of the pixels counted so far."""
        return self.class_counts().scores()

    def _check_labels(self, labels: Tensor, what: str, fix: str) -> None:
        outside = labels[(labels < 0) | (labels >= self.num_classes)]
        if len(outside):
            expected = f"labels 0 to {self.num_classes - 1}, or {self.ignore} for ignored"
            raise DataError(f"expected {expected}, got {outside[0]} {what}: {fix}")


def score_counts(correct: Tensor, wanted: Tensor, predicted: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Computes the IoU of each class and every score in `SCORES`, for many sets of counts at once.

    Args:
        correct: (..., N) float64 of whole numbers, as in `ClassCounts`; so are the next two.
        wanted: (..., N) float64.
        predicted: (..., N) float64.

    Returns:
        The IoU (..., N) float64, nan where it is undefined, and each score (...) float64 by its name.
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
