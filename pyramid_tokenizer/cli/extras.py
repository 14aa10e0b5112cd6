"""Extras of pip, such as `eval` in `pip install "pyramid-tokenizer[eval]"`: what they bring, and what is installed of it."""

from __future__ import annotations

import re
from importlib import metadata
from typing import TYPE_CHECKING

from pyramid_tokenizer.cli.terminal import make_table
from pyramid_tokenizer.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

_PACKAGE = "pyramid-tokenizer"


def show_extra(name: str, console: Console) -> None:
    """Shows the packages of an extra, their versions here, and the pip command if one is missing.

    Raises:
        ConfigError: There is no such extra (the nearest is told), or the library is not installed by pip.
    """
    table = make_table(None, "package", "asked", "installed")
    table.columns[1].justify = table.columns[2].justify = "left"
    wanted = requirements(name)
    found = {package: _version(package) for package in wanted}
    for package, versions in wanted.items():
        table.add_row(package, versions or "any", found[package] or "no")
    console.print(table, soft_wrap=False)
    if not all(found.values()):
        console.print(f'\npip install "{_PACKAGE}[{name}]"')


def requirements(name: str) -> dict[str, str]:
    """The packages of an extra, with the versions that it asks for, as the installed library's metadata name them.

    Raises:
        ConfigError: As for `show_extra`.

    Example:
        >>> requirements("viz")
        {'matplotlib': '>=3.8'}
    """
    try:
        lines, known = metadata.requires(_PACKAGE) or [], metadata.metadata(_PACKAGE).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError as error:
        raise ConfigError(
            f"expected {_PACKAGE} as pip installs it, got its source alone: pip install {_PACKAGE}"
        ) from error
    if name not in known:
        hint = did_you_mean(name, known, otherwise="take one of these")
        raise ConfigError(f"expected one of the extras {', '.join(sorted(known))}, got {name!r}: {hint}")
    found = {}
    for line in lines:  # such as ray[data]<3,>=2.60; extra == 'ray'
        wanted, _, condition = line.partition(";")
        parts = re.match(r"([\w.-]+)(?:\[[^\]]*\])?\s*(.*)", wanted.strip())
        if parts is not None and re.search(rf"extra\s*==\s*['\"]{re.escape(name)}['\"]", condition):
            found[parts[1]] = parts[2]
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
