"""What the fields of a `TokenPyramid` must be."""

from __future__ import annotations

import operator
import re
from typing import Any

import torch
from torch import Tensor

from pyramid_tokenizer.errors import TokenError, TokenRangeError
from pyramid_tokenizer.tokens import format as token_format

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


def checked_level(level: int, ids: Any, codebook_size: int) -> Tensor:
    """A copy of one level's ids as int64, all in [0, codebook_size); else TokenError or TokenRangeError."""
    if not isinstance(ids, Tensor) or ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool:
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
    if low < 0 or high >= codebook_size:
        worst = high if high >= codebook_size else low
        raise TokenRangeError(
            f"expected ids of level {level} in [0, {codebook_size}), got {worst}: they belong to another codebook"
        )
    return own
