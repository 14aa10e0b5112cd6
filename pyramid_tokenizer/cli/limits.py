"""`--levels`, `--max-tokens`, `--target-psnr` and `--quality`: how many tokens an image gets; `--window`: how it is read."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from pyramid_tokenizer.cli.group import printable
from pyramid_tokenizer.cli.terminal import check_levels, warnings_as_lines
from pyramid_tokenizer.config import Budget
from pyramid_tokenizer.errors import ConfigError, TokenRangeError

if TYPE_CHECKING:
    from torch import Tensor

    from pyramid_tokenizer.tokenizer import PyramidTokenizer
    from pyramid_tokenizer.tokens.pyramid import TokenPyramid

_ARGUMENTS = re.compile(r"\b(max_tokens|target_psnr|quality|window(?=_px)|size(?==))(?:_px)?\b=?")


@dataclass(frozen=True, slots=True)
class Limits:
    """What was typed. `limits_of` makes it."""

    levels: int | None
    """How many levels, coarse to fine; None where it was not typed."""
    budget: Budget
    """How many tokens an image gets."""
    window_px: int | None
    """Side of the windows in which larger images are read; None where it was not typed."""

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `tok.encode`."""
        return {"levels": self.levels, "window_px": self.window_px, **self.budget.limit}

    def check_model(self, tok: PyramidTokenizer) -> None:
        """Raises TokenRangeError if the model has fewer levels than `--levels`, and ConfigError if `--window` does not fit it."""
        check_levels(self.levels, len(tok.quantizer.strides))
        with _named_as_options():
            tok.check_window(self.window_px)

    def num_levels(self, tok: PyramidTokenizer) -> int:
        """How many levels the tokens of a model have."""
        if self.levels is not None:
            return self.levels
        return tok.quantizer.base_levels if self.budget.is_open else len(tok.quantizer.strides)

    def encode(self, tok: PyramidTokenizer, pixels: Tensor, *, name: object) -> TokenPyramid:
        """The tokens of one image (3, H, W); a warning about it is a line on stderr with its name.

        Raises:
            PyramidTokenizerError: Errors of `tok.encode`, with the names of the options.
        """
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", UserWarning)
            with _named_as_options():
                tokens = tok.encode(pixels, **self.options)
        for warning in told:
            message = str(warning.message).removeprefix("image 0 of the batch ")
            typer.echo(f"warning: {printable(name)}: {message}", err=True)
        return tokens

    def encode_many(self, tok: PyramidTokenizer, images: list[Tensor], *, names: list[Any]) -> list[TokenPyramid]:
        """The tokens of each image, all encoded together but where a PSNR has to be reached.

        Raises:
            PyramidTokenizerError: Errors of `tok.encode_many`, with the names of the options.
        """
        if self.budget.target_psnr is not None:  # a miss is told with the name of the image
            return [self.encode(tok, pixels, name=name) for pixels, name in zip(images, names, strict=True)]
        with _named_as_options(), warnings_as_lines():
            return tok.encode_many(images, batch_size=max(1, len(images)), **self.options)


def limits_of(levels: int | None, *, window_px: int | None = None, **budget: Any) -> Limits:
    """What was typed, checked.

    Args:
        levels: How many levels; None for what was not typed.
        window_px: Side of windows; None likewise.
        budget: The limits of `config.Budget`; None likewise.

    Raises:
        ConfigError: Several limits at once, or one that none can mean; it names the options.
    """
    if levels is not None and levels < 1:
        raise ConfigError(f"expected --levels of at least 1, got {levels}: give a larger number")
    with _named_as_options():
        return Limits(levels, Budget(**budget), window_px)


@contextmanager
def _named_as_options() -> Iterator[None]:
    """Errors of the block name options in place of arguments."""
    try:
        yield
    except (ConfigError, TokenRangeError) as error:
        message = _ARGUMENTS.sub(lambda found: "--" + found[1].replace("_", "-"), str(error))
        raise type(error)(message) from error
