"""Images among the ids of a text: how one is written, and which ids may come next."""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import TYPE_CHECKING, TypeAlias

from pyramid_tokenizer.errors import ConfigError, TokenError, TokenSequenceError
from pyramid_tokenizer.tokens.sequence_state import GrammarState, Ranges, SequenceState

if TYPE_CHECKING:
    from pyramid_tokenizer.text.language_models import LanguageModelTokenizer
    from pyramid_tokenizer.tokens.pyramid import TokenPyramid

_SIZE = re.compile(r"([1-9]\d{0,4})\*([1-9]\d{0,4})")
_START_OF_SIZE = re.compile(r"([1-9]\d{0,4}(\*([1-9]\d{0,4})?)?)?")
_SIZE_PIECE = re.compile(r"[▁Ġ ]?(##)?[0-9*]*")


def write_image(lm: LanguageModelTokenizer, image: TokenPyramid) -> list[int]:
    """The ids of one image.

    Args:
        lm: The extended tokenizer.
        image: Tokens of one image.

    Raises:
        TokenSequenceError: The image has padding, which the layout "emu3" cannot write.
        TokenMismatchError: Tokens of another tokenizer.
    """
    v = lm.vocabulary
    ids = [lm.offset + i for i in v.flatten(image)[0].tolist()]
    if lm.layout == "pyramid":
        return ids
    crop, stride = v.crop_of(image), v.strides[0]
    if any(crop):
        raise TokenSequenceError(
            f'expected images whose sides are multiples of {stride} px for the layout "emu3", got {image.image_size}: crop '
            'them before they are encoded, or take the layout "pyramid", which writes any size'
        )
    rows, columns = image.grids[0]
    level_0 = 4 + len(v.image_codebook_sizes) + rows * (columns + 1)  # begin, two crops, the marker
    return [ids[0], *lm.encode_plain(f"{rows}*{columns}"), *ids[3:level_0], lm.base_size, *ids[level_0:]]


def size_pieces(lm: LanguageModelTokenizer) -> dict[int, str]:
    """The ids of text that a size "H*W" may be made of, and what each of them writes.

    Args:
        lm: The extended tokenizer.

    Raises:
        ConfigError: The tokenizer of the texts does not give such a size back.
    """
    candidates = [i for piece, i in lm.tokenizer.get_vocab().items() if _SIZE_PIECE.fullmatch(piece)]
    pieces = {i: lm.decode_plain([i]).replace(" ", "").removeprefix("##") for i in candidates if i < lm.base_size}
    written = "".join(pieces.get(i, "?") for i in lm.encode_plain("12*3456789"))
    if written != "12*3456789":
        raise ConfigError(
            f'expected a tokenizer that writes "12*3456789" for the layout "emu3", got {written!r}: take the layout "pyramid"'
        )
    return dict(sorted(pieces.items()))


