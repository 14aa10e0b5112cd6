"""Names of classes: the short standard lists, and a reader of the files that hold the long ones.

A name is what the text encoder reads; synonyms are written "a|b|c". Words that the original lists write as one ("diningtable")
are split, because a text encoder reads words. Where a set brings a file of class names, that file is used instead.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from pyramid_tokenizer.checks.arguments import nearest_file
from pyramid_tokenizer.errors import ConfigError, DataError
from pyramid_tokenizer.files import load_json
from pyramid_tokenizer.images.labelled.word_lists import parse_word_list

BACKGROUND_NAME = "background"
"""What data sets call the class of everything that is of no other class."""

# fmt: off
VOC_20 = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog", "horse",
    "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
)
"""PASCAL VOC 2012, in the order of its label ids 1 … 20."""

PASCAL_CONTEXT_59 = (
    "aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book", "bottle", "building", "bus",
    "cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow", "cup", "curtain", "dog", "door", "fence",
    "floor", "flower", "food", "grass", "ground", "horse", "keyboard", "light", "motorbike", "mountain", "mouse", "person",
    "plate", "platform", "potted plant", "road", "rock", "sheep", "shelves", "sidewalk", "sign", "sky", "snow", "sofa",
    "dining table", "track", "train", "tree", "truck", "tv monitor", "wall", "water", "window", "wood",
)
"""PASCAL-Context's 59 most frequent classes. The order is that of the original's "table", not of "dining table"."""

CITYSCAPES_19 = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain", "sky",
    "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)
"""Cityscapes, in the order of its train ids."""
# fmt: on

_NUMBERED = re.compile(r"(\d+)\s*:\s*(.+)")


def split_name(name: str) -> tuple[str, ...]:
    """The synonyms of a class name, in order.

    Example:
        >>> split_name("sofa | couch")
        ('sofa', 'couch')
    """
    return tuple(word.strip() for word in name.split("|"))


def distinct_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names without words that several classes share, as in ADE20K's list ("blind, screen" and "screen").

    A shared word is left to the class that has no other word, else to a class that names it first, else to the earlier one;
    case is ignored. This matters because a class scores as high as its best word: of classes that share a word, the earlier
    one would take all pixels of the others.

    Args:
        names: One for each class, synonyms written "a|b|c".

    Raises:
        DataError: A class would be left without a word.

    Example:
        >>> distinct_names(["blind|screen", "screen", "bag", "bag|suitcase"])
        ('blind', 'screen', 'bag', 'suitcase')
    """
    owners: dict[str, tuple[bool, int, int]] = {}
    for index, name in enumerate(names):
        words = split_name(name)
        for place, word in enumerate(words):
            claim = (len(words) > 1, place, index)
            owners[word.casefold()] = min(claim, owners.get(word.casefold(), claim))
    kept = []
    for index, name in enumerate(names):
        own = [word for place, word in enumerate(split_name(name)) if owners[word.casefold()][1:] == (place, index)]
        if not own:
            raise DataError(
                f"expected a word of its own in class {index}, got {name!r}: other classes have them all, add one"
            )
        kept.append("|".join(own))
    return tuple(kept)


def read_class_names(
    path: str | Path, *, num_classes: int | None = None, left_out: Collection[int] = ()
) -> tuple[str, ...]:
    r"""Class names from a UTF-8 file, one for each class.

    Understood are a plain list, one name a line; lines "12: name", as in the `labels.txt` of COCO-Stuff and PASCAL-Context,
    in the order of their numbers; a tab-separated table with a column Name, as ADE20K's `objectInfo150.txt`; and a JSON
    list of strings. In the last two a comma or semicolon stands between synonyms too. Other files are read by
    `parse_word_list`: CSV, numbered lines and words in quotes.

    Args:
        path: The file.
        num_classes: How many names there must be; None takes as many as there are, and numbers must then begin at 0.
        left_out: Numbers of lines "12: name" that are no classes; the file may lack them.

    Returns:
        The names, synonyms written "a|b|c". Classes may share words: see `distinct_names`.

    Raises:
        DataError: There is no such file, a line between others is empty or a comment, the JSON is no list of strings, the
            form of the list is not known, or the number of names is another.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "objectInfo150.txt")
        ...     _ = path.write_text("Idx\tRatio\tName\n1\t0.2\twall\n2\t0.1\tbuilding, edifice\n")
        ...     read_class_names(path)
        ('wall', 'building|edifice')
    """
    path = Path(path)
    if not os.path.isfile(path):
        hint = nearest_file(path, otherwise="write one name a line into it")
        raise DataError(f"expected a file of class names, got none at {str(path)!r}: {hint}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"expected class names as UTF-8 text in {str(path)!r}, got {error}: save it as UTF-8"
        ) from error
    as_json = path.suffix == ".json" or text.lstrip().startswith(("[", "{"))
    names = _from_json(text, path) if as_json else _from_lines(text, path, num_classes, left_out)
    if not names or (num_classes is not None and len(names) != num_classes):
        expected = "class names" if num_classes is None else f"{num_classes} class names"
        raise DataError(f"expected {expected}, got {len(names)} in {str(path)!r}: write one a line, none for ignored")
    return names


def _from_json(text: str, path: Path) -> tuple[str, ...]:
    fault = "a list of class names"
    try:
        names: Any = load_json(text)
    except ValueError as error:
        raise DataError(f"expected {fault}, got no JSON in {str(path)!r}: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise DataError(f'expected {fault}, got other JSON in {str(path)!r}: write ["wall", "building|edifice"]')
    return tuple(_synonyms(name) for name in names)


def _from_lines(text: str, path: Path, num_classes: int | None, left_out: Collection[int]) -> tuple[str, ...]:
    lines = [line.strip() for line in text.rstrip().split("\n")]
    if "\t" in lines[0] and "Name" in lines[0].split("\t"):
        column = lines[0].split("\t").index("Name")
        rows = [line.split("\t") for line in lines[1:]]
        return tuple(_synonyms(row[column]) for row in rows if len(row) > column)
    numbered = [_NUMBERED.fullmatch(line) for line in lines if line]
    if numbered and all(numbered):
        names = {int(match[1]): match[2].strip() for match in numbered if match}
        if num_classes is None and sorted(names) != list(range(len(names))):
            got = f"{min(names)} to {max(names)}, {len(names)} of them,"
            raise DataError(f"expected names numbered from 0, got {got} in {str(path)!r}: the number is the label")
        if len(names) != num_classes:  # with what is no class: 0 for "unlabeled", and ids that were never annotated
            names = {number: name for number, name in names.items() if number not in left_out}
        return tuple(names[number] for number in sorted(names))
    unnamed = [number for number, line in enumerate(lines, 1) if not line or line.startswith("#")]
    if unnamed and text.strip():
        fix = "the line's number is the label, so remove the line or name the class"
        got = f"{'a comment in' if lines[unnamed[0] - 1] else 'an empty'} line {unnamed[0]}"
        raise DataError(f"expected a name in every line, got {got} in {str(path)!r}: {fix}")
    try:
        found = tuple(parse_word_list(text, where=f"the file of class names {str(path)!r}"))
    except ConfigError as error:
        raise DataError(str(error)) from error
    if "" in found:
        got = f"an empty one at place {found.index('') + 1} of {len(found)}"
        raise DataError(
            f"expected a name for every class, got {got} in {str(path)!r}: remove the comma, or name the class"
        )
    return found


def _synonyms(name: str) -> str:
    return "|".join(re.split(r"\s*[,;|]\s*", name.strip()))
