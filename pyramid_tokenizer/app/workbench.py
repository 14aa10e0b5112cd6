"""`Workbench`: a model with all that the page needs beside it, and `Opened`, an image that it works on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pyramid_tokenizer.datasets import TokenDataset
from pyramid_tokenizer.errors import ImageTooLargeError
from pyramid_tokenizer.images.files import header_size
from pyramid_tokenizer.images.read import read_image
from pyramid_tokenizer.segmentation import Segmenter
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.tokens.wrapping import check_own
from pyramid_tokenizer.visualize.words import NearestWords, common_words

MOST_PIXELS = 2**22
"""Pixels that an opened image may have, after it was shrunk: what every step of the page computes within seconds."""
TOKEN_SUFFIX = ".tokens"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Workbench:
    """A model that is ready for the page, shared by all who look at it.

    Example:
        >>> bench = Workbench.of(Segmenter.from_pretrained("tiny"), title="tiny", words=["cat", "dog", "sky"])
        >>> bench.num_levels, bench.words.words
        (4, ('cat', 'dog', 'sky'))
    """

    title: str
    """What the page calls the model."""
    segmenter: Segmenter
    words: NearestWords
    """The words that codes are described with."""
    size: int = 256
    """Photos with a longer short side than this, in pixels, are shrunk to it."""
    dataset: TokenDataset | None = None
    """What is searched; None where there is nothing to search."""

    @classmethod
    def of(
        cls,
        segmenter: Segmenter,
        *,
        title: str,
        words: Sequence[str] = (),
        size: int = 256,
        dataset: TokenDataset | None = None,
    ) -> Workbench:
        """A workbench of a segmenter; codes are described with these words, or else with `common_words`.

        Args:
            segmenter: The model, with its head where it has one.
            title: What the page calls it.
            words: Two words or more; () for the common ones.
            size: As above.
            dataset: As above.

        Raises:
            ConfigError: There is one word.
            TokenMismatchError: Another model made the dataset.
        """
        if dataset is not None:
            check_own(dataset.plan.fingerprint, segmenter.tok.fingerprint)
        described = NearestWords.of(segmenter.tok, words or common_words())
        return cls(title=title, segmenter=segmenter, words=described, size=size, dataset=dataset)

    @property
    def tok(self) -> PyramidTokenizer:
        """The tokenizer."""
        return self.segmenter.tok

    @property
    def num_levels(self) -> int:
        """How many levels there are, detail levels too."""
        return len(self.tok.quantizer.strides)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Opened:
    """An image that the page shows."""

    name: str
    """Of its file, without the suffix."""
    tokens: TokenPyramid
    """Of all levels that there are, a batch of one."""
    photo: Tensor | None
    """(3, H, W) float32 in [0, 1], of the tokens' size; None where there are tokens alone."""
    notes: tuple[str, ...] = ()
    """What a reader should know about how it was opened, a sentence each."""

    def prefix(self, levels: int) -> TokenPyramid:
        """The tokens of the coarsest `levels` levels: at least one, and all of them where there are fewer."""
        return self.tokens[: max(1, min(int(levels), len(self.tokens)))]


def open_file(bench: Workbench, path: str | os.PathLike[str]) -> Opened:
    """Opens an image file, which is encoded, or a token file of this model.

    Photos are shrunk to `bench.size`, never enlarged. Of a token file with several images the first is taken.

    Args:
        bench: The model.
        path: The file; one whose name ends with ".tokens" has tokens, any other an image.

    Raises:
        ImageFileError: It is missing, damaged or no image.
        ImageTooLargeError: It has more pixels than `read_image` takes, or more than `MOST_PIXELS` after it was shrunk.
        TokenFileError, TokenMismatchError: It is no whole token file, or the tokens of another model.
    """
    path = Path(path)
    if path.suffix == TOKEN_SUFFIX:
        return _open_tokens(bench, path)
    stored = header_size(path, size=None)
    size = None
    if stored is not None and min(stored) > bench.size:
        size, shrunk = bench.size, header_size(path, size=bench.size)
        assert shrunk is not None
        _check_size(shrunk, how=f"once its short side is shrunk to {bench.size} px: crop it")
    elif stored is not None:
        _check_size(stored, how="of an image that is not shrunk, because its short side is short: crop it")
    photo = read_image(path, size=size)
    height, width = photo.shape[1:]
    notes = (f"Shrunk from {_describe(stored)} to {width} x {height} px.",) if size is not None and stored else ()
    tokens = bench.tok.encode(photo, levels=bench.num_levels)
    return Opened(name=path.stem, tokens=tokens, photo=photo.cpu(), notes=notes)


def open_row(bench: Workbench, row: int) -> Opened:
    """Opens the tokens of a row of the workbench's dataset, which it must have."""
    assert bench.dataset is not None
    found = bench.dataset[row]
    return Opened(name=Path(found.key).stem, tokens=found.tokens, photo=None, notes=(_FROM_TOKENS,))


_FROM_TOKENS = "There are tokens and no photo: the image on the left is decoded from all of them."


def _open_tokens(bench: Workbench, path: Path) -> Opened:
    tokens = TokenPyramid.load(path)
    bench.tok.ids(tokens)  # of this model?
    _check_size(tokens.image_size, how="of tokens that are shown: decode them on the command line")
    notes = [_FROM_TOKENS]
    if tokens.batch_size > 1:
        notes.append(f"The file has {tokens.batch_size} images; this is the first.")
    return Opened(name=path.stem, tokens=tokens.unbind()[0], photo=None, notes=tuple(notes))


def _check_size(image_size: tuple[int, int], *, how: str) -> None:
    if image_size[0] * image_size[1] > MOST_PIXELS:
        raise ImageTooLargeError(f"expected at most {MOST_PIXELS:,} pixels, got {_describe(image_size)} px {how}")


def _describe(image_size: tuple[int, int] | None) -> str:
    assert image_size is not None
    return f"{image_size[1]} x {image_size[0]}"