class LanguageModelState(GrammarState):
    """Where a sequence of texts and images stands: which ids may come next.

    Args:
        lm: The extended tokenizer.
        image_size: (H, W) in pixels that images are to have. None: any.
        levels: How many levels they are to have, 1 to L. None: any number.
        sparse: Whether their levels may be sparse.

    Raises:
        TokenError: A size or `levels` outside its range, or a size that the layout cannot write.
    """

    def __init__(
        self,
        lm: LanguageModelTokenizer,
        *,
        image_size: tuple[int, int] | None = None,
        levels: int | None = None,
        sparse: bool = True,
    ) -> None:
        self.lm, self.image_size, self.levels, self.sparse = lm, image_size, levels, sparse
        SequenceState(lm.vocabulary, image_size=image_size, levels=levels)  # refuses what no image has
        stride = lm.vocabulary.strides[0]
        if lm.layout == "emu3" and image_size is not None and any(side % stride for side in image_size):
            raise TokenError(
                f'expected an image_size of multiples of {stride} px for the layout "emu3", got {image_size}: correct it'
            )
        self.is_inside = False
        """Whether an image has begun and has not ended."""
        self._parts: list[str | TokenPyramid] = []
        self._text: list[int] = []
        super().__init__(self._follow())

    def parts(self) -> list[str | TokenPyramid]:
        """The texts and images so far.

        Raises:
            TokenSequenceError: The last image has not ended.
        """
        if self.is_inside:
            raise self._error("the end of the sequence")
        self._end_text()
        return list(self._parts)

    def _refusal(self, token: int) -> TokenSequenceError:
        return self._error(f"{token} {self._name(token)}")

    def _follow(self) -> Generator[Ranges, int, None]:
        lm = self.lm
        behind = lm.tokenizer.get_vocab_size() if hasattr(lm.tokenizer, "get_vocab_size") else len(lm.tokenizer)
        texts = [range(lm.base_size), range(lm.begin, lm.begin + 1), range(lm.size, behind)]
        outside = tuple(r for r in texts if len(r))
        while True:
            token = yield outside
            if token != lm.begin:
                self._text.append(token)
                continue
            self._end_text()
            self.is_inside = True
            integers = yield from (self._pyramid_image() if lm.layout == "pyramid" else self._emu3_image())
            self._parts.append(lm.vocabulary.unflatten(integers))
            self.is_inside = False

    def _end_text(self) -> None:
        if self._text:
            self._parts.append(self.lm.decode_plain(self._text))
            self._text = []

    def _pyramid_image(self) -> _Image:
        v = self.lm.vocabulary
        state = SequenceState(v, image_size=self.image_size, levels=self.levels, sparse=self.sparse)
        return (yield from self._integers(state, [v.begin]))

    def _emu3_image(self) -> _Image:
        v, stride = self.lm.vocabulary, self.lm.vocabulary.strides[0]
        rows, columns, following = yield from self._size()
        size = (rows * stride, columns * stride)
        state = SequenceState(v, image_size=size, levels=self.levels, sparse=self.sparse)
        head = [v.begin, v.crop_offset, v.crop_offset, following]
        level_0 = yield from self._integers(state, head, count=len(v.image_codebook_sizes) + rows * (columns + 1))
        yield (range(self.lm.base_size, self.lm.base_size + 1),)
        return level_0 + (yield from self._integers(state, []))

    def _size(self) -> Generator[Ranges, int, tuple[int, int, int]]:
        """Rows and columns of level 0, as text, and the integer that follows: the first image token, or else the marker."""
        lm, stride = self.lm, self.lm.vocabulary.strides[0]
        pieces, text, is_first = lm.size_pieces, "", True
        demanded = None if self.image_size is None else "*".join(str(side // stride) for side in self.image_size)
        v = lm.vocabulary
        following = range(v.level_markers[0], v.level_markers[0] + 1)
        if v.image_codebook_sizes:
            following = range(v.first_id, v.first_id + v.image_codebook_sizes[0])
        following = range(following.start + lm.offset, following.stop + lm.offset)
        while True:
            ids = [i for i, piece in pieces.items() if (piece or is_first) and _may_be(text + piece, demanded)]
            whole = _SIZE.fullmatch(text) is not None and demanded in (None, text)
            token = yield (*(range(i, i + 1) for i in ids), *([following] if whole else []))
            if token in following:
                rows, columns = map(int, text.split("*"))
                return rows, columns, token - lm.offset
            text, is_first = text + pieces[token], False

    def _integers(self, state: SequenceState, head: list[int], count: int | None = None) -> _Image:
        """The integers of the vocabulary: `head`, which are not asked for, and so many more, or all up to the end."""
        state.extend(head)
        taken, offset = list(head), self.lm.offset
        while not state.finished and (count is None or len(taken) < len(head) + count):
            token = (yield tuple(range(r.start + offset, r.stop + offset) for r in state.ranges)) - offset
            state.append(token)
            taken.append(token)
        return taken

    def _name(self, token: int) -> str:
        lm = self.lm
        if lm.base_size <= token < lm.size:
            return lm.names[token - lm.base_size]
        return "of the text" if 0 <= token < lm.base_size else "(not an id of the tokenizer)"

    def _error(self, got: str) -> TokenSequenceError:
        lm = self.lm
        spans = []
        for r in self.ranges:
            if r.start < lm.base_size:
                spans.append("text" if len(r) == lm.base_size else repr(lm.decode_plain([r.start])))
            else:
                last = f" to {self._name(r.stop - 1)}" if len(r) > 1 else ""
                spans.append(self._name(r.start) + last)
        few = spans if len(spans) < 8 else [*spans[:4], "…", spans[-1]]
        return TokenSequenceError(
            f"expected {' or '.join(few)} at position {self.position}, got {got}: let `allowed_next` choose what the model may "
            "write, or pass whole images"
        )


_Image: TypeAlias = Generator[Ranges, int, list[int]]


def _may_be(text: str, demanded: str | None) -> bool:
    """Whether a size may begin with the text."""
    return _START_OF_SIZE.fullmatch(text) is not None and (demanded is None or demanded.startswith(text))
