"""Ids in as few bits as hold them: the innermost part of the format of token files, which `tokens.format` specifies."""

from __future__ import annotations

import numpy as np

from pyramid_tokenizer.errors import TokenFileError

# A multiple of 8, so that every chunk but the last ends on a whole byte; bounds the (chunk, 32) plane of bits at 2 MB.
_CHUNK = 1 << 16


def pack_ids(ids: np.ndarray, bits: int) -> bytes:
    """Integers (n,) below 2^bits in `bits` bits each, filled with zero bits to a whole byte."""
    parts = []
    for start in range(0, len(ids), _CHUNK):
        words = np.ascontiguousarray(ids[start : start + _CHUNK], dtype="<u4")
        planes = np.unpackbits(words.view(np.uint8).reshape(-1, 4), axis=1, count=bits, bitorder="little")  # (n, bits)
        parts.append(np.packbits(planes, bitorder="little").tobytes())
    return b"".join(parts)


def unpack_ids(data: np.ndarray, count: int, bits: int) -> np.ndarray:
    """The integers (count,) int64 that `pack_ids` wrote.

    Args:
        data: uint8, exactly their bytes.
        count: How many they are.
        bits: Of each.

    Raises:
        TokenFileError: Bits behind the last one are not zero.
    """
    check_filling(data, count * bits, "id")
    ids = np.empty(count, np.int64)
    for start in range(0, count, _CHUNK):
        n = min(_CHUNK, count - start)
        first, last = start * bits // 8, ((start + n) * bits + 7) // 8
        planes = np.zeros((n, 32), np.uint8)
        planes[:, :bits] = np.unpackbits(data[first:last], count=n * bits, bitorder="little").reshape(n, bits)
        ids[start : start + n] = np.packbits(planes, axis=1, bitorder="little").view("<u4")[:, 0]
    return ids


def check_filling(data: np.ndarray, num_bits: int, what: str) -> None:
    """Raises TokenFileError where the bits behind the first `num_bits` of `data`, uint8, are not zero."""
    if num_bits % 8 and data[-1] >> num_bits % 8:
        raise TokenFileError(
            f"expected zero bits behind the last {what} of a level, got ones: not `pack` wrote this; encode the image again"
        )
