"""Checks of arguments that every part of the package shares: of the right kind, a whole number, a path."""

from __future__ import annotations

import numbers
import os
from pathlib import Path
from typing import Any

from pyramid_tokenizer.errors import ConfigError, PyramidTokenizerError, did_you_mean


def check_kind(
    value: object, kind: type, *, name: str, fix: str, error: type[PyramidTokenizerError] = ConfigError
) -> None:
    """Raises the error unless the value is of the kind.

    Args:
        value: What was given.
        kind: What is taken.
        name: The argument's name.
        fix: How the right kind is made, in a few words.
        error: The class that is raised.

    Example:
        >>> check_kind(3, str, name="repo_id", fix='write "user/repo"')
        Traceback (most recent call last):
        pyramid_tokenizer.errors.ConfigError: expected repo_id as str, got int: write "user/repo"
    """
    if not isinstance(value, kind):
        raise error(f"expected {name} as {kind.__name__}, got {type(value).__name__}: {fix}")


def check_kinds(
    values: object, kind: type, *, name: str, fix: str, error: type[PyramidTokenizerError] = ConfigError
) -> None:
    """Raises the error unless the values are a list or tuple of the kind; arguments as for `check_kind`.

    Example:
        >>> check_kinds("cat", str, name="names", fix='write ["cat"]')
        Traceback (most recent call last):
        pyramid_tokenizer.errors.ConfigError: expected names as a list of str, got str: write ["cat"]
    """
    listed = list(values) if isinstance(values, (list, tuple)) else None
    wrong = [type(values)] if listed is None else [type(value) for value in listed if not isinstance(value, kind)]
    if wrong:
        got = wrong[0].__name__ if listed is None else f"one with {wrong[0].__name__}"
        raise error(f"expected {name} as a list of {kind.__name__}, got {got}: {fix}")


def check_whole(least: int | None = 1, *, error: type[PyramidTokenizerError] = ConfigError, **values: Any) -> None:
    """Raises the error unless every value is a whole number, of at least `least` where that is not None.

    Example:
        >>> check_whole(batch_size=0)
        Traceback (most recent call last):
        pyramid_tokenizer.errors.ConfigError: expected batch_size as a whole number of at least 1, got 0: correct it
    """
    for name, value in values.items():
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not whole or (least is not None and value < least):
            range_ = "" if least is None else f" of at least {least}"
            raise error(f"expected {name} as a whole number{range_}, got {shown(value)}: correct it")


def shown(value: object) -> str:
    """The value for a message: numbers and texts as they are written, anything else by its type.

    Example:
        >>> shown("a"), shown([0] * 1000)
        ("'a'", 'list')
    """
    return repr(value) if isinstance(value, (numbers.Number, str, type(None))) else type(value).__name__


def nearest_file(path: str | os.PathLike[str], *, otherwise: str) -> str:
    """The hint for a file or folder that does not exist: the nearest names beside it.

    Args:
        path: What was given.
        otherwise: The hint where no name is near.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "classes.txt").write_text("cat")
        >>> nearest_file(folder / "classes.tx", otherwise="check the name")
        "did you mean 'classes.txt'?"
    """
    given = Path(path).expanduser()
    try:
        names = os.listdir(given.parent)
    except (OSError, ValueError):
        names = []
    return did_you_mean(given.name, names, otherwise=otherwise)


def check_path(value: object, *, name: str, error: type[PyramidTokenizerError] = ConfigError) -> None:
    """Raises the error unless the value is a str or an `os.PathLike` that can be the name of a file."""
    if not isinstance(value, (str, os.PathLike)):
        raise error(f"expected {name} as a str or Path, got {type(value).__name__}: pass the name of a file or folder")
    if "\0" in str(value):
        raise error(f"expected {name} without the character NUL, got {str(value)!r}: correct the name")
