"""Reads integers as people have them: tensors, arrays or lists, with padding at the end, or mixed with text."""

from __future__ import annotations

import itertools
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


def check_padding(vocabulary: Vocabulary, rows: Tensor, lengths: list[int], start: int) -> None:
    """Raises TokenSequenceError for anything but padding behind the images of a batch.

    Padding is one integer, repeated, that is outside the vocabulary or one of its marks of begin and end: an id, a crop or a
    marker in this place would be a part of an image.

    Args:
        vocabulary: Of the integers.
        rows: (B, N) int64.
        lengths: The length of each row.
        start: Where the padding begins.
    """
    rest = rows[:, start:]  # (B, P)
    if not rest.shape[1]:
        return
    first = rest[:, :1]
    is_mark = (first == vocabulary.begin) | (first == vocabulary.end)
    can_pad = is_mark | (first < 0) | (first >= vocabulary.size)  # (B, 1)
    places = torch.arange(rest.shape[1], device=rest.device)
    inside = places < torch.tensor(lengths, device=rest.device)[:, None] - start
    wrong = (((rest != first) | ~can_pad) & inside).nonzero()
    if not len(wrong):
        return
    row, place = wrong[0].tolist()
    place = 0 if int(first[row]) == vocabulary.begin else place  # that begin is another image's
    of = f" of sequence {row}" if len(rows) > 1 else ""
    raise TokenSequenceError(
        f"expected nothing but padding after the end at position {start + place}{of}, got "
        f"{name_of(vocabulary, int(rest[row, place]))}: pad with one integer that is not the vocabulary's, cut off what does "
        "not belong to the image, or get the places of several images by `find`"
    )


def find_images(vocabulary: Vocabulary, sequence: Tensor) -> list[tuple[int, int]]:
    """Start and stop of each whole image among other integers; `Vocabulary.find` has the rules.

    Args:
        vocabulary: Of the images.
        sequence: (N,) int64 on the CPU.
    """
    ends = (sequence == vocabulary.end).nonzero().flatten()
    begins = (sequence == vocabulary.begin).nonzero().flatten()
    spans = []
    for start, following in itertools.pairwise([*begins.tolist(), len(sequence)]):
        place = int(torch.searchsorted(ends, start))
        stop = int(ends[place]) + 1 if place < len(ends) else len(sequence) + 1
        if stop <= following and _is_whole(vocabulary, sequence[start:stop]):
            spans.append((start, stop))
    return spans


def _is_whole(vocabulary: Vocabulary, sequence: Tensor) -> bool:
    try:
        SequenceReader(vocabulary, sequence).read()
    except TokenSequenceError:
        return False
    return True


class SequenceReader:
    """Reads one sequence from left to right and raises at the first integer that the grammar does not allow.

    `position` is then behind the mark of the end.

    Args:
        vocabulary: Of the integers.
        sequence: (N,) int64 on the CPU.
    """

    def __init__(self, vocabulary: Vocabulary, sequence: Tensor) -> None:
        self.vocabulary = vocabulary
        self.sequence = sequence
        self.position = 0

    def read(self) -> tuple[tuple[int, int], tuple[int, int], int]:
        """The grid of level 0, the crop at bottom and right, and the number of levels."""
        v = self.vocabulary
        self._take(v.begin)
        first, last = v.crop_offset, v.crop_offset + v.strides[0] - 1
        crop = (self._take(first, last) - first, self._take(first, last) - first)
        self._take(v.level_markers[0])
        grid = self._read_rows()
        levels = 1
        while levels < len(v.strides) and self._peek() == v.level_markers[levels]:
            self.position += 1
            scale = v.strides[0] // v.strides[levels]
            self._take_ids(levels, grid[0] * grid[1] * scale * scale)
            levels += 1
        more = f" or {v.describe(v.level_markers[levels])}" if levels < len(v.strides) else ""
        self._take(v.end, also=more + (" or another row" if levels == 1 else ""))
        return grid, crop, levels

    def _read_rows(self) -> tuple[int, int]:
        columns = max(1, self._count_ids(0, len(self.sequence)))
        rows = 0
        while rows == 0 or self._count_ids(0, 1):
            self._take_ids(0, columns)
            self._take(self.vocabulary.row, also=" or another id of level 0" if rows == 0 else "")
            rows += 1
        return rows, columns

    def _count_ids(self, level: int, most: int) -> int:
        """How many ids of one level come next, up to `most`."""
        offset = self.vocabulary.level_offsets[level]
        ahead = self.sequence[self.position : self.position + most]
        other = ((ahead < offset) | (ahead >= offset + self.vocabulary.codebook_sizes[level])).nonzero()
        return int(other[0]) if len(other) else len(ahead)

    def _take_ids(self, level: int, count: int) -> None:
        found = self._count_ids(level, count)
        self.position += found
        if found < count:
            offset = self.vocabulary.level_offsets[level]
            raise self._error(span_of(self.vocabulary, offset, offset + self.vocabulary.codebook_sizes[level] - 1))

    def _take(self, low: int, high: int | None = None, *, also: str = "") -> int:
        high = low if high is None else high
        token = self._peek()
        if token is None or not low <= token <= high:
            raise self._error(span_of(self.vocabulary, low, high) + also)
        self.position += 1
        return token

    def _peek(self) -> int | None:
        return int(self.sequence[self.position]) if self.position < len(self.sequence) else None

    def _error(self, expected: str) -> TokenSequenceError:
        token = self._peek()
        got = "the end of the sequence" if token is None else name_of(self.vocabulary, token)
        return TokenSequenceError(
            f"expected {expected} at position {self.position}, got {got}: pass a whole sequence as `flatten` writes it"
        )


def name_of(vocabulary: Vocabulary, token: int) -> str:
    """An integer and its name, for messages."""
    inside = 0 <= token < vocabulary.size
    return f"{token} {vocabulary.describe(token)}" if inside else f"{token} (not in [0, {vocabulary.size}))"


def span_of(vocabulary: Vocabulary, low: int, high: int) -> str:
    """The names of the integers from `low` to `high`, for messages."""
    one = vocabulary.describe(low)
    return one if low == high else f"one of {one} to {vocabulary.describe(high)}"
