"""Writes cli_help.txt, every command, option, default and help text: python tests/golden/make_cli_help.py.

Taken from the commands themselves and not from a rendered `--help`, whose frames and metavars change between versions of
typer.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from pyramid_tokenizer.cli import app

PATH = Path(__file__).with_name("cli_help.txt")
WIDTH = 100


def golden_help() -> str:
    """One block per command: its help, then its arguments and options."""
    group = typer.main.get_command(app)
    return "\n\n".join(block.rstrip() for block in _blocks("pyramid-tokenizer", group)) + "\n"


def _blocks(title: str, command: Any) -> Iterator[str]:
    """Of a command, then of those in it."""
    yield _block(title, command)
    for name, inner in getattr(command, "commands", {}).items():
        yield from _blocks(f"{title} {name}", inner)


def _block(title: str, command: Any) -> str:
    paragraphs = [" ".join(paragraph.split()) for paragraph in command.help.split("\n\n")]
    lines = [title]
    for paragraph in paragraphs:
        lines += ["", *textwrap.wrap(paragraph, WIDTH, initial_indent="  ", subsequent_indent="  ")]
    lines.append("")
    for parameter in command.params:
        lines += _parameter(parameter)
    if command.epilog:
        lines += ["", f"  {command.epilog}"]
    return "\n".join(lines)


def _parameter(parameter: Any) -> list[str]:
    is_argument = parameter.param_type_name == "argument"
    names = [parameter.metavar] if is_argument else [", ".join(parameter.opts), parameter.metavar or ""]
    if parameter.required:
        names.append("(required)")
    elif parameter.default is not None and parameter.default is not False:
        names.append(f"(default: {getattr(parameter.default, 'value', parameter.default)})")
    text = textwrap.wrap(parameter.help, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return ["  " + " ".join(name for name in names if name), *text]


if __name__ == "__main__":
    PATH.write_text(golden_help(), encoding="utf-8")
    print(f"wrote {PATH.name}: {PATH.stat().st_size} bytes")
