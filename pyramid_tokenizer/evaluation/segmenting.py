"""`label_images`: a `Segmenter` as the function from an image to labels that `evaluate_segmentation` measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.evaluation.confusion import NONE
from pyramid_tokenizer.evaluation.windows import ScoreFn, at_short_side, sliding_window
from pyramid_tokenizer.images.labelled.class_names import distinct_names, split_name
from pyramid_tokenizer.images.labelled.protocols import SegmentationProtocol
from pyramid_tokenizer.segmentation.segmenter import Mode, Segmenter
from pyramid_tokenizer.text import parse_names

CHUNK_FLOATS = 2**27
"""Scores of an image held at a time where they are averaged: 512 MB. Of more classes or pixels, it is seen several times."""

BackgroundRule = float | Sequence[str] | None
"""As `Segmenter.segment` takes it: a threshold of the best score, or words for what is no class."""


def label_images(
    seg: Segmenter,
    protocol: SegmentationProtocol,
    *,
    background: BackgroundRule = None,
    mode: Mode = "auto",
    short_side_px: int | None = None,
    window_px: int | None = None,
    window_stride_px: int | None = None,
) -> Callable[[Tensor], Tensor]:
    """What segments an image as a protocol demands; its class names are asked as `distinct_names` leaves them.

    Args:
        seg: Tokenizer, head and text encoder.
        protocol: With names, e.g. that of a `SegmentationSet`.
        background: What belongs to the background's class: words, or a threshold on the scale of
            `SegmentationMap.scores`. Exactly where `protocol.background` is "class".
        mode: As `Segmenter.segment` takes it.
        short_side_px: Images are seen at this short side, and their scores resized back; None sees them as they are.
        window_px: Side of overlapping windows whose scores are averaged; None sees the whole image at once.
        window_stride_px: Step from one window to the next; half a window if not given.

    Returns:
        An image (3, H, W) float32 in [0, 1] -> its labels (H, W) int64, -1 for the background; pass
        `protocol.background_class` to `evaluate_segmentation` as `none_class`.

    Raises:
        ConfigError: As `check_background` and `parse_names`, or a stride without a window.
        DataError: As `distinct_names`.

    Example:
        >>> from pyramid_tokenizer.images.labelled import find_protocol
        >>> predict = label_images(Segmenter.from_pretrained("tiny"), find_protocol("voc-20"), window_px=64)
        >>> predict(torch.rand(3, 64, 96)).shape
        torch.Size([64, 96])
    """
    check_background(protocol, background)
    if window_px is None and window_stride_px is not None:
        raise ConfigError(f"expected a window with a stride of {window_stride_px} px, got none: give its side too")
    asked = [i for i in range(len(protocol.names)) if i != protocol.background_class]
    names = distinct_names([protocol.names[i] for i in asked])
    if protocol.background == "words" and protocol.background_class is not None:
        background = split_name(protocol.names[protocol.background_class])
    parse_names(names, background=None if isinstance(background, (int, float)) else background)
    classes = torch.tensor([*asked, NONE])  # the last is what -1 picks
    if short_side_px is None and window_px is None:

        def whole(image: Tensor) -> Tensor:
            return classes[seg.segment(image, names, background=background, mode=mode).labels[0].cpu()]

        return whole
    stride = window_stride_px or max(1, (window_px or 0) // 2)
    view = partial(_view, short_side_px=short_side_px, window_px=window_px, stride_px=stride)

    def averaged(image: Tensor) -> Tensor:
        return classes[_best_classes(partial(_scores, seg, mode), view, image, names, background).cpu()]

    return averaged


def check_background(protocol: SegmentationProtocol, background: BackgroundRule) -> None:
    """Raises ConfigError where a protocol needs a rule for its background and has none, or has one and needs none."""
    if protocol.background == "class" and background is None:
        raise ConfigError(
            f"expected background words or a threshold with protocol {protocol.name!r}, whose class "
            f"{protocol.background_class} is the background, got neither: give --background 'wall,floor,sky', whose words "
            "stand for it, or --threshold 0.5, below which a pixel's best score is of no class"
        )
    if protocol.background != "class" and background is not None:
        why = "it has words of its own" if protocol.background == "words" else "pixels of no class are ignored there"
        raise ConfigError(
            f"expected no rule for the background with protocol {protocol.name!r}, got {background!r}: leave it out, {why}"
        )


def _scores(seg: Segmenter, mode: Mode, names: Sequence[str], image: Tensor) -> Tensor:
    return seg.class_scores(image, names, mode=mode)[0]  # (N, H, W)


def _view(
    score_fn: ScoreFn, image: Tensor, *, short_side_px: int | None, window_px: int | None, stride_px: int
) -> Tensor:
    """Scores (N, H, W), by windows, of the resized image, or both."""
    seen = score_fn
    if window_px is not None:
        seen = partial(sliding_window, score_fn, window_px=window_px, stride_px=stride_px)
    return seen(image) if short_side_px is None else at_short_side(seen, image, short_side_px=short_side_px)


def _best_classes(
    scores_of: Callable[[Sequence[str], Tensor], Tensor],
    view: Callable[[ScoreFn, Tensor], Tensor],
    image: Tensor,
    names: Sequence[str],
    background: BackgroundRule,
) -> Tensor:
    """(H, W) int64, the place of each pixel's best name or -1; some names at a time, so that memory does not grow with them."""
    phrases, threshold = list(names), None
    if isinstance(background, (int, float)):
        threshold = background
    elif background is not None:
        phrases.append("|".join(background))  # one more class, with all words of what is none
    best, labels = torch.empty(0), torch.empty(0, dtype=torch.int64)
    at_once = max(1, CHUNK_FLOATS // (image.shape[1] * image.shape[2]))
    for first in range(0, len(phrases), at_once):
        top, index = view(partial(scores_of, phrases[first : first + at_once]), image).max(0)
        if first == 0:
            best, labels = top, index
        else:
            better = top > best  # the first of equals wins, as in one argmax
            best, labels = torch.where(better, top, best), torch.where(better, index + first, labels)
    none = labels == len(names)
    return torch.where(none if threshold is None else best < threshold, NONE, labels)
