"""Reads class names and inputs from the command line: lists of words, and images or token files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyramid_tokenizer.checks.arguments import nearest_file
from pyramid_tokenizer.cli.files import TOKEN_SUFFIX, Source, Sources, find_images, find_tokens
from pyramid_tokenizer.cli.terminal import show_share
from pyramid_tokenizer.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from pyramid_tokenizer.tokenizer import PyramidTokenizer
    from pyramid_tokenizer.tokens.pyramid import TokenPyramid

Images = Annotated[
    list[str] | None, typer.Argument(metavar="IMAGES", help="Image files, folders of images, or quoted glob patterns.")
]
TokenFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--tokens",
        metavar="FILE",
        help=f"Instead of IMAGES: a token file, a folder of {TOKEN_SUFFIX} files or a quoted glob pattern; may be repeated.",
    ),
]
TextCache = Annotated[
    str,
    typer.Option(
        metavar="auto|none|FOLDER",
        help="Where text embeddings of words are kept for the next call: in the user's cache folder, nowhere, or in FOLDER.",
    ),
]


LIST_SUFFIXES = frozenset({".txt", ".csv", ".tsv", ".json", ".yaml", ".yml"})
"""Endings of a typed list of words that is really the name of a file."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The input files of a command, which are all of one kind."""

    sources: Sources
    are_tokens: bool
    """Whether the files are token files; otherwise they are images."""
    size: int | None
    """The short side in pixels to which images are resized first; None keeps their size."""

    def read(self, source: Source) -> TokenPyramid | Tensor:
        """Reads tokens, or one image as (1, 3, H, W) float in [0, 1].

        Raises:
            ImageError: The image cannot be read.
            TokenError: The token file cannot be read.
        """
        from pyramid_tokenizer.images.read import to_batch
        from pyramid_tokenizer.tokens.pyramid import TokenPyramid

        return TokenPyramid.load(source.path) if self.are_tokens else to_batch(source.path, size=self.size)


def find_inputs(images: Sequence[str] | None, tokens: Sequence[str] | None, *, size: int | None) -> Inputs:
    """Finds the files that were given; an argument that ends with .tokens is a token file, as after an unquoted pattern.

    Raises:
        ConfigError: Both images and token files are given, or neither of them, or a size for token files.
        PyramidTokenizerError: `find_images` or `find_tokens` finds nothing.
    """
    arguments = images or []
    paths = [name for name in arguments if not name.endswith(TOKEN_SUFFIX)]
    stored = [*(tokens or []), *(name for name in arguments if name.endswith(TOKEN_SUFFIX))]
    if paths and stored:
        got = f"both, {paths[0]!r} and {stored[0]!r}"
        raise ConfigError(f"expected IMAGES or --tokens, got {got}: run a command for each kind")
    if not paths and not stored:
        raise ConfigError("expected IMAGES or --tokens, got neither: give an image, a folder of images or a token file")
    if stored and size is not None:
        raise ConfigError(
            f"expected --size with IMAGES, got it with token files, whose size is fixed: leave --size {size} out"
        )
    sources = find_tokens(stored) if stored else find_images(paths)
    return Inputs(sources, are_tokens=bool(stored), size=size)


def cache_folder(typed: str) -> str | None:
    """Converts the value of `--text-cache` to the `cache_dir` of `TextEncoder`."""
    return None if typed == "none" else typed


def embed_names(
    tok: PyramidTokenizer,
    names: Sequence[str],
    console: Console,
    *,
    background: Sequence[str] | None = None,
    text_cache: str | None,
) -> None:
    """Gives the tokenizer a text encoder that remembers the embeddings of the names, and shows a bar while they are computed.

    Raises:
        ConfigError, BackboneError: As for `TextEncoder.encode_names`.
    """
    from pyramid_tokenizer.text import TextEncoder

    with show_share(console, "words") as tell:
        tok.text = TextEncoder(tok.backbone, cache_dir=text_cache, progress=tell)
        tok.text.encode_names(names, background=background)


def split_words(listed: str, *, option: str) -> list[str]:
    """The words that were typed for `option`, in any form of `parse_word_list`; `parse_names` refuses empty ones.

    Raises:
        ConfigError: The form is none of these, or it is the name of a file.
    """
    from pyramid_tokenizer.images.labelled.word_lists import parse_word_list

    if Path(listed).suffix.lower() in LIST_SUFFIXES:
        raise ConfigError(
            f"expected names in {option}, got the name of a file, {listed!r}: write {option}-file, or the names themselves"
        )
    return parse_word_list(listed, where=option) or [""]


def read_names(
    listed: str | None, file: Path | None, *, option: str, background: Sequence[str] | None = None
) -> list[str]:
    """Reads class names from a comma-separated list or a file, and checks them together with the words of the background.

    Args:
        listed: The list, such as "sky,tree,car|automobile".
        file: A UTF-8 file, such as one class per line. `parse_word_list` says which forms a list and a file may have.
        option: The option of the list, such as "--classes"; that of the file is the same with "-file".
        background: The words of the background.

    Raises:
        ConfigError: Both a list and a file are given, or neither; the file cannot be read; the form of the list is not
            known; or names are missing, empty or repeated.
    """
    from pyramid_tokenizer.text import parse_names

    if (listed is None) == (file is None):
        got = "neither" if file is None else "both"
        raise ConfigError(
            f"expected {option} or {option}-file, got {got}: give one, e.g. {option} 'dog,cat,car|automobile'"
        )
    names = split_words(listed, option=option) if listed is not None else _read_file(file, option)
    parse_names(names, background=background)  # before the model is loaded
    return names


def read_background(listed: str | None, threshold: float | None) -> list[str] | None:
    """The words of `--background`, None without it, after a check of `--threshold`.

    Raises:
        ConfigError: Both are given, or the threshold is outside [-1, 1].
    """
    if listed is not None and threshold is not None:
        got = f"both, {listed!r} and {threshold}"
        raise ConfigError(f"expected --background or --threshold, got {got}: leave one out")
    if threshold is not None and not -1 <= threshold <= 1:  # also catches NaN
        raise ConfigError(f"expected --threshold in [-1, 1], got {threshold}: see --help for the scores of each mode")
    return None if listed is None else split_words(listed, option="--background")


def _read_file(file: Path | None, option: str) -> list[str]:
    from pyramid_tokenizer.images.labelled.word_lists import parse_word_list

    assert file is not None
    try:
        text = file.expanduser().read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        hint = nearest_file(file, otherwise="check the name")
        raise ConfigError(
            f"expected a file with one class per line as {option}-file, got none at {str(file)!r}: {hint}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"expected a UTF-8 text file with one class per line as {option}-file, got {str(file)!r}: {error}"
        ) from error
    names = parse_word_list(text, where=f"{option}-file {str(file)!r}")
    if not names:
        raise ConfigError(
            f"expected one class per line in {option}-file, got none in {str(file)!r}: write the names of the classes in it"
        )
    return names
