"""Reads the integers of a vocabulary back to ids; `Vocabulary` has the grammar."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyramid_tokenizer.errors import TokenSequenceError
from pyramid_tokenizer.tokens.sequence_writer import write_full
from pyramid_tokenizer.tokens.sequences import check_padding, name_of, span_of
from pyramid_tokenizer.tokens.splits import ABSENT, Presence

if TYPE_CHECKING:
    from pyramid_tokenizer.tokens.vocabulary import Vocabulary

_Ids: TypeAlias = NDArray[np.int64]


def read_batch(
    vocabulary: Vocabulary, rows: Tensor, lengths: list[int]
) -> tuple[tuple[int, int], Tensor, list[Tensor], Presence]:
    """Crop, image ids, ids and presence of the images whose sequences these are.

    Args:
        vocabulary: Of the integers.
        rows: (B, N) int64.
        lengths: The length of each row.

    Returns:
        Rows and columns of padding at bottom and right, the ids (B, M) of the image tokens and those (B, h_l, w_l) of every
        level on the device of `rows`, and which of these are present.

    Raises:
        TokenSequenceError: A row breaks the grammar, or the rows decode to images of different sizes or levels.
    """
    markers = vocabulary.sparse_markers
    if markers and bool(((rows >= markers[0]) & (rows <= markers[-1])).any()):
        return _read_each(vocabulary, rows, lengths)
    crop, image_ids, ids = _read_alike(vocabulary, rows, lengths)
    return crop, image_ids, ids, (None,) * len(ids)


def _read_each(
    vocabulary: Vocabulary, rows: Tensor, lengths: list[int]
) -> tuple[tuple[int, int], Tensor, list[Tensor], Presence]:
    """What `read_batch` gives, where some images have sparse levels: the sequences differ in their lengths."""
    images: list[list[_Ids]] = []
    image_ids: list[list[int]] = []
    kinds, stops = [], []
    for index, (row, length) in enumerate(zip(rows.cpu().numpy(), lengths, strict=True)):
        reader = SequenceReader(vocabulary, row[:length], index if len(rows) > 1 else None)
        crop, ids = reader.read()
        images.append(ids)
        image_ids.append(reader.image_ids)
        kinds.append((crop, ids[0].shape, len(ids)))
        stops.append(reader.position)
        if kinds[-1] != kinds[0]:
            expected, got = (f"{h}x{w} cells, crop {crop}, {n} levels" for crop, (h, w), n in (kinds[0], kinds[-1]))
            raise TokenSequenceError(
                f"expected {expected} in every sequence, as sequence 0 has them, got {got} in sequence {index}: a batch "
                "decodes to one image size; unflatten other sizes and prefixes alone"
            )
    check_padding(vocabulary, rows, lengths, stops)
    levels = [np.stack(level) for level in zip(*images, strict=True)]  # (B, h_l, w_l) each
    ids = [torch.from_numpy(level).to(rows.device) for level in levels]
    present = tuple(x >= 0 if level.min() < 0 else None for level, x in zip(levels, ids, strict=True))
    return kinds[0][0], torch.tensor(image_ids, device=rows.device).view(len(rows), -1).long(), ids, present


def _read_alike(
    vocabulary: Vocabulary, rows: Tensor, lengths: list[int]
) -> tuple[tuple[int, int], Tensor, list[Tensor]]:
    """Crop, image ids and ids of images of which all levels are full: all sequences are laid out as the first one is."""
    reader = SequenceReader(vocabulary, rows[0, : lengths[0]].cpu().numpy())
    crop, first = reader.read()
    grids = [(x.shape[0], x.shape[1]) for x in first]
    sequence = _checked_alike(vocabulary, rows, lengths, reader.position, grids, crop)
    offsets = sequence.new_tensor(vocabulary.image_offsets)
    image_ids = sequence[:, 3 : 3 + len(offsets)] - offsets
    ids, start = [], 4 + len(offsets)
    for level, (height, width) in enumerate(grids):
        marked = width + 1 if level == 0 else width
        cells = sequence[:, start : start + height * marked].unflatten(1, (height, marked))
        ids.append(cells[:, :, :width] - vocabulary.level_offsets[level])  # (B, h_l, w_l)
        start += height * marked + 1
    return crop, image_ids, ids


def _checked_alike(
    vocabulary: Vocabulary,
    rows: Tensor,
    lengths: list[int],
    stop: int,
    grids: list[tuple[int, int]],
    crop: tuple[int, int],
) -> Tensor:
    """The rows (B, N) up to the end of their images (B, stop), after all checks."""
    short = [index for index, length in enumerate(lengths) if length < stop]
    if short:
        raise TokenSequenceError(
            f"expected at least {stop} integers in every sequence, as sequence 0 has them, got {lengths[short[0]]} in "
            f"sequence {short[0]}: a batch decodes to one image size; unflatten other sizes alone"
        )
    sequence = rows[:, :stop]
    # The sequences of the smallest and of the largest ids bound what is allowed at every position.
    zeros = [torch.zeros(1, h, w, dtype=torch.int64, device=sequence.device) for h, w in grids]
    last = sequence.new_tensor(vocabulary.image_codebook_sizes)[None] - 1  # (1, M)
    low = write_full(vocabulary, zeros, torch.zeros_like(last), crop)
    highest = [x + k - 1 for x, k in zip(zeros, vocabulary.codebook_sizes, strict=False)]
    high = write_full(vocabulary, highest, last, crop)
    wrong = ((sequence < low) | (sequence > high)).nonzero()
    if len(wrong):
        image, position = wrong[0].tolist()
        expected = span_of(vocabulary, int(low[0, position]), int(high[0, position]))
        got = name_of(vocabulary, int(sequence[image, position]))
        raise TokenSequenceError(
            f"expected {expected} at position {position} of sequence {image}, as sequence 0 has it, got {got}: "
            "a batch decodes to one image size; unflatten other sizes alone"
        )
    check_padding(vocabulary, rows, lengths, [stop] * len(rows))
    return sequence


def find_images(vocabulary: Vocabulary, sequence: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Start and stop of each whole image among other integers; `Vocabulary.find` has the rules.

    Args:
        vocabulary: Of the images.
        sequence: (N,) int64.
    """
    ends = np.flatnonzero(sequence == vocabulary.end)
    begins = np.flatnonzero(sequence == vocabulary.begin).tolist()
    spans = []
    for start, following in itertools.pairwise([*begins, len(sequence)]):
        place = int(np.searchsorted(ends, start))
        stop = int(ends[place]) + 1 if place < len(ends) else len(sequence) + 1
        if stop <= following and _is_whole(vocabulary, sequence[start:stop]):
            spans.append((start, stop))
    return spans


