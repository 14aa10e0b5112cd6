"""`Report`: figures of an evaluation as report.json and report.md, with plots and sheets beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyramid_tokenizer.files import write_text

JSON, MARKDOWN = "report.json", "report.md"


@dataclass(kw_only=True, slots=True)
class Report:
    """The parts of a report.

    Example:
        >>> report = Report(title="Masks", data={"model": "tiny"}, facts={"model": "tiny"})
        >>> report.tables.append(("Scores", ("score", "%"), [("mIoU", number(52.345, 1))]))
        >>> print(report.to_markdown())
        # Masks
        <BLANKLINE>
        - model: tiny
        <BLANKLINE>
        ## Scores
        <BLANKLINE>
        | score | % |
        |---|---|
        | mIoU | 52.3 |
    """

    title: str
    data: dict[str, Any]
    """All figures, for report.json; NaN and infinity are not allowed."""
    facts: Mapping[str, Any]
    """Model, data, protocol and so on, for the top of report.md."""
    tables: list[tuple[str, Sequence[str], Sequence[Sequence[Any]]]] = field(default_factory=list)
    """Title, head and rows of each table."""
    images: list[tuple[str, str, Callable[[Path], None]]] = field(default_factory=list)
    """File name, what it shows, and the function that writes the file."""

    def to_markdown(self) -> str:
        """The text of report.md, without the images."""
        parts = [f"# {self.title}", "\n".join(f"- {name}: {value}" for name, value in self.facts.items())]
        for title, head, rows in self.tables:
            lines = [f"| {' | '.join(map(str, row))} |" for row in (head, *rows)]
            parts += [f"## {title}", "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])]
        return "\n\n".join(parts)

    def write(self, out: Path) -> list[Path]:
        """Writes the files into a folder, which is created if it is missing; report.json comes last.

        Returns:
            The paths of the files.

        Raises:
            OSError: A file cannot be written.
        """
        out.mkdir(parents=True, exist_ok=True)
        text = self.to_markdown()
        for name, what, draw in self.images:
            draw(out / name)
            text += f"\n\n![{what}]({name})"
        write_text(out / MARKDOWN, text + "\n")
        write_text(out / JSON, json.dumps(self.data, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
        return [out / JSON, out / MARKDOWN, *(out / name for name, _, _ in self.images)]


def number(value: float | None, digits: int) -> str:
    """Formats a number with some decimals, and what does not exist as a dash.

    Example:
        >>> number(1.234, 2), number(None, 2)
        ('1.23', '-')
    """
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def with_interval(value: float | None, interval: Sequence[float] | None, digits: int, *, scale: float = 1) -> str:
    """Formats a number with its interval.

    Example:
        >>> with_interval(0.5, (0.25, 0.75), 0, scale=100)
        '50 (25 to 75)'
    """
    if value is None or interval is None:
        return number(None if value is None else scale * value, digits)
    low, high = (number(scale * end, digits) for end in interval)
    return f"{number(scale * value, digits)} ({low} to {high})"
