"""`Vocabulary` writes a token pyramid as one sequence of integers for a language model, and reads it back."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyramid_tokenizer.checks.arguments import check_whole
from pyramid_tokenizer.errors import ConfigError, TokenError, TokenMismatchError, TokenSequenceError
from pyramid_tokenizer.tokens.checks import check_origin
from pyramid_tokenizer.tokens.geometry import grids_of
from pyramid_tokenizer.tokens.pyramid import TokenPyramid, trusted_pyramid
from pyramid_tokenizer.tokens.sequences import (
    Integers,
    SequenceReader,
    as_rows,
    check_padding,
    find_images,
    name_of,
    span_of,
)
from pyramid_tokenizer.tokens.wrapping import check_pyramid


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """The integers that stand for the tokens of one tokenizer, and the grammar of their sequences.

    The sequence of an image is, coarse to fine:

        begin, crop, crop,                            rows, then columns of padding to remove at bottom and right
        level 0, (w_0 ids, row) h_0 times,            the row markers tell the grid
        level 1, h_1 · w_1 ids, row by row, …         finer grids are whole multiples: no markers needed
        end                                           after any level: a prefix of levels is a sequence too

    The integers are, in this order: begin, end, row, L level markers, s_0 crop tokens, then the K_l ids of each level, coarse
    to fine. `find` tells where images are among the ids of a text.

    Raises:
        ConfigError: No levels, not one stride per codebook, a codebook of fewer than 2 entries, or a stride that is not
            a multiple of the next finer one.

    Example:
        >>> vocabulary = Vocabulary(codebook_sizes=(4, 8), strides=(16, 8), fingerprint="0" * 64)
        >>> ids = (torch.tensor([[[3, 1]]]), torch.tensor([[[0, 5, 2, 2], [7, 4, 4, 1]]]))
        >>> tokens = TokenPyramid(ids=ids, codebook_sizes=(4, 8), image_size=(15, 32), fingerprint="0" * 64)
        >>> sequence = vocabulary.flatten(tokens)
        >>> sequence.tolist()
        [[0, 6, 5, 3, 24, 22, 2, 4, 25, 30, 27, 27, 32, 29, 29, 26, 1]]
        >>> [vocabulary.describe(i) for i in sequence[0, :7].tolist()]
        ['<pyramid:begin>', '<pyramid:crop:1>', '<pyramid:crop:0>', '<pyramid:level:0>', '<pyramid:0:3>',
         '<pyramid:0:1>', '<pyramid:row>']
        >>> vocabulary.unflatten(sequence) == tokens
        True
    """

    codebook_sizes: tuple[int, ...]
    """K_l per level, coarse to fine."""
    strides: tuple[int, ...]
    """s_l per level: input pixels per cell, each a multiple of the next."""
    fingerprint: str
    """The fingerprint of the tokenizer whose codebooks the ids point into; `unflatten` puts it into its tokens."""

    def __post_init__(self) -> None:
        check_origin(self.fingerprint, None)
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
    def level_markers(self) -> tuple[int, ...]:
        """One per level; stands before the level's ids."""
        return tuple(range(3, 3 + len(self.strides)))

    @property
    def crop_offset(self) -> int:
        """Integer of a crop of 0 px; a crop of c px, 0 <= c < s_0, is `crop_offset + c`."""
        return 3 + len(self.strides)

    @property
    def level_offsets(self) -> tuple[int, ...]:
        """Integer of id 0 per level; id i is `level_offsets[level] + i`."""
        first = self.crop_offset + self.strides[0]
        return tuple(first + sum(self.codebook_sizes[:level]) for level in range(len(self.strides)))

    def describe(self, token: int) -> str:
        """The name of one integer, e.g. "<pyramid:0:17>" for id 17 of level 0.

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
        if token < 3:
            return ("<pyramid:begin>", "<pyramid:end>", "<pyramid:row>")[token]
        if token < self.crop_offset:
            return f"<pyramid:level:{token - 3}>"
        if token < self.level_offsets[0]:
            return f"<pyramid:crop:{token - self.crop_offset}>"
        level = max(i for i, offset in enumerate(self.level_offsets) if offset <= token)
        return f"<pyramid:{level}:{token - self.level_offsets[level]}>"

    def token_names(self) -> list[str]:
        """Unique names of all `size` integers in order, to be added to a language model's tokenizer."""
        special = [self.describe(i) for i in range(self.level_offsets[0])]
        return special + [f"<pyramid:{level}:{i}>" for level, k in enumerate(self.codebook_sizes) for i in range(k)]

    def sequence_length(self, image_size: tuple[int, int], levels: int | None = None) -> int:
        """N, the length of the sequence of an image of (H, W) pixels.

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
        if not isinstance(image_size, (tuple, list)) or len(image_size) != 2:
            got = type(image_size).__name__
            raise TokenError(f"expected image_size as (height, width), got {got}: give both in pixels, e.g. (256, 256)")
        check_whole(None, error=TokenError, height=image_size[0], width=image_size[1], levels=levels)
        if min(image_size) < 1 or not 1 <= levels <= len(self.strides):
            got = f"{image_size} and {levels} levels"
            raise TokenError(
                f"expected a size (height, width) in pixels and 1 to {len(self.strides)} levels, got {got}: correct it"
            )
        grids = grids_of(image_size, self.strides[:levels])
        markers = 4 + levels + grids[0][0]  # begin, two crops and end, the levels' and the rows'
        return markers + sum(h * w for h, w in grids)

    def flatten(self, tokens: TokenPyramid) -> Tensor:
        """One sequence of integers per image.

        Args:
            tokens: Tokens of B images, of all levels or of any prefix of them.

        Returns:
            (B, N) int64 in [0, size), on the tokens' device; N is `sequence_length(tokens.image_size, len(tokens))`.

        Raises:
            TokenMismatchError: `tokens` come from another tokenizer, or from one of other codebooks or strides.
        """
        self._check_tokens(tokens)
        (h, w), stride, (height, width) = tokens.grids[0], self.strides[0], tokens.image_size
        return self._assemble(tokens.ids, (h * stride - height, w * stride - width))

    def unflatten(self, sequence: Integers) -> TokenPyramid:
        """The tokens that `flatten` was given, from the integers alone.

        Args:
            sequence: (B, N) or (N,), a tensor, an array or a list of integers; all of a batch must decode to one image size.
                Behind the end there may be padding, one integer repeated: any outside [0, size), or the mark of begin or end.

        Returns:
            Tokens of as many levels as the sequence has, with this vocabulary's fingerprint and no precision, on the
                sequence's device.

        Raises:
            TokenSequenceError: The sequence breaks the grammar, or goes on after the end; the message tells the position,
                what was expected and what came.
        """
        rows, lengths = as_rows(sequence)
        reader = SequenceReader(self, rows[0, : lengths[0]].cpu())
        (h, w), crop, levels = reader.read()
        image_size = (h * self.strides[0] - crop[0], w * self.strides[0] - crop[1])
        grids = grids_of(image_size, self.strides[:levels])
        batch = self._checked_batch(rows, lengths, reader.position, grids, crop)
        ids, start = [], 4
        for level, (height, width) in enumerate(grids):
            marked = width + 1 if level == 0 else width
            cells = batch[:, start : start + height * marked].unflatten(1, (height, marked))
            ids.append(cells[:, :, :width] - self.level_offsets[level])  # (B, h_l, w_l)
            start += height * marked + 1
        return trusted_pyramid(  # `_checked_batch` has checked every id
            ids=ids,
            codebook_sizes=self.codebook_sizes[:levels],
            image_size=image_size,
            fingerprint=self.fingerprint,
            precision=None,  # a sequence does not tell, and a language model has none
        )

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
            >>> image = [1000 + i for i in (0, 4, 4, 3, 20, 2, 1)]
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
        return find_images(self, rows[0, : lengths[0]].cpu() - offset)

    def _assemble(self, ids: Sequence[Tensor], crop: tuple[int, int]) -> Tensor:
        size, device = len(ids[0]), ids[0].device

        def special(*tokens: int) -> Tensor:
            return torch.tensor(tokens, device=device).expand(size, -1)  # (B, len(tokens))

        parts = [special(self.begin, *(self.crop_offset + c for c in crop))]
        for level, level_ids in enumerate(ids):
            shifted = level_ids + self.level_offsets[level]
            if level == 0:
                shifted = torch.nn.functional.pad(shifted, (0, 1), value=self.row)  # (B, h_0, w_0 + 1)
            parts += [special(self.level_markers[level]), shifted.flatten(1)]
        return torch.cat([*parts, special(self.end)], dim=1)

    def _check_tokens(self, tokens: TokenPyramid) -> None:
        check_pyramid(tokens)
        sizes, strides = self.codebook_sizes[: len(tokens)], self.strides[: len(tokens)]
        if tokens.fingerprint != self.fingerprint or tokens.codebook_sizes != sizes:
            raise TokenMismatchError(
                f"expected tokens of codebooks {self.codebook_sizes} and fingerprint {self.fingerprint[:8]}, "
                f"got {tokens}: use the vocabulary of the tokenizer that made them"
            )
        expected = grids_of(tokens.image_size, self.strides[: len(tokens)])
        if tokens.grids != expected:
            raise TokenMismatchError(
                f"expected grids {expected} for strides {strides} and {tokens.image_size} px, got {tokens.grids}: use the "
                "vocabulary of the tokenizer that made the tokens"
            )

    def _checked_batch(
        self,
        rows: Tensor,
        lengths: list[int],
        stop: int,
        grids: Sequence[tuple[int, int]],
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
        low = self._assemble(zeros, crop)
        high = self._assemble([x + k - 1 for x, k in zip(zeros, self.codebook_sizes, strict=False)], crop)
        wrong = ((sequence < low) | (sequence > high)).nonzero()
        if len(wrong):
            image, position = wrong[0].tolist()
            expected = span_of(self, int(low[0, position]), int(high[0, position]))
            got = name_of(self, int(sequence[image, position]))
            raise TokenSequenceError(
                f"expected {expected} at position {position} of sequence {image}, as sequence 0 has it, got {got}: "
                "a batch decodes to one image size; unflatten other sizes alone"
            )
        check_padding(self, rows, lengths, stop)
        return sequence
