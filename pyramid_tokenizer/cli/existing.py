"""`--skip-existing`: which results are there already, so that a run that was stopped can go on.

A result counts as done if its file is whole and fits what would be written: tokens must be of this model, of as many levels, of
an image of this size and within `--max-tokens`, and sparse only where there is a limit; images must be complete. A damaged file
is made anew. A whole file that does not fit belongs to another run and is replaced by `--force` alone. Tokens do not say which
quality or PSNR they were made for, or in which windows; images do not say which model, levels or words.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyramid_tokenizer.cli.files import OutputError
from pyramid_tokenizer.cli.terminal import count_levels, count_tokens, describe_size
from pyramid_tokenizer.errors import TokenError

if TYPE_CHECKING:
    from pyramid_tokenizer.cli.limits import Limits
    from pyramid_tokenizer.tokenizer import PyramidTokenizer
    from pyramid_tokenizer.tokens.pyramid import TokenPyramid


def tokens_are_done(
    path: Path, *, tok: PyramidTokenizer, image: Path, size: int | None, limits: Limits, force: bool
) -> bool:
    """Whether a token file is whole, of this model, within these limits, and of this image resized to this short side.

    Raises:
        OutputError: It is whole and does not fit, and `force` is off.
    """
    from pyramid_tokenizer.images.files import header_size
    from pyramid_tokenizer.tokens.pyramid import TokenPyramid

    if not os.path.lexists(path):
        return False
    try:
        tokens = TokenPyramid.load(path)
    except TokenError:
        return False
    expected = header_size(image, size=size)
    if expected is None:  # reading the image says what is wrong with it
        return False
    misfit = _misfit(tokens, tok, expected, limits)
    return misfit is None or _refuse(path, *misfit, force)


def _misfit(
    tokens: TokenPyramid, tok: PyramidTokenizer, image_size: tuple[int, int], limits: Limits
) -> tuple[str, str] | None:
    """What is expected of tokens and what they are, in words; None if they fit."""
    levels, own = count_levels(limits.num_levels(tok)), count_levels(len(tokens))
    if tokens.fingerprint != tok.fingerprint or own != levels:
        return f"{levels} of this model, {tok.fingerprint[:12]},", f"{own} of fingerprint {tokens.fingerprint[:12]}"
    if tokens.batch_size != 1 or sorted(tokens.image_size) != sorted(image_size):
        got = f"{tokens.batch_size} of {describe_size(tokens.image_size)} px"
        return f"tokens of one image of {describe_size(image_size)} px", got
    if limits.budget.is_open and tokens.is_sparse:
        return "all tokens of every level", f"{count_tokens(tokens)} tokens"
    if limits.budget.max_tokens is not None and tokens.num_tokens > limits.budget.max_tokens:
        return f"at most {limits.budget.max_tokens} tokens", f"{tokens.num_tokens}"
    return None


def images_are_done(
    paths: Sequence[Path],
    *,
    force: bool,
    size: tuple[int, int] | None = None,
    modes: Sequence[str] = ("L", "RGB"),
) -> bool:
    """Whether all the files are complete PNG files.

    Args:
        paths: The files.
        force: Whether complete files that do not fit are to be replaced.
        size: Their height and width, either way round, for an image may be stored turned; None takes any size.
        modes: Pillow's names of the pixel formats that fit.

    Raises:
        OutputError: A file is complete and does not fit, and `force` is off.
    """
    for path in paths:
        found = _read_size_and_mode(path)
        if found is None:
            return False
        got, mode = found
        if (size is not None and sorted(got) != sorted(size)) or mode not in modes:
            wanted = f"pixels of {' or '.join(modes)}" + (f" at {describe_size(size)} px" if size else "")
            return _refuse(path, wanted, f"{mode} at {describe_size(got)} px", force)
    return True


def _read_size_and_mode(path: Path) -> tuple[tuple[int, int], str] | None:
    """Height and width, and Pillow's name of the pixel format, of a complete PNG file; None for anything else."""
    from PIL import Image

    if not os.path.lexists(path):
        return None
    try:
        with open(path, "rb") as file, Image.open(file, formats=["PNG"]) as opened:
            opened.load()
            return (opened.height, opened.width), opened.mode
    except Exception:  # damaged bytes make Pillow's readers raise nearly any class
        return None


def _refuse(path: Path, expected: str, got: str, force: bool) -> bool:
    if force:
        return False
    raise OutputError(
        f"expected {expected} in {str(path)!r}, got {got}: choose another --out, or replace it with --force"
    )
