"""`OneLineErrors`: writes the error of a command as one line to stderr and sets the exit code."""

from __future__ import annotations

import errno
import re
from typing import Any

import typer
from typer.core import TyperGroup

from pyramid_tokenizer.errors import PyramidTokenizerError

INTERRUPTED = 130
"""The exit code 128 + SIGINT, as shells use it."""


class OneLineErrors(TyperGroup):
    """The group of all commands. Errors of the package and of the file system are one line; any other shows its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command of the context `ctx`."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            tell_error("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except (PyramidTokenizerError, OSError) as error:
            # a closed pipe, as after `| head`, is not an error
            gone = isinstance(error, OSError) and error.errno == errno.EPIPE
            if gone or ctx.params.get("debug"):
                raise
            tell_error(str(error))
            raise typer.Exit(1) from None


def tell_error(message: str) -> None:
    """Writes the message as one line to stderr."""
    typer.echo("error: " + printable(re.sub(r"\s*\n\s*", " ", message.strip())), err=True)


def printable(text: object) -> str:
    r"""Text that any terminal shows in one line: control characters and undecodable bytes of file names become escapes.

    Example:
        >>> print(printable("two\nlines"))
        two\nlines
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
