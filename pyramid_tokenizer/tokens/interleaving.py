"""Writes the ids of an image cell by cell, each followed by the cells below it, and reads them back.

The sequence of an image is, with the integers of its `Vocabulary`:

    begin, crop, crop,                            rows, then columns of padding to remove at bottom and right
    M ids,                                        one of each image token; none where the tokenizer has none
    marker of the finest level,                   tells how many levels there are
    (tree of each of w_0 cells, row) h_0 times,
    end

A cell's tree is its id and then the trees of its r · r cells on the next finer level, row by row; or, where that is sparse
and the cell is not split, its id and `none`. On the finest level it is the id alone. With one level this is the
order of `flatten`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyramid_tokenizer.errors import TokenSequenceError
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.tokens.splits import ABSENT
from pyramid_tokenizer.tokens.vocabulary import Vocabulary
from pyramid_tokenizer.tokens.wrapping import pyramid_of_ids


def interleave(vocabulary: Vocabulary, tokens: TokenPyramid) -> list[Tensor]:
    """One sequence of integers per image, in which each cell is followed by the finer cells below it.

    Args:
        vocabulary: Of the tokenizer that made the tokens.
        tokens: Tokens of B images, of all levels or of any prefix of them; sparse or not.

    Returns:
        B tensors (N,) int64 in [0, vocabulary.size). Of full pyramids they have `vocabulary.sequence_length` less one integer for
            each level above the first, because there is one marker.

    Raises:
        TokenError: `tokens` are none.
        TokenMismatchError: They are of another tokenizer.

    Example:
        >>> vocabulary = Vocabulary(codebook_sizes=(4, 8), strides=(16, 8), fingerprint="0" * 64)
        >>> ids = (torch.tensor([[[3, 1]]]), torch.tensor([[[0, 5, 2, 2], [7, 4, 4, 1]]]))
        >>> tokens = TokenPyramid(ids=ids, codebook_sizes=(4, 8), image_size=(15, 32), fingerprint="0" * 64)
        >>> (sequence,) = interleave(vocabulary, tokens)
        >>> [vocabulary.describe(i) for i in sequence[3:10].tolist()]
        ['<|img level 1|>', '<|img l0 0003|>', '<|img l1 0000|>', '<|img l1 0005|>',
         '<|img l1 0007|>', '<|img l1 0004|>', '<|img l0 0001|>']
        >>> deinterleave(vocabulary, sequence) == tokens
        True
    """
    crop = vocabulary.crop_of(tokens)
    trees = _trees(vocabulary, tokens)  # (B, h_0, w_0, n)
    batch, rows = trees.shape[:2]
    ends = torch.full((batch, rows, 1), vocabulary.row, device=trees.device)
    body = torch.cat([trees.flatten(2), ends], dim=2).flatten(1)
    head = [vocabulary.begin, *(vocabulary.crop_offset + pixels for pixels in crop)]
    first = torch.tensor(head, device=trees.device).expand(batch, -1)
    image = tokens.image_ids + tokens.image_ids.new_tensor(vocabulary.image_offsets)
    marker = torch.full((batch, 1), vocabulary.level_markers[len(tokens) - 1], device=trees.device)
    last = torch.full((batch, 1), vocabulary.end, device=trees.device)
    wide = torch.cat([first, image, marker, body, last], dim=1)
    return [row[row != ABSENT] for row in wide] if tokens.is_sparse else list(wide)


def _trees(vocabulary: Vocabulary, tokens: TokenPyramid) -> Tensor:
    """(B, h_0, w_0, n): the tree of every cell of level 0, with gaps where cells are absent."""
    levels = [
        torch.where(ids >= 0, ids + offset, ABSENT)[..., None]  # (B, h, w, 1)
        for ids, offset in zip(tokens.ids, vocabulary.level_offsets, strict=False)
    ]
    trees = levels[-1]
    for own in reversed(levels[:-1]):
        _, h, w, _ = own.shape
        ratio = trees.shape[1] // h
        blocks = trees.unflatten(2, (w, ratio)).unflatten(1, (h, ratio))  # (B, h, r, w, r, n)
        below = blocks.transpose(2, 3).flatten(3)  # (B, h, w, r · r · n)
        if tokens.is_sparse:
            unsplit = (own[..., 0] != ABSENT) & (below[..., 0] == ABSENT)
            below[..., 0] = torch.where(unsplit, vocabulary.none, below[..., 0])
        trees = torch.cat([own, below], dim=3)
    return trees


def deinterleave(vocabulary: Vocabulary, sequence: Tensor) -> TokenPyramid:
    """The tokens of one image that `interleave` was given, from the integers alone.

    Args:
        vocabulary: Of the tokenizer that made the tokens.
        sequence: (N,) integers, from the begin to the end.

    Returns:
        Tokens of one image, with the vocabulary's fingerprint and no precision, on the CPU.

    Raises:
        TokenSequenceError: The sequence breaks the grammar; the message tells the position.
    """
    reader = _Reader(vocabulary, np.asarray(torch.as_tensor(sequence).cpu()).reshape(-1))
    return reader.pyramid()


class _Reader:
    """Reads one sequence, integer by integer."""

    def __init__(self, vocabulary: Vocabulary, sequence: NDArray[np.int64]):
        self.vocabulary, self.sequence, self.place = vocabulary, sequence.tolist(), 0
        self.levels = 0

    def pyramid(self) -> TokenPyramid:
        v = self.vocabulary
        self.take(v.begin, v.begin)
        crop = [self.take(v.crop_offset, v.crop_offset + v.strides[0] - 1) - v.crop_offset for _ in range(2)]
        sizes = zip(v.image_offsets, v.image_codebook_sizes, strict=True)
        image_ids = [self.take(offset, offset + size - 1) - offset for offset, size in sizes]
        marker = self.take(v.level_markers[0], v.level_markers[-1])
        self.levels = marker - v.level_markers[0] + 1
        rows: list[list[list[NDArray[np.int64]]]] = []  # per row and cell: the ids of each level below it
        while not (rows and self.peek() == v.end):
            cells = [self.tree(0)]
            while self.peek() != v.row and (not rows or len(cells) < len(rows[0])):
                cells.append(self.tree(0))
            self.take(v.row, v.row)
            rows.append(cells)
            if len(cells) != len(rows[0]):
                raise self.wrong(f"a row of {len(rows[0])} cells", self.place - 1)
        self.take(v.end, v.end)
        if self.place != len(self.sequence):
            raise self.wrong("nothing after the end", self.place)
        ids = [np.block([[cell[level] for cell in cells] for cells in rows])[None] for level in range(self.levels)]
        height, width = (n * v.strides[0] - px for n, px in zip((len(rows), len(rows[0])), crop, strict=True))
        kind = {"codebook_sizes": v.codebook_sizes, "strides": v.strides, "fingerprint": v.fingerprint}
        image = {"image_ids": np.array(image_ids, np.int64), "image_codebook_sizes": v.image_codebook_sizes}
        return pyramid_of_ids(ids, image_size=(height, width), **image, **kind)

    def tree(self, level: int) -> list[NDArray[np.int64]]:
        """The ids of a cell, and of all cells below it on each finer level, as square arrays."""
        v = self.vocabulary
        first = v.level_offsets[level]
        own = np.array([[self.take(first, first + v.codebook_sizes[level] - 1) - first]])
        if level + 1 == self.levels:
            return [own]
        if self.peek() == v.none:
            self.place += 1
            sides = [v.strides[level] // stride for stride in v.strides[level + 1 : self.levels]]
            return [own, *(np.full((side, side), ABSENT) for side in sides)]
        ratio = v.strides[level] // v.strides[level + 1]
        below = [[self.tree(level + 1) for _ in range(ratio)] for _ in range(ratio)]
        finer = range(self.levels - level - 1)
        return [own, *(np.block([[cell[index] for cell in cells] for cells in below]) for index in finer)]

    def peek(self) -> int:
        return self.sequence[self.place] if self.place < len(self.sequence) else ABSENT

    def take(self, low: int, high: int) -> int:
        found = self.peek()
        if not low <= found <= high:
            name = self.vocabulary.describe(low)
            more = "" if low == high else f" to {self.vocabulary.describe(high)}"
            raise self.wrong(f"{name}{more}", self.place)
        self.place += 1
        return found

    def wrong(self, expected: str, place: int) -> TokenSequenceError:
        inside = place < len(self.sequence)
        got = self.sequence[place] if inside else "its end"
        return TokenSequenceError(
            f"expected {expected} at position {place} of the sequence, got {got}: pass what `interleave` gave for one image"
        )
