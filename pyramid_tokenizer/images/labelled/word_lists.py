"""`parse_word_list`: lists of words in the forms that people have them, each read as it is meant, or refused."""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Sequence
from typing import Any

from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.files import load_json

FORM = 'write one name per line, synonyms as car|automobile, or a JSON array ["dog", "cat"]; a name with a comma goes into quotes'
"""What a refusal of a list says to do."""

_NUMBERED = re.compile(r"[(\[]?(\d+)(?:\s*[.:)\]=]\s*|\s+(?:(?:-|\u2013|->|=>)\s+)?)(\D.*)")
_SURELY_NUMBERED = re.compile(r"\d+\s*[.:)]\s.*")
_NUMBER_BEHIND = re.compile(r"(\D.*?)\s*[:=]\s*(\d+)")
_BULLETS = ("- ", "* ", "\u2022", "\u2013 ")
_NOT_IN_NAMES = re.compile(r"[\[\]{}<>=\\\x00-\x1f\uff0c\u3001\uff1b]|:$|^@")
"""What other languages than those that are read leave in a name: those of markup, settings and code, and Chinese commas."""
_ONLY_COLUMN = frozenset({"name", "names", "class", "classes", "class name", "class_name"})
_NAME_COLUMNS = frozenset(
    {"name", "names", "class", "classes", "class name", "class_name", "category", "label", "word"}
)
_NUMBER_COLUMNS = frozenset({"", "id", "idx", "index", "number", "no", "class_id", "class id", "label_id", "value"})
_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "\u201e": "\u201c", "\u00ab": "\u00bb"}


def parse_word_list(text: str, *, where: str) -> list[str]:
    r"""The entries of a list of words, in order; what each of them may be is for others to check.

    Read are: one name per line; names separated by commas, semicolons or tabs where there is a single line; a JSON array or
    a Python list of texts, or of lists of synonyms; CSV with a column "name" or "class", or with a column of numbers and one
    of names; lines of a list with bullets, "- dog"; and any of these with words in quotes or with the numbers 0, 1, 2 ... or
    1, 2, 3 ... before them, or behind them as in "dog: 0". Blank lines and lines that start with "#" are skipped.

    Args:
        text: What a file holds, or what was typed.
        where: Where the text comes from, for messages.

    Returns:
        The entries without white space around them; an empty one stays where a comma stands for it.

    Raises:
        ConfigError: The form is none of these, so that the list could be misread.

    Example:
        >>> parse_word_list('["dog", ["car", "automobile"]]', where="--classes")
        ['dog', 'car|automobile']
        >>> parse_word_list("1. dog\n2. 'cat, or kitten'\n", where="a file")
        ['dog', 'cat, or kitten']
        >>> parse_word_list("id;name\n0;dog\n1;cat\n", where="a file")
        ['dog', 'cat']
    """
    if text.lstrip()[:1] == "{" or (text.lstrip()[:1] == "[" and not _NUMBERED.match(text.lstrip())):
        return _from_json(text, where)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for bullet in _BULLETS:
        if lines and all(line.startswith(bullet) for line in lines):
            lines = [line[len(bullet) :].strip() for line in lines]
    return [_checked(entry, where) for entry in _from_lines(lines, where)]


def _from_lines(lines: Sequence[str], where: str) -> list[str]:
    # of one line, the fields may be numbered
    if len(lines) > 1 and (all(map(_NUMBERED.fullmatch, lines)) or any(map(_SURELY_NUMBERED.fullmatch, lines))):
        return _from_numbered(lines, where)
    behind = [_NUMBER_BEHIND.fullmatch(line.rstrip(",")) for line in lines]
    if len(lines) > 1 and all(behind):
        return _from_numbered([f"{match[2]}: {match[1]}" for match in behind if match], where)
    return [_without_quotes(entry, where) for entry in _from_rows(lines, where)]


def _checked(entry: str, where: str) -> str:
    """The entry, unless something in it is of another form than those that are read."""
    if _NOT_IN_NAMES.search(entry) or entry.count("(") != entry.count(")"):
        raise ConfigError(f"expected names of classes in {where}, got {_short(entry)}: {FORM}")
    return entry


def _from_json(text: str, where: str) -> list[str]:
    try:
        found: Any = load_json(text)
    except ValueError:
        try:
            found = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            found = None
    entries = [item if isinstance(item, list) else [item] for item in found] if isinstance(found, list) else []
    if not entries or not all(item and all(isinstance(word, str) for word in item) for item in entries):
        raise ConfigError(f"expected a JSON array of texts in {where}, got {_short(text)}: {FORM}")
    return ["|".join(word.strip() for word in item) for item in entries]


