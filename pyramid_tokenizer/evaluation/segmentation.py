"""`evaluate_segmentation`: measures any function from images to labels on labelled images."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyramid_tokenizer.errors import ConfigError, DataError
from pyramid_tokenizer.evaluation.bootstrap import bootstrap_intervals
from pyramid_tokenizer.evaluation.confusion import SCORES, ClassCounts, ConfusionMatrix, ConfusionScores
from pyramid_tokenizer.images.labelled.findings import LARGEST_IGNORED_SHARE, label_findings
from pyramid_tokenizer.images.labelled.labels import IGNORED, NO_CLASS, size_mismatch
from pyramid_tokenizer.images.labelled.sets import Sample
from pyramid_tokenizer.images.read import read_image


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SegmentationScores:
    """The result of an evaluation: the scores, their intervals, and what they were counted on."""

    confusion: ConfusionMatrix
    """Every labelled pixel by true and predicted class: it shows which classes are confused with which."""
    scores: ConfusionScores
    """The scores of all images together: pixels are summed over the images before any ratio is computed."""
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """The 95 % bootstrap interval over images of each score, by its name; empty if it was not asked for."""
    num_images: int
    """The number of images that were counted."""
    names: tuple[str, ...] = ()
    """The names of the classes, or empty."""
    num_ignored: int = 0
    """The number of pixels that were not counted, because their label says so."""
    warnings: tuple[str, ...] = ()
    """What says that the labels do not mean what the class list says, as `label_findings` words it; empty as a rule."""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for a JSON file. NaN becomes None; the classes are a list, because names may repeat."""
        single = {name: _plain(getattr(self.scores, name)) for name in SCORES}
        wanted = self.confusion.counts.sum(1).tolist()
        classes = [
            {"name": name, "iou": _plain(iou), "pixels": pixels}
            for name, iou, pixels in zip(self.names or range(len(wanted)), self.scores.iou, wanted, strict=True)
        ]
        return {
            "num_images": self.num_images,
            "num_pixels": self.confusion.num_pixels,
            "num_ignored": self.num_ignored,
            "num_classes": self.confusion.num_classes,
            "num_classes_present": sum(pixels > 0 for pixels in wanted),
            "warnings": list(self.warnings),
            **single,
            "none_share": _plain(self.confusion.none_share),
            "intervals": {name: [_plain(x) for x in bounds] for name, bounds in self.intervals.items()},
            "classes": classes,
        }


def evaluate_segmentation(
    predict: Callable[[Tensor], Tensor],
    samples: Iterable[Sample],
    *,
    num_classes: int,
    names: tuple[str, ...] = (),
    none_class: int | None = None,
    largest_ignored_share: float = LARGEST_IGNORED_SHARE,
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> SegmentationScores:
    """Scores predicted label maps at the size of the labels, with one image in memory at a time.

    Labels that cannot mean what the class list says are told by a warning and in the result: a class that never occurs, a
    single class that remains, or most of the area ignored.

    Args:
        predict: A function that takes an image (3, H, W) float32 in [0, 1] on the CPU and returns its labels (H, W) of an
            integer dtype on any device: 0 … N − 1, or −1 for none of the classes.
        samples: A `SegmentationSet`, a part of one, or any other iterable of `Sample`.
        num_classes: The number of classes N.
        names: The names of the classes, which are copied into the result.
        none_class: The class that a prediction of −1 stands for, which is the background of a protocol that has one. With
            None, −1 is wrong at every labelled pixel.
        largest_ignored_share: The largest share of ignored pixels without a warning; 1 for a protocol that ignores the
            background.
        bootstrap_samples: How many draws the intervals are computed from; 0 leaves the intervals out.
        seed: The seed of the draws.

    Raises:
        ConfigError: `names` has another length than `num_classes`, or `none_class` is outside the classes.
        DataError: There are no samples, all pixels are ignored, an image has another size than its labels, or
            `ConfusionMatrix.add` refuses labels or predictions. The message names the sample.
        ImageError: An image cannot be read.

    Example:
        >>> image = torch.zeros(3, 2, 4)
        >>> image[:, :, 2:] = 1
        >>> labels = torch.tensor([[0, 0, 1, 1], [0, -1, 1, 0]])
        >>> samples = [Sample(image=image, labels=labels, name="half")]
        >>> result = evaluate_segmentation(lambda x: (x[0] > 0.5).long(), samples, num_classes=2)
        >>> result.scores.iou, round(result.scores.pixel_accuracy, 3)
        ((0.75, 0.75), 0.857)
    """
    total = ConfusionMatrix(num_classes, ignore=IGNORED)
    _check_settings(num_classes, names, none_class)
    per_image: list[ClassCounts] = []
    num_ignored = 0
    for sample in samples:
        image = read_image(sample.image)
        if image.shape[1:] != sample.labels.shape:
            raise DataError(size_mismatch(tuple(image.shape[1:]), tuple(sample.labels.shape), sample.name))
        predicted = predict(image)
        if none_class is not None:
            predicted = torch.where(predicted == NO_CLASS, none_class, predicted)
        matrix = ConfusionMatrix(num_classes, ignore=IGNORED)
        matrix.add(predicted, sample.labels, name=sample.name)
        per_image.append(matrix.class_counts())
        total.counts += matrix.counts
        num_ignored += sample.labels.numel() - matrix.num_pixels
    if not per_image:
        raise DataError("expected at least one sample, got none: check the path and the split")
    found = label_findings(
        total.counts.sum(1),
        num_ignored,
        names=names or tuple(f"class {index}" for index in range(num_classes)),
        largest_ignored_share=largest_ignored_share,
    )
    if not total.num_pixels:
        raise DataError(found[-1])
    for finding in found:
        warnings.warn(finding, stacklevel=2)
    return SegmentationScores(
        confusion=total,
        scores=total.scores(),
        intervals=bootstrap_intervals(per_image, samples=bootstrap_samples, seed=seed) if bootstrap_samples else {},
        num_images=len(per_image),
        names=tuple(names),
        num_ignored=num_ignored,
        warnings=found,
    )


def _check_settings(num_classes: int, names: tuple[str, ...], none_class: int | None) -> None:
    if names and len(names) != num_classes:
        raise ConfigError(f"expected {num_classes} names, got {len(names)}: give one for each class, or none at all")
    if none_class is not None and not 0 <= none_class < num_classes:
        raise ConfigError(
            f"expected none_class in 0 to {num_classes - 1}, got {none_class}: give the class of the background"
        )


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
