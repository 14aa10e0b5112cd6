"""`label_images`: makes of a `Segmenter` the function from an image to labels that `evaluate_segmentation` measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.evaluation.windows import ScoreFn, at_short_side, sliding_window
from pyramid_tokenizer.images.labelled.class_names import distinct_names, split_name
from pyramid_tokenizer.images.labelled.labels import NO_CLASS
from pyramid_tokenizer.images.labelled.protocols import SegmentationProtocol
from pyramid_tokenizer.segmentation.scoring import argmax_by_chunks
from pyramid_tokenizer.segmentation.segmenter import Mode, Segmenter
from pyramid_tokenizer.text import parse_names

CHUNK_FLOATS = 2**27
"""Averaged scores of an image held at a time: 512 MB. With more classes or pixels, the image is segmented several times."""


def label_images(
    seg: Segmenter,
    protocol: SegmentationProtocol,
    *,
    background: Sequence[str] | None = None,
    threshold: float | None = None,
    mode: Mode = "auto",
    short_side_px: int | None = None,
    window_px: int | None = None,
    window_stride_px: int | None = None,
) -> Callable[[Tensor], Tensor]:
    """A function that segments an image as a protocol demands, by the class names that `distinct_names` leaves.

    Args:
        seg: The segmenter to measure.
        protocol: One with names, e.g. that of a `SegmentationSet`.
        background: Words for the background's class.
        threshold: Pixels whose best score, on the scale of `SegmentationMap.scores`, is below it belong to the background's
            class. Words or a threshold are needed where `protocol.background` is "class", and are refused elsewhere.
        mode: As `Segmenter.segment` takes it.
        short_side_px: Images are resized to this short side, and their scores back; None keeps their size.
        window_px: Side of overlapping windows whose scores are averaged; None takes the whole image at once.
        window_stride_px: Step from one window to the next; half a window if not given.

    Returns:
        A function from an image (3, H, W) float32 in [0, 1] to its labels (H, W) int64, `NO_CLASS` for the background; give
            `protocol.background_class` to `evaluate_segmentation` as `none_class`.

    Raises:
        ConfigError: `check_background` or `parse_names` refuses the arguments, or there is a stride without a window.
        DataError: `distinct_names` refuses the names.

    Example:
        >>> from pyramid_tokenizer.images.labelled import find_protocol
        >>> predict = label_images(Segmenter.from_pretrained("tiny"), find_protocol("voc-20"), window_px=64)
        >>> predict(torch.rand(3, 64, 96)).shape
        torch.Size([64, 96])
    """
    check_background(protocol, background=background, threshold=threshold)
    if window_px is None and window_stride_px is not None:
        raise ConfigError(f"expected a window with a stride of {window_stride_px} px, got none: give window_px too")
    names, background = protocol_words(protocol, background=background)
    asked = [i for i in range(len(protocol.names)) if i != protocol.background_class]
    classes = torch.tensor([*asked, NO_CLASS])  # the last is what NO_CLASS, -1, picks
    if short_side_px is None and window_px is None:

        def whole(image: Tensor) -> Tensor:
            found = seg.segment(image, names, background=background, threshold=threshold, mode=mode)
            return classes[found.labels[0].cpu()]

        return whole
    stride = window_stride_px or max(1, (window_px or 0) // 2)
    view = partial(_view, short_side_px=short_side_px, window_px=window_px, stride_px=stride)
    phrases = names if background is None else [*names, "|".join(background)]  # the background is one more class

    def averaged(image: Tensor) -> Tensor:
        def chunks() -> Iterator[tuple[int, Tensor]]:
            at_once = max(1, CHUNK_FLOATS // (image.shape[1] * image.shape[2]))
            for first in range(0, len(phrases), at_once):
                part = phrases[first : first + at_once]
                yield first, view(lambda seen, part=part: seg.class_scores(seen, part, mode=mode)[0], image)

        labels, best = argmax_by_chunks(chunks(), dim=0)  # (H, W) each
        labels = torch.where(labels == len(names), NO_CLASS, labels)
        return classes[(labels if threshold is None else torch.where(best < threshold, NO_CLASS, labels)).cpu()]

    return averaged


def protocol_words(
    protocol: SegmentationProtocol, *, background: Sequence[str] | None = None
) -> tuple[tuple[str, ...], Sequence[str] | None]:
    """The names that images are segmented by, and the words of the background, if there are any.

    Raises:
        ConfigError: As for `parse_names`.
        DataError: `distinct_names` refuses the names.
    """
    names = distinct_names([name for i, name in enumerate(protocol.names) if i != protocol.background_class])
    if protocol.background == "words" and protocol.background_class is not None:
        background = split_name(protocol.names[protocol.background_class])
    parse_names(names, background=background)
    return names, background


def check_background(
    protocol: SegmentationProtocol, *, background: Sequence[str] | None = None, threshold: float | None = None
) -> None:
    """Raises ConfigError where a protocol needs a rule for its background and gets none, or gets one and needs none."""
    given = [rule for rule in (background, threshold) if rule is not None]
    if protocol.background == "class" and not given:
        raise ConfigError(
            f"expected background words or a threshold with protocol {protocol.name!r}, whose class "
            f"{protocol.background_class} is the background, got neither: give background words, e.g. --background "
            "'wall,floor,sky', or a threshold, e.g. --threshold 0.5, below which a pixel belongs to the background"
        )
    if protocol.background != "class" and given:
        why = "it has words of its own" if protocol.background == "words" else "pixels of no class are ignored there"
        raise ConfigError(
            f"expected no rule for the background with protocol {protocol.name!r}, got {given[0]!r}: leave it out, {why}"
        )


def _view(
    score_fn: ScoreFn, image: Tensor, *, short_side_px: int | None, window_px: int | None, stride_px: int
) -> Tensor:
    """Scores (N, H, W) by windows, of the resized image, or by windows of the resized image."""
    seen = score_fn
    if window_px is not None:
        seen = partial(sliding_window, score_fn, window_px=window_px, stride_px=stride_px)
    return seen(image) if short_side_px is None else at_short_side(seen, image, short_side_px=short_side_px)
