"""What the fields of a `TokenPyramid` must be, which of its parts exist, and which pyramids can be joined."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyramid_tokenizer.errors import TokenError, TokenMismatchError, TokenRangeError
from pyramid_tokenizer.tokens import format as token_format
from pyramid_tokenizer.tokens.splits import ABSENT, Presence

if TYPE_CHECKING:
    from pyramid_tokenizer.tokens.pyramid import TokenPyramid

_LIMIT = 2**32
"""Sizes and codebook sizes stay below this, so that every pyramid fits the file format."""


def check_origin(fingerprint: Any, precision: Any) -> None:
    """Raises TokenError for a fingerprint that is none, or an unknown precision."""
    if not isinstance(fingerprint, str) or not re.fullmatch("[0-9a-f]{64}", fingerprint):
        expected = "a fingerprint of 64 lower-case hexadecimal digits"
        raise TokenError(f"expected {expected}, got {fingerprint!r}: use the tokenizer's own")
    if precision is not None and (not isinstance(precision, str) or precision not in token_format.PRECISIONS):
        names = ", ".join(str(name) for name in token_format.PRECISIONS)
        raise TokenError(
            f"expected a precision among {names}, got {precision!r}: give the name of the backbone's dtype, or None for ids "
            "that no encoder made"
        )


def whole_numbers(values: Any, name: str, *, least: int) -> tuple[int, ...]:
    """The values as integers from `least` to 2^32 - 1; else TokenError, or TokenRangeError where one is out of range."""
    try:
        numbers = tuple(operator.index(v) for v in values)
    except TypeError:
        raise TokenError(f"expected {name} as a tuple of integers, got {values!r}: write e.g. (256, 256)") from None
    if not all(least <= n < _LIMIT for n in numbers):
        raise TokenRangeError(f"expected {name} of {least} or more and below 2^32, got {numbers}: correct them")
    return numbers


def checked_ids(ids: Any, codebook_sizes: tuple[int, ...]) -> tuple[tuple[Tensor, ...], Presence]:
    """Copies of the ids of all levels as int64, and which cells of them are present; else TokenError or TokenRangeError.

    The grids are not compared here, nor whether presence is a tree.
    """
    if not isinstance(ids, (tuple, list)) or not 1 <= len(ids) <= 255 or len(ids) != len(codebook_sizes):
        got = f"{len(ids)} levels" if isinstance(ids, (tuple, list)) else type(ids).__name__
        raise TokenError(
            f"expected ids as a tuple of 1 to 255 tensors, one for each of {len(codebook_sizes)} codebook_sizes, got {got}: "
            "give one tensor (B, h, w) per level"
        )
    levels = [_checked_level(level, x, k) for level, (x, k) in enumerate(zip(ids, codebook_sizes, strict=True))]
    own = tuple(x for x, _ in levels)
    if len({(len(x), x.device) for x in own}) > 1:
        got = ", ".join(f"{len(x)} on {x.device}" for x in own)
        raise TokenError(f"expected as many images on one device in every level, got {got}: use ids of one encode")
    return own, tuple(present for _, present in levels)


def checked_image_ids(image_ids: Any, codebook_sizes: tuple[int, ...], *, like: Tensor) -> Tensor:
    """A copy of the ids of image tokens as int64 (B, M), for the images of `like` (B, h, w) and on its device.

    TokenError or TokenRangeError for others.
    """
    if not isinstance(image_ids, Tensor) or not _is_integer(image_ids):
        got = image_ids.dtype if isinstance(image_ids, Tensor) else type(image_ids).__name__
        raise TokenError(f"expected image_ids as an integer tensor, got {got}: pass indices into the image codebooks")
    if not codebook_sizes and not image_ids.numel():
        return like.new_empty(len(like), 0)
    expected = (len(like), len(codebook_sizes))
    if tuple(image_ids.shape) != expected or image_ids.device != like.device:
        got = f"{tuple(image_ids.shape)} on {image_ids.device}"
        raise TokenError(
            f"expected image_ids of shape {expected} on {like.device}, one for each of image_codebook_sizes, got {got}: use the "
            "ids of one encode"
        )
    own = image_ids.to(torch.int64, copy=True, memory_format=torch.contiguous_format)
    wrong = ((own < 0) | (own >= own.new_tensor(codebook_sizes))).nonzero()
    if len(wrong):
        image, number = wrong[0].tolist()
        raise TokenRangeError(
            f"expected ids of image token {number} in [0, {codebook_sizes[number]}), got {int(own[image, number])}: they belong "
            "to another codebook"
        )
    return own


def _is_integer(ids: Tensor) -> bool:
    return not (ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool)


def _checked_level(level: int, ids: Any, codebook_size: int) -> tuple[Tensor, Tensor | None]:
    if not isinstance(ids, Tensor) or not _is_integer(ids):
        got = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise TokenError(
            f"expected ids of level {level} as an integer tensor, got {got}: pass indices into the codebook"
        )
    if ids.ndim != 3 or 0 in ids.shape:
        expected = f"ids of level {level} of shape (B, h, w), none of them 0"
        raise TokenRangeError(f"expected {expected}, got {tuple(ids.shape)}: keep the batch dimension")
    # An own copy: writing into the caller's tensor later must not put unchecked ids in here.
    own = ids.to(torch.int64, copy=True, memory_format=torch.contiguous_format)
    low, high = (int(x) for x in torch.aminmax(own))
    if low < (ABSENT if level else 0) or high >= codebook_size:
        worst = high if high >= codebook_size else low
        hint = f"; {ABSENT} stands for an absent cell" if level else "; level 0 has no absent cells"
        raise TokenRangeError(
            f"expected ids of level {level} in [0, {codebook_size}), got {worst}: they belong to another codebook"
            f"{hint if worst < 0 else ''}"
        )
    return own, own >= 0 if low < 0 else None


def prefix_length(levels: Any, most: int) -> int:
    """How many levels the slice `:n` asks for, 1 to `most`; else TokenRangeError."""
    if not isinstance(levels, slice):
        hint = "use tokens.ids[level] for the ids of one level, tokens.unbind() for single images"
        raise TokenRangeError(f"expected a prefix tokens[:n], got tokens[{levels!r}]: {hint}")
    start, n, step = levels.start, levels.stop, levels.step
    whole = isinstance(n, int) and not isinstance(n, bool)
    if start not in (None, 0) or step not in (None, 1) or not whole or not 1 <= n <= most:
        got = ":".join("" if x is None else str(x) for x in ((start, n) if step is None else (start, n, step)))
        expected = f"a prefix tokens[:n] with 1 <= n <= {most}"
        raise TokenRangeError(f"expected {expected}, got tokens[{got}]: finer levels need all coarser ones")
    return n


def check_joinable(pyramids: Sequence[TokenPyramid]) -> None:
    """Raises TokenMismatchError or TokenError for pyramids that are not of one kind; `TokenPyramid.cat` has the rules."""
    first = pyramids[0]
    for index, other in enumerate(pyramids):
        if _codebooks(other) != _codebooks(first):
            got = f"{first} and, at {index}, {other}"
            raise TokenMismatchError(f"expected one tokenizer and as many levels, got {got}: join each kind alone")
        if other.precision != first.precision:
            raise TokenMismatchError(
                f"expected tokens that backbones of one precision made, got {first.precision} and, at {index}, "
                f"{other.precision}: encode all images in one precision or keep a list; to join them for decoding alone, drop "
                "it by dataclasses.replace(tokens, precision=None)"
            )
        if (other.image_size, other.grids, other.device) != (first.image_size, first.grids, first.device):
            got = f"{first} on {first.device} and, at {index}, {other} on {other.device}"
            raise TokenError(
                f"expected one image size, grid and device, got {got}: keep a list (in a DataLoader: collate_fn=list), encode "
                "images of one size, or move them"
            )


def _codebooks(tokens: TokenPyramid) -> tuple[Any, ...]:
    return tokens.fingerprint, tokens.codebook_sizes, tokens.image_codebook_sizes