def _is_whole(vocabulary: Vocabulary, sequence: NDArray[np.int64]) -> bool:
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
        sequence: (N,) int64.
        index: Which sequence of a batch it is, for messages; None for the only one.
    """

    def __init__(self, vocabulary: Vocabulary, sequence: NDArray[np.int64], index: int | None = None) -> None:
        self.vocabulary = vocabulary
        self.sequence = sequence
        self.index = index
        self.position = 0
        self.image_ids: list[int] = []
        """The ids of the image tokens, after `read`."""
        self._offsets = vocabulary.level_offsets

    def read(self) -> tuple[tuple[int, int], list[_Ids]]:
        """The crop at bottom and right, and the ids (h_l, w_l) of each level, -1 where a cell is absent."""
        v = self.vocabulary
        self._take(v.begin)
        first, last = v.crop_offset, v.crop_offset + v.strides[0] - 1
        crop = (self._take(first, last) - first, self._take(first, last) - first)
        sizes = zip(v.image_offsets, v.image_codebook_sizes, strict=True)
        self.image_ids = [self._take(offset, offset + size - 1) - offset for offset, size in sizes]
        self._take(v.level_markers[0])
        ids = [self._read_rows()]
        while self._peek() in self._next_markers(ids):
            level, is_sparse = len(ids), self._peek() == v.sparse_markers[len(ids) - 1]
            self.position += 1
            scale = v.strides[level - 1] // v.strides[level]
            height, width = (cells * scale for cells in ids[-1].shape)
            if is_sparse:
                ids.append(self._read_sparse(level, ids[-1], scale))
            else:
                ids.append(self._take_ids(level, height * width).reshape(height, width))
        more = "".join(f" or {v.describe(marker)}" for marker in self._next_markers(ids))
        self._take(v.end, also=more + (" or another row" if len(ids) == 1 else ""))
        return crop, ids

    def _next_markers(self, ids: list[_Ids]) -> list[int]:
        """What may begin another level: below a sparse level, only a sparse one."""
        v, level = self.vocabulary, len(ids)
        if level == len(v.strides):
            return []
        sparse = v.sparse_markers[level - 1]
        return [sparse] if ids[-1].min() < 0 else [v.level_markers[level], sparse]

    def _read_rows(self) -> _Ids:
        columns = max(1, self._count_ids(0, len(self.sequence)))
        rows: list[_Ids] = []
        while not rows or self._count_ids(0, 1):
            rows.append(self._take_ids(0, columns))
            self._take(self.vocabulary.row, also=" or another id of level 0" if len(rows) == 1 else "")
        return np.stack(rows)

    def _read_sparse(self, level: int, coarse: _Ids, ratio: int) -> _Ids:
        """The ids (H, W) of a sparse level: for each present cell (h, w) its children, or the mark that it is not split."""
        parents = np.flatnonzero(coarse >= 0)
        split, children = self._take_families(level, len(parents), ratio * ratio)
        blocks = np.full((*coarse.shape, ratio, ratio), ABSENT, np.int64)
        blocks.reshape(-1, ratio * ratio)[parents[split]] = children
        if len(parents) == coarse.size and split.all():  # the level is full, and full levels have another marker
            self.position -= ratio * ratio
            raise self._error(f"{self.vocabulary.describe(self.vocabulary.none)} once or more in a sparse level")
        return blocks.transpose(0, 2, 1, 3).reshape(coarse.shape[0] * ratio, coarse.shape[1] * ratio)

    def _take_families(self, level: int, count: int, size: int) -> tuple[NDArray[np.bool_], _Ids]:
        """(count,) bool, which of so many cells are split, and the ids (n, size) of the children of those that are."""
        offset, none = self._offsets[level], self.vocabulary.none
        ahead = self.sequence[self.position : self.position + count * size]
        is_none, is_id = ahead == none, self._are_ids(level, ahead)
        ids_before = is_id.cumsum() - is_id
        starts_item = (is_none | is_id) & (ids_before % size == 0)
        # A mark amid a family, and what is neither mark nor id, are where the level ends too early, if it has not ended before.
        wrong = np.flatnonzero(~(is_none & starts_item | is_id))
        stop = int(wrong[0]) if len(wrong) else len(ahead)
        items = np.flatnonzero(starts_item[:stop])[:count]
        split = is_id[items]
        length = int(items[-1]) + (size if split[-1] else 1) if len(items) else 0
        if len(items) < count or length > stop:
            self.position += stop
            amid = bool(is_id[:stop].sum() % size)
            mark = "" if amid else f"{self.vocabulary.describe(none)} or "
            raise self._error(
                mark + span_of(self.vocabulary, offset, offset + self.vocabulary.codebook_sizes[level] - 1)
            )
        self.position += length
        found = ahead[:length][is_id[:length]]
        return split, (found - offset).reshape(-1, size)

    def _are_ids(self, level: int, integers: NDArray[np.int64]) -> NDArray[np.bool_]:
        offset = self._offsets[level]
        return (integers >= offset) & (integers < offset + self.vocabulary.codebook_sizes[level])

    def _count_ids(self, level: int, most: int) -> int:
        """How many ids of one level come next, up to `most`."""
        ahead = self.sequence[self.position : self.position + most]
        others = np.flatnonzero(~self._are_ids(level, ahead))
        return int(others[0]) if len(others) else len(ahead)

    def _take_ids(self, level: int, count: int) -> _Ids:
        found = self._count_ids(level, count)
        self.position += found
        offset = self._offsets[level]
        if found < count:
            raise self._error(span_of(self.vocabulary, offset, offset + self.vocabulary.codebook_sizes[level] - 1))
        return self.sequence[self.position - count : self.position] - offset

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
        of = "" if self.index is None else f" of sequence {self.index}"
        return TokenSequenceError(
            f"expected {expected} at position {self.position}{of}, got {got}: pass a whole sequence as `flatten` writes it"
        )
