"""Words and inputs as they are typed: class names in a comma list or a file, and images or token files to look for them in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyramid_tokenizer.cli.files import TOKEN_SUFFIX, Source, find_images, find_tokens
from pyramid_tokenizer.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from pyramid_tokenizer.tokens.pyramid import TokenPyramid

Images = Annotated[
    list[str] | None, typer.Argument(metavar="IMAGES", help="Image files, folders of them, or quoted globs.")
]
TokenFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--tokens",
        metavar="FILE",
        help=f"Instead of IMAGES: a token file, a folder of {TOKEN_SUFFIX} files or a quoted glob; may be repeated.",
    ),
]
TextCache = Annotated[
    str,
    typer.Option(
        metavar="auto|none|FOLDER",
        help="Where embeddings of words are kept for the next call: the user's cache folder, nowhere, or a folder.",
    ),
]


@dataclass(frozen=True, slots=True)
class Inputs:
    """Files of one kind."""

    sources: list[Source]
    are_tokens: bool
    """Token files; else images."""
    size: int | None
    """Short side in pixels that images are resized to first."""

    def read(self, source: Source) -> TokenPyramid | Tensor:
        """Tokens, or one image as (1, 3, H, W) float in [0, 1].

        Raises:
            ImageError: The image cannot be read.
            TokenError: The token file cannot be read.
        """
        from pyramid_tokenizer.images.read import to_batch
        from pyramid_tokenizer.tokens.pyramid import TokenPyramid

        return TokenPyramid.load(source.path) if self.are_tokens else to_batch(source.path, size=self.size)


def find_inputs(images: Sequence[str] | None, tokens: Sequence[str] | None, *, size: int | None) -> Inputs:
    """The files that were named; an argument that ends with .tokens is a token file, as after an unquoted --tokens *.tokens.

    Raises:
        ConfigError: Images and token files, neither of them, or a size for token files.
        PyramidTokenizerError: As `find_images` and `find_tokens`.
    """
    arguments = images or []
    paths = [name for name in arguments if not name.endswith(TOKEN_SUFFIX)]
    stored = [*(tokens or []), *(name for name in arguments if name.endswith(TOKEN_SUFFIX))]
    if paths and stored:
        got = f"both, {paths[0]!r} and {stored[0]!r}"
        raise ConfigError(f"expected IMAGES or --tokens, got {got}: give each kind a call of its own")
    if not paths and not stored:
        raise ConfigError("expected IMAGES or --tokens, got neither: name an image, a folder of images or a token file")
    if stored and size is not None:
        raise ConfigError(
            f"expected --size with IMAGES, got it with token files, which keep their size: leave {size} out"
        )
    sources = find_tokens(stored) if stored else find_images(paths)
    return Inputs(sources, are_tokens=bool(stored), size=size)


def cache_folder(typed: str) -> str | None:
    """`--text-cache` as `TextEncoder` takes it."""
    return None if typed == "none" else typed


def split_words(listed: str) -> list[str]:
    """The entries of a comma list; empty ones stay, for `parse_names` to refuse."""
    return [word.strip() for word in listed.split(",")]


def read_names(
    listed: str | None, file: Path | None, *, option: str, background: Sequence[str] | None = None
) -> list[str]:
    """Class names from a comma list or from a file, checked together with the background's words.

    Args:
        listed: Such as "sky,tree,car|automobile".
        file: One class a line; blank lines and those that start with "#" are passed over.
        option: Of the list, such as "--classes"; the file's ends with "-file".
        background: Words that are no class.

    Raises:
        ConfigError: Both or neither, a file that cannot be read, no names, or empty or repeated ones.
    """
    from pyramid_tokenizer.text import parse_names

    if (listed is None) == (file is None):
        got = "neither" if file is None else "both"
        raise ConfigError(
            f"expected {option} or {option}-file, got {got}: give one, e.g. {option} 'dog,cat,car|automobile'"
        )
    names = split_words(listed) if listed is not None else _read_lines(file, option)
    parse_names(names, background=background)  # before the model is loaded
    return names


def read_background(listed: str | None, threshold: float | None) -> list[str] | float | None:
    """`--background` or `--threshold` as `Segmenter.segment` takes them; None without either.

    Raises:
        ConfigError: Both, or a threshold outside [-1, 1].
    """
    if listed is not None and threshold is not None:
        got = f"both, {listed!r} and {threshold}"
        raise ConfigError(f"expected --background or --threshold, got {got}: leave one out")
    if threshold is not None and not -1 <= threshold <= 1:  # also catches NaN
        raise ConfigError(f"expected --threshold in [-1, 1], got {threshold}: see --help for the scores of each mode")
    return threshold if listed is None else split_words(listed)


def _read_lines(file: Path | None, option: str) -> list[str]:
    assert file is not None
    try:
        lines = file.expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"expected a UTF-8 text file with one class a line as {option}-file, got {str(file)!r}: {error}"
        ) from error
    names = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not names:
        raise ConfigError(
            f"expected one class a line in {option}-file, got none in {str(file)!r}: write what to look for"
        )
    return names
