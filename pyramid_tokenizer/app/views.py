"""What the page shows of an opened image: decoded prefixes, the tokens at a place, masks, and images of a dataset."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from pyramid_tokenizer.app.workbench import Opened, Workbench
from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.evaluation.metrics import psnr
from pyramid_tokenizer.images.labelled.word_lists import parse_word_list
from pyramid_tokenizer.images.pixels import to_pil
from pyramid_tokenizer.segmentation.segmenter import Mode, SegmentationMap
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.visualize.maps import enlargement
from pyramid_tokenizer.visualize.overlay import overlay
from pyramid_tokenizer.visualize.same_tokens import PlacedToken, same_tokens_sheet, tokens_at

MOST_WORDS = 200
"""Words that one list of the page may have."""
MOST_FOUND = 12
"""Images of a dataset that a search shows."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Decoded:
    """What a prefix of the levels decodes to."""

    tokens: TokenPyramid
    image: Image.Image
    """RGB, of the photo's size."""
    psnr: float | None
    """PSNR in dB against the photo; None where there is none."""


def decode_prefix(bench: Workbench, opened: Opened, levels: int) -> Decoded:
    """Decodes the coarsest `levels` levels."""
    tokens = opened.prefix(levels)
    decoded = bench.tok.decode(tokens).cpu()
    quality = None if opened.photo is None else psnr(opened.photo[None], decoded).item()
    return Decoded(tokens=tokens, image=to_pil(decoded)[0], psnr=quality)


def photo_of(bench: Workbench, opened: Opened) -> Image.Image:
    """The photo, or where there is none what all tokens decode to; RGB."""
    return to_pil(bench.tok.decode(opened.tokens).cpu() if opened.photo is None else opened.photo)[0]


def on_screen(image: Image.Image) -> Image.Image:
    """The image, enlarged smoothly by a whole number if it is small; `screen_scale` says by which."""
    scale = screen_scale((image.height, image.width))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)


def screen_scale(image_size: tuple[int, int]) -> int:
    """Pixels of the screen for each pixel along a side of an image of this height and width, at least 1."""
    return enlargement(image_size)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Place:
    """The tokens at a place of an image."""

    x: int
    """Column of the pixel."""
    y: int
    """Row of the pixel."""
    tokens: list[PlacedToken]
    """The token of each level there."""
    words: list[str]
    """The nearest words of each, or that its level has none."""
    sheet: Image.Image
    """Where else the same tokens occur."""


def look_at(bench: Workbench, opened: Opened, x: int, y: int, *, levels: int) -> Place:
    """The tokens at a pixel, their nearest words, and where else in the image they occur.

    Args:
        bench: The model.
        opened: The image.
        x: Column of the pixel.
        y: Row of the pixel.
        levels: How many levels to show.

    Raises:
        TokenRangeError: The pixel is outside the image.
    """
    strides = bench.tok.quantizer.strides
    found = tokens_at(opened.prefix(levels), x, y, strides=strides)
    words = [bench.words.caption(one.level, one.id) for one in found]
    captions = [f"id {one.id}: {len(one.cells)} of {one.num_tokens:,} tokens" for one in found]
    sheet = same_tokens_sheet(photo_of(bench, opened), found, captions, strides=strides)
    return Place(x=x, y=y, tokens=found, words=words, sheet=sheet)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Masks:
    """Where words are in an image."""

    labels: Tensor
    """(H, W) int64 on the CPU: the index of each pixel's word in `names`, or `NO_CLASS`."""
    names: tuple[str, ...]
    """The words, of synonyms the first."""
    image: Image.Image
    """The photo with the words in colours, enlarged if it is small, and a legend below."""


def find_words(
    bench: Workbench, opened: Opened, words: str, *, background: str = "", mode: Mode = "auto", levels: int
) -> Masks:
    """Finds words in an image, from its tokens alone.

    Args:
        bench: The model.
        opened: The image.
        words: What was typed: words separated by commas, synonyms as "car|automobile".
        background: Likewise, for everything else; empty where each pixel is to get one of the words.
        mode: As `Segmenter.segment` takes it; not "dense".
        levels: How many levels to use.

    Raises:
        ConfigError: There are no words, or more than `MOST_WORDS`, or they are empty or repeated.
    """
    names, others = split_words(words, what="words"), split_words(background, what="background") or None
    found = bench.segmenter.segment(opened.prefix(levels), names, background=others, mode=mode)
    return _draw_masks(photo_of(bench, opened), found)


def split_words(typed: str, *, what: str) -> list[str]:
    """The words of a list that was typed, in any form of `parse_word_list`; [] for none.

    Raises:
        ConfigError: The form is none of these, or there are more than `MOST_WORDS`.

    Example:
        >>> split_words("sky, car|automobile", what="words")
        ['sky', 'car|automobile']
    """
    words = parse_word_list(typed, where=what)
    if len(words) > MOST_WORDS:
        raise ConfigError(f"expected at most {MOST_WORDS} {what}, got {len(words):,}: type fewer of them")
    return words


def _draw_masks(photo: Image.Image, found: SegmentationMap) -> Masks:
    labels = found.labels[0].cpu()
    scale = screen_scale((photo.height, photo.width))
    large = labels.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    return Masks(labels=labels, names=found.names, image=overlay(on_screen(photo), large, found.names))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FoundImage:
    """An image of the dataset that suits a query."""

    row: int
    """Its number in the dataset."""
    caption: str
    """Its name and its similarity."""
    image: Image.Image
    """What its tokens decode to, RGB."""


@torch.no_grad()
def search_dataset(bench: Workbench, query: str | Opened, *, top: int = MOST_FOUND) -> list[FoundImage]:
    """The images of the dataset that suit words or an image best, the best first, from tokens alone.

    Args:
        bench: The model, with a dataset.
        query: Words, which are read as they are, or an image.
        top: How many images, at most.

    Raises:
        ConfigError: The workbench has no dataset, or the words are empty.
        DatasetError: The embeddings of the dataset cannot be kept.
    """
    if bench.dataset is None:
        raise ConfigError("expected a dataset to search, got none: start the page with --dataset FOLDER")
    tokens_or_words = query if isinstance(query, str) else query.tokens
    found = bench.dataset.search(tokens_or_words, top=top, model=bench.tok)
    return [
        FoundImage(
            row=match.row,
            caption=f"{match.key} · {match.score:.3f}",
            image=to_pil(bench.tok.decode(bench.dataset[match.row].tokens).cpu())[0],
        )
        for match in found
    ]
