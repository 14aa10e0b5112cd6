"""Reads token files with numpy alone: no torch, and nothing else of this package, so this one file can be copied anywhere.

    tokens = read_tokens("photo.tokens")        # or the bytes of such a file
    tokens = read_tokens("photo.tokens", levels=2)   # the two coarsest levels
    tokens.ids[0]                               # (B, h, w) int64, level 0 is the coarsest

`pyramid_tokenizer.tokens.format` documents the format. Like `TokenPyramid.load`, this checks all of a file before it makes
anything of it, and takes no file that `TokenPyramid.load` refuses.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

try:
    from pyramid_tokenizer.errors import TokenFileError  # type: ignore[assignment]
except ImportError:  # a copy of this file, without the package

    class TokenFileError(ValueError, OSError):
        """Token bytes that are altered, cut short or not of this format."""


VERSION = 4
PRECISIONS = (None, "float32", "bfloat16", "float16", "float64")
_FIXED, _LEVEL, _COUNT = struct.Struct("<6sBBBBBIII32s"), struct.Struct("<III"), struct.Struct("<Q")
_SIZE_BYTES = 4
_CHECKSUM_BYTES = 16
_MOST_CELLS_PER_BYTE = 1 << 12


@dataclass(frozen=True)
class NumpyTokens:
    """The tokens of B images of one size."""

    ids: tuple[np.ndarray, ...]
    """(B, h_l, w_l) int64 per level, coarse to fine; -1 where a cell of a sparse level has no token."""
    codebook_sizes: tuple[int, ...]
    """K per level: ids are below it."""
    image_size: tuple[int, int]
    """(H, W) of the images in pixels, before padding."""
    fingerprint: str
    """64 hexadecimal digits that name the tokenizer; ids of different ones mean different things."""
    precision: str | None
    """Of the backbone that made the ids; None where none took part."""
    image_ids: np.ndarray
    """(B, M) int64, the ids of the image tokens; M is 0 where there are none."""
    image_codebook_sizes: tuple[int, ...]
    """K of each image token."""


def read_tokens(source: str | os.PathLike[str] | bytes, *, levels: int | None = None) -> NumpyTokens:
    """The tokens in a file, or in its bytes.

    Args:
        source: Name of a file that `TokenPyramid.save` wrote, or the bytes that `TokenPyramid.to_bytes` gave.
        levels: How many levels, coarse to fine; None for all. The checksum covers the whole file in either case.

    Raises:
        TokenFileError: No such file, or bytes that are altered, cut short or not of this format; or not so many levels.
    """
    name = "the bytes" if isinstance(source, (bytes, bytearray, memoryview)) else os.fspath(source)
    try:
        data = bytes(source) if name == "the bytes" else Path(source).read_bytes()  # type: ignore[arg-type]
    except (OSError, ValueError) as error:
        raise TokenFileError(f"expected a token file at {name}, got {error}: check the name") from error
    try:
        return _parse(data, levels)
    except _BrokenError as error:
        raise TokenFileError(f"expected a token file of format version {VERSION} in {name}, got {error}") from None


class _BrokenError(Exception):
    """What is wrong with the bytes."""


def _parse(data: bytes, levels: int | None) -> NumpyTokens:
    _require(data[:6] == b"PYRTOK", f"one that begins with {data[:6]!r}: name a file that `save` wrote")
    _require(len(data) > 6 and data[6] == VERSION, f"version {data[6:7].hex()}: use the reader of its release")
    _require(len(data) >= _FIXED.size, f"{len(data)} bytes: it is cut short, copy it again")
    _, _, num_levels, num_full, precision, num_image, batch, *size, fingerprint = _FIXED.unpack_from(data)
    levels_end = _FIXED.size + num_levels * _LEVEL.size
    sizes_end = levels_end + num_image * _SIZE_BYTES
    start = sizes_end + max(0, num_levels - num_full) * _COUNT.size
    _require(len(data) >= start, f"{len(data)} bytes: it is cut short, copy it again")
    rows = [_LEVEL.unpack_from(data, _FIXED.size + i * _LEVEL.size) for i in range(num_levels)]
    image_sizes = struct.unpack_from(f"<{num_image}I", data, levels_end)
    sparse = struct.unpack_from(f"<{max(0, num_levels - num_full)}Q", data, sizes_end)
    _check_header(num_full, precision, batch, size, rows)
    _require(all(k >= 2 for k in image_sizes), f"image codebooks {image_sizes[:4]}: bytes were altered")
    counts = [*(batch * h * w for _, h, w in rows[:num_full]), *sparse]
    _check_counts(batch, rows, counts, num_full)
    bits = [(k - 1).bit_length() for k, _, _ in rows]
    id_bytes = [-(-n * b // 8) for n, b in zip(counts, bits, strict=True)]
    split_bytes = [-(-counts[i - 1] // 8) if i >= num_full else 0 for i in range(num_levels)]
    image_bytes = [-(-batch * (k - 1).bit_length() // 8) for k in image_sizes]
    total = start + sum(image_bytes) + sum(id_bytes) + sum(split_bytes) + _CHECKSUM_BYTES
    _require(len(data) == total, f"{len(data)} bytes where its header says {total}: copy it again")
    cells = sum(batch * h * w for _, h, w in rows)
    _require(
        not sparse or cells <= _MOST_CELLS_PER_BYTE * total, f"{cells} cells in {total} bytes: it would fill memory"
    )
    checksum = hashlib.sha256(data[:-_CHECKSUM_BYTES]).digest()[:_CHECKSUM_BYTES]
    _require(data[-_CHECKSUM_BYTES:] == checksum, "a wrong checksum: bytes were altered, copy it again")
    keep = num_levels if levels is None else levels
    _require(isinstance(keep, int) and 1 <= keep <= num_levels, f"{num_levels} levels where {levels} are wanted")
    image_ids = _image_ids(data, start, batch, image_sizes, image_bytes)
    start += sum(image_bytes)
    ids: list[np.ndarray] = []
    for level, (k, h, w) in enumerate(rows):
        stop = start + split_bytes[level]
        flat = _unpack(data[stop : stop + id_bytes[level]], counts[level], bits[level])
        _require(
            not len(flat) or int(flat.max()) < k, f"id {flat.max(initial=0)} of level {level}, which has {k} codes"
        )
        if level < num_full:
            ids.append(flat.reshape(batch, h, w))
        else:
            ids.append(_fill(flat, data[start:stop], ids[-1], (batch, h, w)))
        start = stop + id_bytes[level]
    sizes = tuple(k for k, _, _ in rows[:keep])
    origin = fingerprint.hex(), PRECISIONS[precision]
    return NumpyTokens(tuple(ids[:keep]), sizes, (size[0], size[1]), *origin, image_ids, image_sizes)


def _image_ids(data: bytes, start: int, batch: int, sizes: tuple[int, ...], lengths: list[int]) -> np.ndarray:
    """(B, M) int64, the ids of the image tokens, which begin at `start`."""
    ids = np.empty((batch, len(sizes)), np.int64)
    for number, (k, length) in enumerate(zip(sizes, lengths, strict=True)):
        ids[:, number] = _unpack(data[start : start + length], batch, (k - 1).bit_length())
        highest = int(ids[:, number].max())
        _require(highest < k, f"id {highest} of image token {number}, which has {k} codes")
        start += length
    return ids


def _check_header(num_full: int, precision: int, batch: int, size: list[int], rows: list[tuple[int, int, int]]) -> None:
    numbers = f"{len(rows)} levels, {num_full} full ones, {batch} images of {size} px, (K, h, w) {rows[:4]}"
    positive = rows and min(batch, *size) >= 1 and all(k >= 2 and h >= 1 and w >= 1 for k, h, w in rows)
    _require(bool(positive) and 1 <= num_full <= len(rows), f"{numbers}: bytes were altered")
    _require(precision < len(PRECISIONS), f"precision {precision}: bytes were altered")
    for (_, h, w), (_, fine_h, fine_w) in itertools.pairwise(rows):
        multiple = fine_h % h == 0 and fine_w % w == 0 and fine_h // h == fine_w // w
        _require(multiple, f"grids {h}x{w} and {fine_h}x{fine_w}: bytes were altered")
    # Some stride must map the image to the grids, with less padding than a cell.
    (_, h, w), ratio = rows[0], rows[-1][1] // rows[0][1]
    stride = -(-max(-(-size[0] // h), -(-size[1] // w)) // ratio) * ratio
    fits = (h - 1) * stride < size[0] and (w - 1) * stride < size[1]
    _require(fits, f"images of {size} px on a grid of {h}x{w}: bytes were altered")


def _check_counts(batch: int, rows: list[tuple[int, int, int]], counts: list[int], num_full: int) -> None:
    for level in range(num_full, len(rows)):
        family = (rows[level][1] // rows[level - 1][1]) ** 2
        cells = batch * rows[level][1] * rows[level][2]
        fits = counts[level] % family == 0 and counts[level] <= min(family * counts[level - 1], cells - 1)
        _require(fits, f"{counts[level]} tokens in sparse level {level} of {cells} cells: bytes were altered")


def _unpack(data: bytes, count: int, bits: int) -> np.ndarray:
    """(count,) int64, of `bits` bits each, the lowest first."""
    planes = np.zeros((count, 32), np.uint8)
    planes[:, :bits] = _bits(data, count * bits).reshape(count, bits)
    return np.packbits(planes, axis=1, bitorder="little").view("<u4")[:, 0].astype(np.int64)


def _bits(data: bytes, count: int) -> np.ndarray:
    flat = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    _require(not flat[count:].any(), "ones behind the last bit of a level: not `save` wrote this")
    return flat[:count]


def _fill(flat: np.ndarray, splits: bytes, coarse: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """A sparse level: ids for the children of the present coarser cells whose bit is one, and -1 for all others."""
    ratio = shape[1] // coarse.shape[1]
    split = np.zeros(coarse.shape, bool)
    split[coarse >= 0] = _bits(splits, int((coarse >= 0).sum()))
    present = split.repeat(ratio, axis=1).repeat(ratio, axis=2)
    _require(int(present.sum()) == len(flat), f"{len(flat)} tokens for {present.sum()} cells: not `save` wrote this")
    ids = np.full(shape, -1, np.int64)
    ids[present] = flat
    return ids


def _require(holds: bool, got: str) -> None:
    if not holds:
        raise _BrokenError(got)
