"""A way to call the commands in the process of a test."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import typer

from pyramid_tokenizer.cli import app


@dataclass(frozen=True)
class Result:
    """What a command line printed, and the code it ended with."""

    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def run() -> Callable[..., Result]:
    """Runs a command line in this process; an error that is not told in a line fails the test."""
    command = typer.main.get_command(app)  # once: 20 ms

    def call(*arguments: object) -> Result:
        out, errors, code = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            try:
                command.main([str(argument) for argument in arguments], prog_name="pyramid-tokenizer")
            except SystemExit as end:
                code = end.code
        return Result(code, out.getvalue(), errors.getvalue())

    return call
