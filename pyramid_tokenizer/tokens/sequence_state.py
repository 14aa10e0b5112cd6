"""`SequenceState` follows a sequence of a vocabulary integer by integer and tells which ones may come next."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from pyramid_tokenizer.errors import TokenSequenceError
from pyramid_tokenizer.tokens.geometry import grids_of
from pyramid_tokenizer.tokens.sequences import name_of, span_of

if TYPE_CHECKING:
    from pyramid_tokenizer.tokens.vocabulary import Vocabulary

Ranges: TypeAlias = tuple[range, ...]
"""Integers that may come next, in ascending order; no range is empty."""


class GrammarState:
    """Where a sequence stands that follows a grammar: `ranges` may come next, and `append` takes one of them.

    Args:
        walk: The grammar: it yields what may come next, and is sent what came.
    """

    def __init__(self, walk: Generator[Ranges, int, None]) -> None:
        self.position = 0
        """How many integers the sequence has so far."""
        self._walk = walk
        self.ranges: Ranges = next(walk)
        """The integers that may come next, as ranges in ascending order."""

    def allowed(self) -> Tensor:
        """The integers that may come next: (n,) int64 in ascending order, on the CPU."""
        return torch.cat([torch.arange(r.start, r.stop) for r in self.ranges])

    def append(self, token: int) -> None:
        """Takes the next integer of the sequence.

        Args:
            token: One of those that may come next.

        Raises:
            TokenSequenceError: It may not come next; the message tells the position, what was expected and what came.
        """
        if not any(token in r for r in self.ranges):
            raise self._refusal(token)
        self.position += 1
        self.ranges = self._walk.send(token)

    def extend(self, tokens: Iterable[int]) -> None:
        """Takes several integers, one after the other, as `append` does."""
        for token in tokens:
            self.append(token)

    def _refusal(self, token: int) -> TokenSequenceError:
        """The error for an integer that may not come next."""
        raise NotImplementedError


class SequenceState(GrammarState):
    """Where the sequence of one image stands, for a language model that writes it integer by integer.

    `ranges` are the integers that may come next and `append` takes one of them, in a time that does not depend on how long the
    sequence is. What is made this way is a whole image as soon as `finished` is true: `Vocabulary.unflatten` reads it.

    Args:
        vocabulary: Of the integers; it has the grammar.
        image_size: (H, W) in pixels that the image is to have. None: any.
        levels: How many levels it is to have, 1 to L. None: any number.
        sparse: Whether its levels may be sparse.

    Raises:
        TokenError: A size or `levels` outside its range.

    Example:
        >>> from pyramid_tokenizer import Vocabulary
        >>> vocabulary = Vocabulary(codebook_sizes=(4, 8), strides=(16, 8), fingerprint="0" * 64)
        >>> state = SequenceState(vocabulary, image_size=(16, 32), levels=2)
        >>> sequence = []
        >>> while not state.finished:
        ...     logits = torch.zeros(vocabulary.size)  # a model's
        ...     allowed = state.allowed()
        ...     token = int(allowed[logits[allowed].argmax()])
        ...     state.append(token)
        ...     sequence.append(token)
        >>> vocabulary.unflatten(sequence)
        TokenPyramid(1 image of 16x32 px, 2 levels: 1x2 of 4, 2x4 of 8, 0.0547 bits per pixel, fingerprint 00000000,
                     precision None)
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        image_size: tuple[int, int] | None = None,
        levels: int | None = None,
        sparse: bool = True,
    ) -> None:
        most = len(vocabulary.strides)
        vocabulary.check_size(image_size or (1, 1), most if levels is None else levels)
        self.vocabulary = vocabulary
        self.finished = False
        """Whether the image is whole; then only the mark of the end may follow, as padding."""
        super().__init__(_Grammar(vocabulary, image_size, levels, sparse).walk())

    def append(self, token: int) -> None:
        """Takes the next integer of the sequence.

        Args:
            token: One of those that may come next.

        Raises:
            TokenSequenceError: It may not come next; the message tells the position, what was expected and what came.
        """
        super().append(token)
        self.finished = self.finished or token == self.vocabulary.end

    def _refusal(self, token: int) -> TokenSequenceError:
        expected = " or ".join(span_of(self.vocabulary, r.start, r.stop - 1) for r in self.ranges)
        return TokenSequenceError(
            f"expected {expected} at position {self.position}, got {name_of(self.vocabulary, token)}: "
            "choose the next integer among those that `allowed` gives"
        )