def _from_numbered(lines: Sequence[str], where: str) -> list[str]:
    """The names of lines that all begin with a number, in the order of the numbers."""
    numbers: list[int] = []
    names: list[str] = []
    for line in lines:
        match = _NUMBERED.fullmatch(line)
        if match is None:
            raise ConfigError(f"expected a number before all names or none in {where}, got the line {line!r}: {FORM}")
        numbers.append(int(match[1]))
        names.append(match[2])
    # the names themselves may be in quotes, or end with the comma of a list
    entries = [_without_quotes(name.rstrip(",;").strip(), where, alone=True) for name in names]
    return _in_order(numbers, entries, where)


def _in_order(numbers: Sequence[int], names: Sequence[str], where: str) -> list[str]:
    first = min(numbers)
    if sorted(numbers) != list(range(first, first + len(numbers))) or first > 1:
        got = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
        raise ConfigError(f"expected names numbered 0, 1, 2 ... or 1, 2, 3 ... in {where}, got {got}: {FORM}")
    return [name for _, name in sorted(zip(numbers, names, strict=True))]


def _from_rows(lines: Sequence[str], where: str) -> list[str]:
    """The entries of lines that are names or rows of a table."""
    if not lines:
        return []
    delimiter = next((mark for mark in "\t;," if any(len(_fields(line, mark)) > 1 for line in lines)), ",")
    for line in lines:
        if re.sub(r'\d"', "", line).count('"') % 2:  # 24" is a size
            raise ConfigError(f"expected quotes at both ends of a name in {where}, got {_short(line)}: {FORM}")
    rows = [_fields(line, delimiter) for line in lines]
    if len(rows) == 1:
        mixed = delimiter == ";" and any("," in field for field in rows[0])
        if mixed:
            raise ConfigError(f"expected commas or semicolons in {where}, got both in {_short(lines[0])}: {FORM}")
        matches = [_NUMBERED.fullmatch(field) for field in rows[0]]
        return _from_numbered(rows[0], where) if len(rows[0]) > 1 and all(matches) else rows[0]
    rows = [row[:-1] if len(row) > 1 and not row[-1] else row for row in rows]  # a comma at the end of a line
    if all(len(row) == 1 for row in rows):
        return [row[0] for row in rows[rows[0][0].casefold() in _ONLY_COLUMN :]]
    return _from_table(rows, where)


def _from_table(rows: Sequence[Sequence[str]], where: str) -> list[str]:
    header = [field.casefold() for field in rows[0]]
    uneven = any(len(row) != len(header) for row in rows)
    columns = [index for index, field in enumerate(header) if field in _NAME_COLUMNS]
    counted = [index for index, field in enumerate(header) if field in _NUMBER_COLUMNS]
    body = rows[1:] if columns else rows
    if not columns and len(header) == 2 and all(row[0].isdecimal() for row in body):
        columns, counted = [1], [0]
    if uneven or not columns or not body:
        got = next(row for row in rows if len(row) > 1)
        raise ConfigError(f"expected one name per line in {where}, got the line {', '.join(got)!r}: {FORM}")
    names = [row[columns[0]] for row in body]
    numbers = [row[counted[0]] for row in body] if counted else []
    if numbers and all(number.isdecimal() for number in numbers):
        return _in_order([int(number) for number in numbers], names, where)
    return names


def _fields(line: str, delimiter: str) -> list[str]:
    """The fields of one line of CSV, without white space around them."""
    quoted = line if '"' in line else line.replace("'", '"') if _in_single_quotes(line, delimiter) else line
    return [field.strip() for field in next(csv.reader([quoted], delimiter=delimiter, skipinitialspace=True))]


def _in_single_quotes(line: str, delimiter: str) -> bool:
    """Whether every field is in single quotes, which `csv` would not know from apostrophes."""
    word = r"\s*'[^']*'\s*"
    return re.fullmatch(f"{word}(?:{re.escape(delimiter)}{word})*{re.escape(delimiter)}?\\s*", line) is not None


def _without_quotes(entry: str, where: str, *, alone: bool = False) -> str:
    """An entry without the quotes around it; with `alone`, one that could be several names is refused."""
    closing = _QUOTES.get(entry[:1])
    if closing and len(entry) > 1 and entry.endswith(closing):
        return entry[1:-1].strip()
    if alone and re.search("[,;\t]", entry):
        raise ConfigError(f"expected one name per line in {where}, got {_short(entry)}: {FORM}")
    return entry


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}...")
