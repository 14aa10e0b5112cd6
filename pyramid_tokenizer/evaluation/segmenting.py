"""`label_images`: turns a `Segmenter` into the function from an image to labels that `evaluate_segmentation` measures."""

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
"""How many scores of an image are held at once where scores are averaged: 512 MB. More classes are scored in several passes."""

BackgroundRule = float | Sequence[str] | None
"""What `Segmenter.segment` takes as `background`: a threshold on the best score, or words for the background."""


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
    """Makes the function that segments an image as a protocol demands, with the class names that `distinct_names` returns.

    Args:
        seg: The model that is measured.
        protocol: A protocol with class names, for example that of a `SegmentationSet`.
        background: Words for the background, or a threshold on `SegmentationMap.scores` below which a pixel is background. It
            is needed if `protocol.background` is "class", and refused otherwise.
        mode: The mode of `Segmenter.segment`.
        short_side_px: The image is resized to this short side and its scores are resized back; None keeps its size.
        window_px: The side of overlapping windows whose scores are averaged; None takes the whole image at once.
        window_stride_px: The step from one window to the next; half a window if not given.

    Returns:
        A function from an image (3, H, W) float32 in [0, 1] to its labels (H, W) int64, in which -1 is the background. Pass
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
    check_background(protocol, background)
    if window_px is None and window_stride_px is not None:
        raise ConfigError(f"expected a window with a stride of {window_stride_px} px, got none: give window_px too")
    asked = [i for i in range(len(protocol.names)) if i != protocol.background_class]
    names = distinct_names([protocol.names[i] for i in asked])
    if protocol.background == "words" and protocol.background_class is not None:
        background = split_name(protocol.names[protocol.background_class])
    parse_names(names, background=None if isinstance(background, (int, float)) else background)
    classes = torch.tensor([*asked, NONE])  # index -1, the background, picks the last entry
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
    """Raises ConfigError if a protocol needs a rule for its background and gets none, or needs none and gets one."""
    if protocol.background == "class" and background is None:
        raise ConfigError(
            f"expected background words or a threshold with protocol {protocol.name!r}, whose class "
            f"{protocol.background_class} is the background, got neither: give words for it (--background 'wall,floor,sky'), "
            "or a score below which a pixel is background (--threshold 0.5)"
        )
    if protocol.background != "class" and background is not None:
        why = (
            "the protocol has words of its own"
            if protocol.background == "words"
            else "the protocol ignores such pixels"
        )
        raise ConfigError(
            f"expected no rule for the background with protocol {protocol.name!r}, got {background!r}: leave it out; {why}"
        )


def _scores(seg: Segmenter, mode: Mode, names: Sequence[str], image: Tensor) -> Tensor:
    return seg.class_scores(image, names, mode=mode)[0]  # (N, H, W)


def _view(
    score_fn: ScoreFn, image: Tensor, *, short_side_px: int | None, window_px: int | None, stride_px: int
) -> Tensor:
    """Scores (N, H, W) by windows, of the resized image, or by windows of the resized image."""
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
    """(H, W) int64: index of each pixel's best name, or -1. Names are scored in chunks, so memory does not grow with them."""
    phrases, threshold = list(names), None
    if isinstance(background, (int, float)):
        threshold = background
    elif background is not None:
        phrases.append("|".join(background))  # the background is one more class, with all of its words as synonyms
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
