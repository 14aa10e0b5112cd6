"""`OneLineErrors`: writes the error of a command as one line to stderr and sets the exit code."""

from __future__ import annotations

import errno
import re
from typing import Any

import typer
from typer.core import TyperGroup

from pyramid_tokenizer.errors import PyramidTokenizerError, did_you_mean

INTERRUPTED = 130
"""The exit code 128 + SIGINT, as shells use it."""


class OneLineErrors(TyperGroup):
    """The group of all commands. Errors of the package and of the file system are one line; any other shows its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command of the context `ctx`."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = with_nearest(error.message)
            raise
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


def with_nearest(message: str) -> str:
    """The message of a wrong choice, with the nearest right one where there is one.

    Example:
        >>> with_nearest("'lokup' is not one of 'auto', 'lookup'.")
        "'lokup' is not one of 'auto', 'lookup': did you mean 'lookup'?"
    """
    found = re.search(r"'([^']*)' is not one of (.*?)\.?$", message)
    if found is None:
        return message
    hint = did_you_mean(found[1], re.findall(r"'([^']*)'", found[2]))
    return f"{message.removesuffix('.')}: {hint}" if hint else message


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
