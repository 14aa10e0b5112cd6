"""Broken files: bytes with edits, JSON with other values in it, and safetensors files with another header.

Each is decided by a few bytes, which hypothesis draws and makes shorter where a case fails. (Strategies that draw every edit by
itself take four times as long.)
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from hypothesis import strategies as st

Item = TypeVar("Item")
DECISIONS = st.binary(min_size=1, max_size=32)
NUMBERS = [
    0,
    1,
    -1,
    2,
    255,
    65535,
    2**31 - 1,
    2**32 - 1,
    2**63,
    10**30,
    -(2**63),
    0.5,
    1e308,
    float("nan"),
    float("inf"),
]
TEXTS = ["", "a", "toy", "\0", "../../x", "/etc/passwd", "hf-hub:a/b", "local-dir:/etc", "x" * 5000]
VALUES = [*NUMBERS, *TEXTS, None, True, False, [], {}, [[]], [1, 2], [0, -1], ["a"], {"a": 1}]


class Choices:
    """Decisions, taken from bytes from left to right; after the last byte, always the first one of what there is."""

    def __init__(self, decisions: bytes):
        self._bytes = iter(decisions)

    def below(self, count: int) -> int:
        """A number in [0, count), of as many bytes as it needs."""
        value = 0
        for _ in range(max(1, ((count - 1).bit_length() + 7) // 8)):
            value = value << 8 | next(self._bytes, 0)
        return value % count

    def among(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[self.below(len(items))]


Edit = Callable[[bytes, Choices], bytes]


def edited(whole: bytes, choices: Choices) -> bytes:
    """The bytes after one to four edits: other values, parts that are cut out, repeated or added."""
    data = bytearray(whole)
    for _ in range(1 + choices.below(4)):
        if not data:
            break
        place = choices.below(min(len(data), choices.among([100, len(data)])))  # headers are near the start
        kind, length = choices.below(8), choices.among([1, 2, 4, 8, 100])
        if kind < 2:
            data[place] = choices.below(256)
        elif kind == 2:
            data[place] ^= 1 << choices.below(8)
        elif kind == 3:
            number = choices.among([0, 1, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF])
            data[place : place + 4] = number.to_bytes(4, choices.among(["little", "big"]))
        elif kind == 4:
            del data[place : place + length]
        elif kind == 5:
            data[place:place] = data[place : place + length] * (1 + choices.below(20))
        elif kind == 6:
            data[place:place] = bytes(choices.below(256) for _ in range(1 + choices.below(4)))
        else:
            del data[place:]
    return bytes(data)


def edited_json(whole: bytes, choices: Choices) -> bytes:
    """The JSON with one to three values replaced, left out, nested or added; or else with edited bytes, or very deep."""
    kind = choices.below(8)
    if kind == 6:
        return edited(whole, choices)
    if kind == 7:
        depth = choices.among([10, 1000, 100_000])
        return b"[" * depth + b"]" * depth
    document = json.loads(whole)
    for _ in range(1 + choices.below(3)):
        places = list(_places(document))
        if not places:
            break
        holder, key = choices.among(places)
        change = choices.below(7)
        if change == 4 and isinstance(holder, dict):
            del holder[key]
        elif change == 5 and isinstance(holder, dict):
            holder[choices.among(["a", "", "shape", "format_version", "\u00fc"])] = choices.among(VALUES)
        elif change == 6:
            holder[key] = choices.among([[holder[key]], {"a": holder[key]}])
        else:
            holder[key] = choices.among(VALUES)
    return json.dumps(document).encode()


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a value in the document, as its holder and its key or index."""
    if isinstance(document, dict):
        yield from ((document, key) for key in document)
        for value in document.values():
            yield from _places(value)
    elif isinstance(document, list):
        yield from ((document, index) for index in range(len(document)))
        for value in document:
            yield from _places(value)


def edited_safetensors(whole: bytes, choices: Choices) -> bytes:
    """The file with another header, whose length is right, or with edited bytes."""
    if choices.below(4) == 3:
        return edited(whole, choices)
    (length,) = struct.unpack("<Q", whole[:8])
    header = edited_json(whole[8 : 8 + length], choices)
    return struct.pack("<Q", len(header)) + header + whole[8 + length :]
