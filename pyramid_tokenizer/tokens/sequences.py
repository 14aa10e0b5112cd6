"""Reads integers as people have them: tensors, arrays or lists, with padding at the end, or mixed with text."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyramid_tokenizer.errors import TokenSequenceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyramid_tokenizer.tokens.vocabulary import Vocabulary

Integers: TypeAlias = "Tensor | NDArray[np.integer[Any]] | Sequence[int] | Sequence[Integers]"
"""A tensor, an array or a list of integers, or a list of such rows, which may have different lengths."""
_SHAPES = "a tensor, an array or a list of integers of shape (B, N) or (N,)"


def as_rows(sequence: Integers) -> tuple[Tensor, list[int]]:
    """Integers (B, N) int64 on the device of `sequence`, and the length of each row: shorter ones are filled up by -1.

    Raises:
        TokenSequenceError: Something else than integers, or of another shape.

    Example:
        >>> as_rows([[0, 6, 1], [0, 1]])
        (tensor([[ 0,  6,  1],
                [ 0,  1, -1]]), [3, 2])
    """
    if isinstance(sequence, (list, tuple)) and sequence and not isinstance(sequence[0], numbers.Integral):
        rows = [_as_integers(row) for row in sequence]
        if all(row.ndim == 0 for row in rows):  # what a loop of a language model collects
            return torch.stack(rows)[None], [len(rows)]
        if any(row.ndim != 1 for row in rows):
            got = f"a list of rows of shapes {sorted({tuple(row.shape) for row in rows})}"
            raise TokenSequenceError(f"expected {_SHAPES}, got {got}: pass what `flatten` gives")
        filled = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
        return filled, [len(row) for row in rows]
    integers = _as_integers(sequence)
    rows = integers[None] if integers.ndim == 1 else integers
    if rows.ndim != 2 or not len(rows):
        got = f"shape {tuple(integers.shape)}"
        raise TokenSequenceError(f"expected {_SHAPES}, got {got}: pass what `flatten` gives")
    return rows, [rows.shape[1]] * len(rows)


def _as_integers(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        dtype = value.dtype
        if not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool):
            return value.to(torch.int64)
    elif isinstance(value, (list, tuple)) and not value:
        return torch.zeros(0, dtype=torch.int64)
    elif isinstance(value, (list, tuple, np.ndarray, numbers.Integral)):
        try:
            array = np.asarray(value)
        except ValueError:  # rows of different lengths, deeper than rows may be
            array = np.zeros(0)
        if array.dtype.kind in "iu":
            return torch.from_numpy(array.astype(np.int64))
    got = getattr(value, "dtype", None) or _kinds(value)
    raise TokenSequenceError(f"expected {_SHAPES}, got {got}: pass what `flatten` gives")


def _kinds(value: Any) -> str:
    if not isinstance(value, (list, tuple)):
        return type(value).__name__
    return f"{type(value).__name__} of {' and '.join(sorted({type(item).__name__ for item in value}))}"


def check_padding(vocabulary: Vocabulary, rows: Tensor, lengths: list[int], starts: list[int]) -> None:
    """Raises TokenSequenceError for anything but padding behind the images of a batch.

    Padding is one integer, repeated, that is outside the vocabulary or one of its marks of begin and end: an id, a crop or a
    marker in this place would be a part of an image.

    Args:
        vocabulary: Of the integers.
        rows: (B, N) int64.
        lengths: The length of each row.
        starts: Where the padding of each row begins.
    """
    begin = min(starts)
    rest = rows[:, begin:]  # (B, P)
    if not rest.shape[1]:
        return
    bounds = torch.tensor([starts, lengths], device=rows.device) - begin
    start, stop = bounds[0, :, None], bounds[1, :, None]  # (B, 1)
    first = rest.gather(1, start.clamp(max=rest.shape[1] - 1))
    is_mark = (first == vocabulary.begin) | (first == vocabulary.end)
    can_pad = is_mark | (first < 0) | (first >= vocabulary.size)  # (B, 1)
    places = torch.arange(rest.shape[1], device=rest.device)
    wrong = (((rest != first) | ~can_pad) & (places >= start) & (places < stop)).nonzero()
    if not len(wrong):
        return
    row, place = wrong[0].tolist()
    place = int(start[row]) if int(first[row]) == vocabulary.begin else place  # that begin is another image's
    of = f" of sequence {row}" if len(rows) > 1 else ""
    raise TokenSequenceError(
        f"expected nothing but padding after the end at position {begin + place}{of}, got "
        f"{name_of(vocabulary, int(rest[row, place]))}: pad with one integer that is not the vocabulary's, cut off what does "
        "not belong to the image, or get the places of several images by `find`"
    )


def name_of(vocabulary: Vocabulary, token: int) -> str:
    """An integer and its name, for messages."""
    inside = 0 <= token < vocabulary.size
    return f"{token} {vocabulary.describe(token)}" if inside else f"{token} (not in [0, {vocabulary.size}))"


def span_of(vocabulary: Vocabulary, low: int, high: int) -> str:
    """The names of the integers from `low` to `high`, for messages."""
    one = vocabulary.describe(low)
    return one if low == high else f"one of {one} to {vocabulary.describe(high)}"
