"""`OneLineErrors`: what goes wrong in a command is one line on stderr and an exit code."""

from __future__ import annotations

import errno
import re
from typing import Any

import typer
from typer.core import TyperGroup

from pyramid_tokenizer.errors import PyramidTokenizerError

INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""


class OneLineErrors(TyperGroup):
    """All commands. Errors of ours and of the file system are told in one line; any other is a bug and shows its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command that `ctx` holds."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            tell_error("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except (PyramidTokenizerError, OSError) as error:
            # a reader that went away, as `| head` does, is no error
            gone = isinstance(error, OSError) and error.errno == errno.EPIPE
            if gone or ctx.params.get("debug"):
                raise
            tell_error(str(error))
            raise typer.Exit(1) from None


def tell_error(message: str) -> None:
    """One line on stderr."""
    typer.echo("error: " + re.sub(r"\s*\n\s*", " ", message.strip()), err=True)
