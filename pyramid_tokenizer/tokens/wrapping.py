"""Ids -> a checked `TokenPyramid`, and checks that an object is one and belongs to given codebooks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyramid_tokenizer.errors import TokenError, TokenMismatchError, TokenRangeError
from pyramid_tokenizer.tokens.geometry import grids_of
from pyramid_tokenizer.tokens.pyramid import Precision, TokenPyramid


def check_pyramid(value: object) -> None:
    """Raises TokenError unless the value is a `TokenPyramid`; the message says how one is made of what was given."""
    if not isinstance(value, TokenPyramid):
        raise TokenError(f"expected a TokenPyramid, got {_described(value)}: {_how_to_make_one(value)}")


def pyramid_of_ids(
    ids: Sequence[Any],
    *,
    codebook_sizes: tuple[int, ...],
    strides: tuple[int, ...],
    image_size: tuple[int, int],
    fingerprint: str,
    precision: Precision | None = None,
    image_ids: Any = None,
    image_codebook_sizes: tuple[int, ...] = (),
) -> TokenPyramid:
    """Tokens of ids that came without the rest, after every check.

    Args:
        ids: Of all levels or of a prefix, coarse to fine: tensors, arrays or nested lists (B, h_l, w_l), or (h_l, w_l) for
            one image; -1 where a cell of a level below level 0 is absent.
        codebook_sizes: K_l of all levels.
        strides: Pixels per cell of all levels.
        image_size: (H, W) of the images in pixels, before padding.
        fingerprint: Of the tokenizer that the ids belong to.
        precision: Of the backbone that made the ids; None where that is unknown.
        image_ids: Of the image tokens, a tensor, array or nested list (B, M), or (M,) for one image; None where there are none,
            also of a tokenizer that has some: such tokens can be decoded, and have no image embedding.
        image_codebook_sizes: K of each image token of the tokenizer.

    Raises:
        TokenError: Not 1 to L levels, or ids that are not integers.
        TokenRangeError: An id outside its codebook, a grid that does not fit `image_size`, or absent cells that are no tree
            of splits, which `TokenPyramid` explains.

    Example:
        >>> ids = [[[3, 1]], [[0, 5, 2, 2], [7, 4, 4, 1]]]
        >>> kind = {"codebook_sizes": (4, 8), "strides": (16, 8), "fingerprint": "0" * 64}
        >>> pyramid_of_ids(ids, image_size=(15, 32), **kind).grids
        ((1, 2), (2, 4))
    """
    if not isinstance(ids, (list, tuple)) or not 1 <= len(ids) <= len(codebook_sizes):
        got = f"{len(ids)} of them" if isinstance(ids, (list, tuple)) else type(ids).__name__
        raise TokenError(
            f"expected ids as a list of 1 to {len(codebook_sizes)} levels, coarse to fine, got {got}: give one tensor, "
            "array or nested list (B, h, w) per level"
        )
    image = {}
    if image_ids is not None:
        found = _as_tensor("image tokens", image_ids, "(B, M)")
        image = {"image_ids": found[None] if found.ndim == 1 else found, "image_codebook_sizes": image_codebook_sizes}
    tokens = TokenPyramid(
        ids=tuple(_as_level(level, x) for level, x in enumerate(ids)),
        codebook_sizes=codebook_sizes[: len(ids)],
        image_size=image_size,
        fingerprint=fingerprint,
        precision=precision,
        **image,
    )
    check_fits(tokens, codebook_sizes=codebook_sizes, strides=strides, image_codebook_sizes=image_codebook_sizes)
    return tokens


def check_own(fingerprint: str, own: str) -> None:
    """Raises TokenMismatchError for the fingerprint of tokens that is not the tokenizer's own."""
    if fingerprint != own:
        raise TokenMismatchError(
            f"expected tokens of tokenizer {own[:12]}, got tokens of {fingerprint[:12]}: load the tokenizer that made them, "
            "or encode the images again"
        )


def check_fits(
    tokens: TokenPyramid,
    *,
    codebook_sizes: tuple[int, ...],
    strides: tuple[int, ...],
    image_codebook_sizes: tuple[int, ...] = (),
) -> None:
    """Raises TokenRangeError for tokens of other codebooks, or of grids that these strides do not make of their images.

    Tokens without image tokens fit a tokenizer that has some.
    """
    sizes, grids = codebook_sizes[: len(tokens)], grids_of(tokens.image_size, strides)[: len(tokens)]
    if tokens.codebook_sizes != sizes or tokens.grids != grids:
        raise TokenRangeError(
            f"expected codebook_sizes {sizes} and grids {grids} for images of {tokens.image_size} px, got "
            f"{tokens.codebook_sizes} and {tokens.grids}: give the tokens of one encode, with their own image size"
        )
    if tokens.image_codebook_sizes not in ((), image_codebook_sizes):
        raise TokenRangeError(
            f"expected image_codebook_sizes {image_codebook_sizes}, got {tokens.image_codebook_sizes}: give the tokens of one "
            "encode"
        )


def check_image_tokens(tokens: TokenPyramid, codebook_sizes: tuple[int, ...]) -> None:
    """Raises TokenError for tokens without the image tokens that a tokenizer's image embeddings need."""
    if tokens.image_codebook_sizes != codebook_sizes:
        raise TokenError(
            f"expected tokens with {len(codebook_sizes)} image tokens for an image embedding, got {tokens}: give image_ids= to "
            "tok.tokens, or encode the images"
        )


def _as_level(level: int, ids: Any) -> Tensor:
    tensor = _as_tensor(f"level {level}", ids, "(B, h, w)")
    return tensor[None] if tensor.ndim == 2 else tensor


def _as_tensor(where: str, ids: Any, shape: str) -> Tensor:
    try:
        return ids if isinstance(ids, Tensor) else torch.as_tensor(np.asarray(ids))
    except (TypeError, ValueError, RuntimeError):
        raise TokenError(
            f"expected ids of {where} as a tensor, array or nested list {shape}, got {type(ids).__name__} that is none: give "
            "rows of equal length"
        ) from None


def _described(value: object) -> str:
    if isinstance(value, (list, tuple)) and value:
        return f"{type(value).__name__} of {len(value)} {type(value[0]).__name__}"
    shape = getattr(value, "shape", None)
    return type(value).__name__ + (f" of shape {tuple(shape)}" if isinstance(shape, tuple) else "")


def _how_to_make_one(value: object) -> str:
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    if isinstance(first, TokenPyramid):
        return "join pyramids of one size by TokenPyramid.cat(list), or pass one after the other"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "read bytes by TokenPyramid.from_bytes(data)"
    if isinstance(value, (str, os.PathLike)):
        return "read a token file by TokenPyramid.load(path), and encode an image by tok.encode(path)"
    if isinstance(first, (Tensor, np.ndarray)) and "float" in str(first.dtype):
        return "encode images first, by tok.encode(images)"
    if isinstance(first, (Tensor, np.ndarray, list, int)) and not isinstance(value, int):
        sequence = "; read a flat sequence by tok.vocabulary.unflatten(sequence)" if _is_flat(value) else ""
        return f"wrap ids of all levels by tok.tokens([level_0, level_1, ...], image_size=(height, width)){sequence}"
    return "pass what tok.encode(images) gives"


def _is_flat(value: Any) -> bool:
    if isinstance(value, (Tensor, np.ndarray)):
        return value.ndim < 3
    return len(value) > 0 and isinstance(value[0], int)
