"""`--levels`, `--max-tokens`, `--target-psnr` and `--quality`: how many tokens an image gets."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import typer

from pyramid_tokenizer.cli.group import printable
from pyramid_tokenizer.cli.terminal import check_levels
from pyramid_tokenizer.errors import ConfigError, TokenRangeError

if TYPE_CHECKING:
    from torch import Tensor

    from pyramid_tokenizer.tokenizer import PyramidTokenizer
    from pyramid_tokenizer.tokens.pyramid import TokenPyramid

_ARGUMENTS = re.compile(r"\b(max_tokens|target_psnr|quality|size(?==))\b=?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What was typed; None for what was not.

    Raises:
        ConfigError: Several limits at once, or one that none can mean; it names the options.
    """

    levels: int | None = None
    """How many levels, coarse to fine."""
    max_tokens: int | None = None
    """Most tokens of an image."""
    target_psnr: float | None = None
    """PSNR in dB that each decoded image should have."""
    quality: float | None = None
    """From 0, level 0 alone, to 1, everything."""

    def __post_init__(self) -> None:
        if self.levels is not None and self.levels < 1:
            raise ConfigError(f"expected --levels of at least 1, got {self.levels}: give a larger number")
        if not self.is_open:
            self._check_budget()

    def _check_budget(self) -> None:
        from pyramid_tokenizer.encoding import Budget

        with _named_as_options():
            Budget(**self._budget)

    @property
    def _budget(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "levels"}

    @property
    def is_open(self) -> bool:
        """Whether every image gets all tokens of its levels."""
        return not any(value is not None for value in self._budget.values())

    def check_model(self, tok: PyramidTokenizer) -> None:
        """Raises TokenRangeError if the model has fewer levels than `--levels`."""
        check_levels(self.levels, len(tok.quantizer.strides))

    def num_levels(self, tok: PyramidTokenizer) -> int:
        """How many levels the tokens of a model have."""
        if self.levels is not None:
            return self.levels
        return tok.quantizer.base_levels if self.is_open else len(tok.quantizer.strides)

    def encode(self, tok: PyramidTokenizer, pixels: Tensor, *, name: object) -> TokenPyramid:
        """The tokens of one image (3, H, W); a warning about it is a line on stderr with its name.

        Raises:
            PyramidTokenizerError: Errors of `tok.encode`, with the names of the options.
        """
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", UserWarning)
            with _named_as_options():
                tokens = tok.encode(pixels, **asdict(self))
        for warning in told:
            message = str(warning.message).removeprefix("image 0 of the batch ")
            typer.echo(f"warning: {printable(name)}: {message}", err=True)
        return tokens

    def encode_many(self, tok: PyramidTokenizer, images: list[Tensor], *, names: list[Any]) -> list[TokenPyramid]:
        """The tokens of each image, all encoded together but where a PSNR has to be reached.

        Raises:
            PyramidTokenizerError: Errors of `tok.encode_many`, with the names of the options.
        """
        if self.target_psnr is not None:  # a miss is told with the name of the image
            return [self.encode(tok, pixels, name=name) for pixels, name in zip(images, names, strict=True)]
        with _named_as_options():
            return tok.encode_many(images, batch_size=max(1, len(images)), **asdict(self))


@contextmanager
def _named_as_options() -> Iterator[None]:
    """Errors of the block name options in place of arguments."""
    try:
        yield
    except (ConfigError, TokenRangeError) as error:
        message = _ARGUMENTS.sub(lambda found: "--" + found[1].replace("_", "-"), str(error))
        raise type(error)(message) from error
