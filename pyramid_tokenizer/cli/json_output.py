"""`--json`, which every command has: what a command would show as text goes to stdout as one JSON object."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyramid_tokenizer.cli.group import INTERRUPTED
from pyramid_tokenizer.errors import PyramidTokenizerError

if TYPE_CHECKING:
    from rich.table import Table

_Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON object in place of text: lines, tables as rows, files, errors, the exit code."
    ),
]


class Collected:
    """Takes the place of a console: keeps what is printed, for JSON."""

    is_terminal = False
    width = 120

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.tables: list[dict[str, Any]] = []
        self.files: list[dict[str, Any]] = []
        self.errors: list[str] = []

    def print(self, *parts: object, **_: Any) -> None:
        """Keeps a table as rows by the names of its columns, and anything else as lines."""
        for part in parts:
            if hasattr(part, "columns") and hasattr(part, "rows"):
                self.tables.append(_rows(part))  # type: ignore[arg-type]
            else:
                self.lines += [line for line in str(part).splitlines() if line]


_COLLECTED: ContextVar[Collected | None] = ContextVar("collected", default=None)


def collected() -> Collected | None:
    """What has been collected so far, where the command was called with --json; else None."""
    return _COLLECTED.get()


def record_file(**facts: Any) -> None:
    """Adds a file that a command has read or written to the JSON, if there is one."""
    found = collected()
    if found is not None:
        found.files.append(
            {name: value if isinstance(value, (int, float)) else str(value) for name, value in facts.items()}
        )


def with_json(command: Callable[..., None]) -> Callable[..., None]:
    """The command with one option more, `--json`; its result is then a JSON object on stdout, also after an error.

    Args:
        command: A function that prints to the console that `make_console` gives.
    """

    @functools.wraps(command)
    def run(*args: Any, as_json: bool = False, **options: Any) -> None:
        if not as_json:
            command(*args, **options)
            return
        found, exit_code = Collected(), 1
        token = _COLLECTED.set(found)
        try:
            command(*args, **options)
            exit_code = 0
        except typer.Exit as leaving:
            exit_code = leaving.exit_code
            raise
        except KeyboardInterrupt:
            exit_code = INTERRUPTED
            raise
        except (PyramidTokenizerError, OSError) as error:
            found.errors.append(str(error))
            raise
        finally:
            _COLLECTED.reset(token)
            typer.echo(_dump(command.__name__, found, exit_code))

    signature = inspect.signature(command, eval_str=True)
    option = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_Json)
    parameters = [*signature.parameters.values(), option]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _dump(command: str, found: Collected, exit_code: int) -> str:
    result = {"command": command, "exit_code": exit_code, "lines": found.lines, "tables": found.tables}
    return json.dumps({**result, "files": found.files, "errors": found.errors}, indent=2)


def _rows(table: Table) -> dict[str, Any]:
    names = [str(column.header) for column in table.columns]
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    rows = [dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True)]
    return {"title": None if table.title is None else str(table.title), "rows": rows}