_Walk: TypeAlias = Generator[Ranges, int, None]


class _Grammar:
    """The grammar of `Vocabulary` as a walk: it yields what may come next, and is sent what came."""

    def __init__(
        self, vocabulary: Vocabulary, image_size: tuple[int, int] | None, levels: int | None, sparse: bool
    ) -> None:
        self.vocabulary, self.levels, self.sparse = vocabulary, levels, sparse
        stride = vocabulary.strides[0]
        self.grid = self.crop = None
        if image_size is not None:
            self.grid = grids_of(image_size, (stride,))[0]
            self.crop = tuple(n * stride - pixels for n, pixels in zip(self.grid, image_size, strict=True))

    def walk(self) -> _Walk:
        v = self.vocabulary
        yield _only(v.begin)
        for axis in (0, 1):
            crop = v.crop_offset if self.crop is None else v.crop_offset + self.crop[axis]
            yield (range(crop, crop + (v.strides[0] if self.crop is None else 1)),)
        for offset, size in zip(v.image_offsets, v.image_codebook_sizes, strict=True):
            yield (range(offset, offset + size),)
        yield _only(v.level_markers[0])
        token, cells = yield from self._rows()
        present, level = cells, 0  # cells of the level, and how many of them have a token
        while token != v.end:
            level += 1
            children = (v.strides[level - 1] // v.strides[level]) ** 2
            if token == v.level_markers[level]:
                for _ in range(cells * children):
                    yield (self._ids(level),)
                present = cells * children
            else:
                present = yield from self._families(level, present, children, coarse_is_full=present == cells)
            cells *= children
            token = yield self._between(level, is_full=present == cells)
        while True:
            yield _only(v.end)

    def _rows(self) -> Generator[Ranges, int, tuple[int, int]]:
        """Level 0. Returns the integer behind its last row, and how many cells it has."""
        v, ids = self.vocabulary, self._ids(0)
        height, width = self.grid or (None, None)
        columns, rows = 0, 1
        while (token := (yield self._first_row(columns, width))) != v.row:
            columns += 1
        while True:
            another = () if rows == height else (ids,)
            rest = self._between(0, is_full=True) if height in (None, rows) else ()
            token = yield (*rest, *another)
            if token not in ids:
                return token, rows * columns
            for _ in range(columns - 1):
                yield (ids,)
            yield _only(v.row)
            rows += 1

    def _first_row(self, columns: int, width: int | None) -> Ranges:
        """What may follow so many ids of the first row, whose end tells how many columns there are."""
        row = _only(self.vocabulary.row) if columns and width in (None, columns) else ()
        return row if columns == width else (*row, self._ids(0))

    def _families(
        self, level: int, parents: int, children: int, *, coarse_is_full: bool
    ) -> Generator[Ranges, int, int]:
        """A sparse level. Returns how many of its cells have a token."""
        none, ids = self.vocabulary.none, self._ids(level)
        splits = 0
        for parent in range(parents):
            # A level of which all cells are there is no sparse one: one cell at least must not be split.
            would_be_full = coarse_is_full and splits == parent == parents - 1
            token = yield _only(none) if would_be_full else (*_only(none), ids)
            if token != none:
                splits += 1
                for _ in range(children - 1):
                    yield (ids,)
        return splits * children

    def _between(self, level: int, *, is_full: bool) -> Ranges:
        """What may come behind a level: the end, or the marker of the next level."""
        v, written = self.vocabulary, level + 1
        allowed = [v.end] if self.levels in (None, written) else []
        if written < (self.levels or len(v.strides)):
            allowed += [v.level_markers[written]] if is_full else []
            allowed += [v.sparse_markers[level]] if self.sparse else []
        return tuple(range(token, token + 1) for token in allowed)

    def _ids(self, level: int) -> range:
        first = self.vocabulary.level_offsets[level]
        return range(first, first + self.vocabulary.codebook_sizes[level])


def _only(token: int) -> Ranges:
    return (range(token, token + 1),)
