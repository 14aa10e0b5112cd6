"""`Vocabulary` writes a token pyramid as one sequence of integers for a language model, and reads it back."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from pyramid_tokenizer.checks.arguments import check_whole
from pyramid_tokenizer.errors import ConfigError, TokenError, TokenMismatchError, TokenSequenceError
from pyramid_tokenizer.tokens.checks import check_origin, whole_numbers
from pyramid_tokenizer.tokens.geometry import grids_of
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.tokens.sequence_reader import find_images, read_batch
from pyramid_tokenizer.tokens.sequence_state import SequenceState
from pyramid_tokenizer.tokens.sequence_writer import write_full, write_sparse
from pyramid_tokenizer.tokens.sequences import Integers, as_rows
from pyramid_tokenizer.tokens.trusted import trusted_pyramid
from pyramid_tokenizer.tokens.wrapping import check_pyramid


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """The integers that stand for the tokens of one tokenizer, and the grammar of their sequences.

    The sequence of an image is, coarse to fine:

        begin, crop, crop,                            rows, then columns of padding to remove at bottom and right
        M ids,                                        one of each image token; none where the tokenizer has none
        level 0, (w_0 ids, row) h_0 times,            the row markers tell the grid
        level 1, h_1 · w_1 ids, row by row, …         finer grids are whole multiples: no markers needed
        end                                           after any level: a prefix of levels is a sequence too

    A level that is sparse in the image has another marker, and goes by the present cells of the next coarser level, row by row:

        sparse 1, (r · r ids or none) for each        the ids of all cells below that cell, row by row, r in a row; or a mark
                                                      that there are none because the cell is not split

    Below a sparse level all levels are sparse, and a sparse level has at least one absent cell, so a pyramid has one sequence
    and a sequence one pyramid.

    The integers are, in this order: begin, end, row, none, L level markers, L - 1 markers of the levels from 1 on where they are
    sparse, s_0 crop tokens, then the ids of each image token, and those of each level, coarse to fine. `find` tells where images
    are among the ids of a text.

    Raises:
        ConfigError: No levels, not one stride per codebook, a codebook of fewer than 2 entries, or a stride that is not
            a multiple of the next finer one.

    Example:
        >>> import torch
        >>> vocabulary = Vocabulary(codebook_sizes=(4, 8), strides=(16, 8), fingerprint="0" * 64)
        >>> ids = (torch.tensor([[[3, 1]]]), torch.tensor([[[0, 5, 2, 2], [7, 4, 4, 1]]]))
        >>> tokens = TokenPyramid(ids=ids, codebook_sizes=(4, 8), image_size=(15, 32), fingerprint="0" * 64)
        >>> sequence = vocabulary.flatten(tokens)
        >>> sequence.tolist()
        [[0, 8, 7, 4, 26, 24, 2, 5, 27, 32, 29, 29, 34, 31, 31, 28, 1]]
        >>> [vocabulary.describe(i) for i in sequence[0, :7].tolist()]
        ['<|img begin|>', '<|img crop 1|>', '<|img crop 0|>', '<|img level 0|>', '<|img l0 0003|>',
         '<|img l0 0001|>', '<|img row|>']
        >>> vocabulary.unflatten(sequence) == tokens
        True
        >>> ids[1][:, :, :2] = -1  # the left cell is not split
        >>> sparse = TokenPyramid(ids=ids, codebook_sizes=(4, 8), image_size=(15, 32), fingerprint="0" * 64)
        >>> [vocabulary.describe(i) for i in vocabulary.flatten(sparse)[0, 7:].tolist()]
        ['<|img sparse 1|>', '<|img none|>', '<|img l1 0002|>', '<|img l1 0002|>', '<|img l1 0004|>', '<|img l1 0001|>',
         '<|img end|>']
    """

    codebook_sizes: tuple[int, ...]
    """K_l per level, coarse to fine."""
    strides: tuple[int, ...]
    """s_l per level: input pixels per cell, each a multiple of the next."""
    fingerprint: str
    """The fingerprint of the tokenizer whose codebooks the ids point into; `unflatten` puts it into its tokens."""

    image_codebook_sizes: tuple[int, ...] = ()
    """K of each image token; () where there are none."""

    def __post_init__(self) -> None:
        check_origin(self.fingerprint, None)
        image_sizes = whole_numbers(self.image_codebook_sizes, "image_codebook_sizes", least=2)
        object.__setattr__(self, "image_codebook_sizes", image_sizes)
        for name in ("codebook_sizes", "strides"):
            values = getattr(self, name)
            values = tuple(values) if isinstance(values, Iterable) else (values,)
            check_whole(None, **{f"{name}[{level}]": value for level, value in enumerate(values)})
            object.__setattr__(self, name, values)
        sizes, strides = self.codebook_sizes, self.strides
        if not sizes or len(sizes) != len(strides) or min(sizes) < 2:
            got = f"codebook_sizes {sizes}, strides {strides}"
            raise ConfigError(
                f"expected a stride and a codebook size of 2 or more per level, got {got}: give one of each"
            )
        if min(strides) < 1 or any(coarse % fine for coarse, fine in itertools.pairwise(strides)):
            raise ConfigError(
                f"expected strides from coarse to fine, each a multiple of the next, got {strides}: reorder or correct them"
            )

    @property
    def size(self) -> int:
        """Number of integers: every sequence is in [0, size)."""
        return self.level_offsets[-1] + self.codebook_sizes[-1]

    @property
    def begin(self) -> int:
        """First integer of every sequence."""
        return 0

    @property
    def end(self) -> int:
        """Last integer of every sequence."""
        return 1

    @property
    def row(self) -> int:
        """Stands after each row of level 0."""
        return 2

    @property
    def none(self) -> int:
        """Stands in a sparse level for a cell of the next coarser level that is not split."""
        return 3

    @property
    def level_markers(self) -> tuple[int, ...]:
        """One per level; stands before the ids of a level that is full."""
        return tuple(range(4, 4 + len(self.strides)))

    @property
    def sparse_markers(self) -> tuple[int, ...]:
        """One per level from level 1 on, L - 1 in all; stands before the ids of a level that is sparse."""
        first = 4 + len(self.strides)
        return tuple(range(first, first + len(self.strides) - 1))

    @property
    def crop_offset(self) -> int:
        """Integer of a crop of 0 px; a crop of c px, 0 <= c < s_0, is `crop_offset + c`."""
        return 3 + 2 * len(self.strides)

    @property
    def first_id(self) -> int:
        """The first integer that is an id of a codebook; those before it are marks and crops."""
        return self.crop_offset + self.strides[0]

    @property
    def image_offsets(self) -> tuple[int, ...]:
        """Integer of id 0 of each image token."""
        return tuple(itertools.accumulate(self.image_codebook_sizes, initial=self.first_id))[:-1]

    @property
    def level_offsets(self) -> tuple[int, ...]:
        """Integer of id 0 per level; id i is `level_offsets[level] + i`."""
        first = self.first_id + sum(self.image_codebook_sizes)
        return tuple(itertools.accumulate(self.codebook_sizes, initial=first))[:-1]

    def describe(self, token: int) -> str:
        """The name of one integer, e.g. "<|img l0 0017|>" for id 17 of level 0.

        Args:
            token: In [0, size).

        Raises:
            TokenSequenceError: `token` is not in [0, size).
        """
        check_whole(None, error=TokenSequenceError, token=token)
        if not 0 <= token < self.size:
            raise TokenSequenceError(
                f"expected an integer in [0, {self.size}), got {token}: use the vocabulary that made it"
            )
        if token < 4:
            return ("<|img begin|>", "<|img end|>", "<|img row|>", "<|img none|>")[token]
        levels = len(self.strides)
        if token < 4 + levels:
            return f"<|img level {token - 4}|>"
        if token < self.crop_offset:
            return f"<|img sparse {token - 3 - levels}|>"
        if token < self.first_id:
            return f"<|img crop {token - self.crop_offset}|>"
        kind, offsets = ("i", self.image_offsets) if token < self.level_offsets[0] else ("l", self.level_offsets)
        number = max(i for i, offset in enumerate(offsets) if offset <= token)
        return f"<|img {kind}{number} {token - offsets[number]:04d}|>"

    def token_names(self) -> list[str]:
        """Unique names of all `size` integers in order, to be added to a language model's tokenizer."""
        names = [self.describe(i) for i in range(self.first_id)]
        for kind, sizes in (("i", self.image_codebook_sizes), ("l", self.codebook_sizes)):
            names += [f"<|img {kind}{number} {i:04d}|>" for number, k in enumerate(sizes) for i in range(k)]
        return names

    def sequence_length(self, image_size: tuple[int, int], levels: int | None = None) -> int:
        """N, the length of the sequence of an image of (H, W) pixels whose levels are full; with sparse levels it is no longer.

        Args:
            image_size: (H, W) in pixels, before padding.
            levels: How many levels are kept, 1 to L; None for all.

        Raises:
            TokenError: A size or `levels` outside its range.

        Example:
            >>> vocabulary = Vocabulary(codebook_sizes=(512, 1024, 4096), strides=(32, 16, 8), fingerprint="0" * 64)
            >>> vocabulary.sequence_length((256, 256)), vocabulary.sequence_length((256, 256), levels=1)
            (1359, 77)
        """
        levels = len(self.strides) if levels is None else levels
        self.check_size(image_size, levels)
        grids = grids_of(image_size, self.strides[:levels])
        markers = 4 + levels + grids[0][0]  # begin, two crops and end, the levels' and the rows'
        return markers + len(self.image_codebook_sizes) + sum(h * w for h, w in grids)

    def flatten(self, tokens: TokenPyramid) -> Tensor:
        """One sequence of integers per image.

        Args:
            tokens: Tokens of B images, of all levels or of any prefix of them.

        Returns:
            (B, N) int64 in [0, size), on the tokens' device; N is `sequence_length(tokens.image_size, len(tokens))`, or less in
            a sparse batch: the length of its longest sequence. The shorter ones go on with the mark of the end, which
            `unflatten` takes for padding.

        Raises:
            TokenMismatchError: `tokens` come from another tokenizer, or from one of other codebooks or strides.
        """
        crop = self.crop_of(tokens)
        return (
            write_sparse(self, tokens, crop)
            if tokens.is_sparse
            else write_full(self, tokens.ids, tokens.image_ids, crop)
        )

    def crop_of(self, tokens: TokenPyramid) -> tuple[int, int]:
        """Rows and columns of padding, in pixels, that the images of tokens have at bottom and right.

        Args:
            tokens: Tokens of all levels or of any prefix of them.

        Raises:
            TokenMismatchError: They come from another tokenizer, or from one of other codebooks or strides.
        """
        self._check_tokens(tokens)
        (h, w), stride, (height, width) = tokens.grids[0], self.strides[0], tokens.image_size
        return h * stride - height, w * stride - width

    def unflatten(self, sequence: Integers) -> TokenPyramid:
        """The tokens that `flatten` was given, from the integers alone.

        Args:
            sequence: (B, N) or (N,), a tensor, an array or a list of integers; all of a batch must decode to one image size.
                Sequences of sparse levels differ in length.
                Behind the end there may be padding, one integer repeated: any outside [0, size), or the mark of begin or end.

        Returns:
            Tokens of as many levels as the sequence has, with this vocabulary's fingerprint and no precision, on the
                sequence's device.

        Raises:
            TokenSequenceError: The sequence breaks the grammar, or goes on after the end; the message tells the position,
                what was expected and what came.
        """
        rows, lengths = as_rows(sequence)
        crop, image_ids, ids, present = read_batch(self, rows, lengths)
        height, width = (cells * self.strides[0] - pixels for cells, pixels in zip(ids[0].shape[1:], crop, strict=True))
        return trusted_pyramid(  # `read_batch` has checked every id
            ids=ids,
            present=present,
            codebook_sizes=self.codebook_sizes[: len(ids)],
            image_size=(height, width),
            fingerprint=self.fingerprint,
            precision=None,  # a sequence does not tell, and a language model has none
            image_ids=image_ids,
            image_codebook_sizes=self.image_codebook_sizes,
        )

    def allowed_next(
        self,
        prefix: Integers,
        *,
        image_size: tuple[int, int] | None = None,
        levels: int | None = None,
        sparse: bool = True,
    ) -> Tensor:
        """The integers that may come next, so that a language model writes nothing but images.

        Each call reads the whole prefix; `SequenceState` keeps its place from one integer to the next.

        Args:
            prefix: (N,), the integers so far, a tensor, an array or a list; it may be empty.
            image_size: (H, W) in pixels that the image is to have. None: any.
            levels: How many levels it is to have, 1 to L. None: any number.
            sparse: Whether its levels may be sparse.

        Returns:
            (n,) int64 in ascending order, on the CPU; n is at least 1. Behind the end of an image only the mark of the end
                is allowed, as padding.

        Raises:
            TokenSequenceError: The prefix breaks the grammar, or is of several sequences; the message tells the position.
            TokenError: A size or `levels` outside its range.

        Example:
            >>> vocabulary = Vocabulary(codebook_sizes=(4, 8), strides=(16, 8), fingerprint="0" * 64)
            >>> ids = vocabulary.allowed_next([0, 7, 7, 4, 26])  # the first id of the first row
            >>> [vocabulary.describe(i) for i in ids.tolist()]
            ['<|img row|>', '<|img l0 0000|>', '<|img l0 0001|>', '<|img l0 0002|>', '<|img l0 0003|>']
            >>> vocabulary.allowed_next([0, 7, 7, 4, 26], image_size=(16, 16)).tolist()  # the row has one cell
            [2]
        """
        rows, lengths = as_rows(prefix)
        if len(rows) != 1:
            raise TokenSequenceError(f"expected one prefix (N,), got {len(rows)} of them: ask for each one alone")
        state = SequenceState(self, image_size=image_size, levels=levels, sparse=sparse)
        state.extend(rows[0, : lengths[0]].tolist())
        return state.allowed()

    def find(self, sequence: Integers, *, offset: int = 0) -> list[tuple[int, int]]:
        """Where the images are in a sequence that also has other integers, such as the ids of a text.

        Only whole images count, of all levels or of a prefix of them: those that `unflatten` reads. One that is cut off at
        the sequence's begin or end, or that other integers interrupt, is left out; `unflatten` of its part tells why.

        Args:
            sequence: (N,), a tensor, an array or a list of integers.
            offset: The integer that stands for 0 of this vocabulary, where it is put behind that of a language model. All
                integers outside [offset, offset + size) are other ones.

        Returns:
            Start and stop of each image, in order: `vocabulary.unflatten(sequence[start:stop] - offset)` is the image.

        Raises:
            TokenSequenceError: No integers, or several sequences.
            ConfigError: An offset that is negative or no whole number.

        Example:
            >>> vocabulary = Vocabulary(codebook_sizes=(4,), strides=(16,), fingerprint="0" * 64)
            >>> image = [1000 + i for i in (0, 5, 5, 4, 21, 2, 1)]
            >>> mixed = [17, *image, 999, 3, *image[:5]]  # the second image has no end
            >>> vocabulary.find(mixed, offset=1000)
            [(1, 8)]
        """
        check_whole(0, offset=offset)
        if offset >= 2**62:  # what is left of int64 holds the vocabulary
            raise ConfigError(f"expected an offset below 2^62, got {offset}: give the size of the other vocabulary")
        rows, lengths = as_rows(sequence)
        if len(rows) != 1:
            raise TokenSequenceError(
                f"expected one sequence (N,), got {len(rows)} of them: find the images of each one alone"
            )
        return find_images(self, rows[0, : lengths[0]].cpu().numpy() - offset)

    def check_size(self, image_size: tuple[int, int], levels: int) -> None:
        """Refuses an image size (H, W) or a number of levels that no sequence has.

        Args:
            image_size: In pixels, before padding.
            levels: How many levels are kept, 1 to L.

        Raises:
            TokenError: A size or `levels` outside its range.
        """
        if not isinstance(image_size, (tuple, list)) or len(image_size) != 2:
            got = type(image_size).__name__
            raise TokenError(f"expected image_size as (height, width), got {got}: give both in pixels, e.g. (256, 256)")
        check_whole(None, error=TokenError, height=image_size[0], width=image_size[1], levels=levels)
        if min(image_size) < 1 or not 1 <= levels <= len(self.strides):
            got = f"{image_size} and {levels} levels"
            raise TokenError(
                f"expected a size (height, width) in pixels and 1 to {len(self.strides)} levels, got {got}: correct it"
            )

    def _check_tokens(self, tokens: TokenPyramid) -> None:
        check_pyramid(tokens)
        sizes, strides = self.codebook_sizes[: len(tokens)], self.strides[: len(tokens)]
        kind = self.fingerprint, sizes, self.image_codebook_sizes
        if (tokens.fingerprint, tokens.codebook_sizes, tokens.image_codebook_sizes) != kind:
            image = f", image tokens of {self.image_codebook_sizes}" if self.image_codebook_sizes else ""
            raise TokenMismatchError(
                f"expected tokens of codebooks {self.codebook_sizes}{image} and fingerprint {self.fingerprint[:8]}, "
                f"got {tokens}: use the vocabulary of the tokenizer that made them"
            )
        expected = grids_of(tokens.image_size, self.strides[: len(tokens)])
        if tokens.grids != expected:
            raise TokenMismatchError(
                f"expected grids {expected} for strides {strides} and {tokens.image_size} px, got {tokens.grids}: use the "
                "vocabulary of the tokenizer that made the tokens"
            )
