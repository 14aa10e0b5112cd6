"""The bytes of a token pyramid: `pack` and `unpack`, and files that are whole or absent.

The format, version 4. Integers are unsigned and little-endian.

    offset      bytes   what
    0           6       b"PYRTOK"
    6           1       version of the format: 4
    7           1       L, levels (1 to 255)
    8           1       F, full levels (1 to L): the first F levels are full, the others are sparse
    9           1       precision of the backbone: 0 none, 1 float32, 2 bfloat16, 3 float16, 4 float64
    10          1       M, image tokens of each image (0 to 255)
    11          4       B, images
    15          4 + 4   H, W of the original images in pixels
    23          32      fingerprint of the tokenizer whose codebooks the ids point into (SHA-256)
    55          12 · L  per level, coarse to fine: K (at least 2), h, w, 4 bytes each
    …           4 · M   per image token: K (at least 2)
    …           8·(L-F) per sparse level, coarse to fine: N, how many of its B · h · w cells are present (fewer than all)
    …           P       per image token: the ids of the B images, packed;
                        then per level, coarse to fine: its split bits if it is sparse, then its ids, both packed
    …           16      checksum: the first 16 bytes of the SHA-256 of everything before

The ids (B, h, w) of a full level go image by image, row by row, with n = ceil(log2 K) bits each, the lowest bit first:
bit j of the i-th id is bit i · n + j of the level, and bit b of a level is bit b % 8 (value 1 << b % 8) of its byte
b // 8. Each level is filled with zero bits to a whole byte, which makes ceil(B · h · w · n / 8) bytes. The B ids of an image
token are packed in the same way, as those of a level of one cell.

A sparse level first has one split bit for every present cell of the next coarser level, image by image, row by row, filled
with zero bits to a whole byte. It is one where all cells of the sparse level below that cell are present, and zero where all
are absent; `pyramid_tokenizer.tokens.splits` says more. Then come the N ids of the present cells alone, in the order and with
the bits of a full level. What lies below an absent cell is absent, so below a sparse level all levels are sparse.

P and the length of a file follow from its header, and equal tokens of one precision have equal bytes. A file has at most 4,096
cells for each of its bytes, absent ones included, so that a short file does not fill the memory.

The checksum is a truncated SHA-256 and not a CRC because it must find every kind of damage alike: flipped, missing,
moved or repeated bytes, in header and ids, each escape with a chance of 2^-128.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyramid_tokenizer.errors import TokenFileError
from pyramid_tokenizer.files import refuse_lfs_pointer, write_bytes
from pyramid_tokenizer.tokens.packing import check_filling, pack_ids, unpack_ids
from pyramid_tokenizer.tokens.split_bits import ABSENT, presence_of_bits, split_bits

MAGIC = b"PYRTOK"
VERSION = 4
PRECISIONS = (None, "float32", "bfloat16", "float16", "float64")
"""What the byte for the precision means, by its value. None: no backbone took part."""

_FIXED = struct.Struct("<6sBBBBBIII32s")
_LEVEL = struct.Struct("<III")
_SIZE = struct.Struct("<I")
_COUNT = struct.Struct("<Q")
_CHECKSUM_BYTES = 16
_LONGEST_HEADER = _FIXED.size + 255 * (_LEVEL.size + _SIZE.size) + 254 * _COUNT.size
_MOST_CELLS_PER_BYTE = 1 << 12


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenHeader:
    """What stands before the ids; determines the length of the whole file."""

    codebook_sizes: tuple[int, ...]
    """K per level, in [2, 2^32)."""
    grids: tuple[tuple[int, int], ...]
    """(h, w) per level."""
    batch_size: int
    """B, images."""
    image_size: tuple[int, int]
    """(H, W) of the original images in pixels."""
    fingerprint: str
    """64 hexadecimal digits."""
    precision: str | None
    """One of `PRECISIONS`."""
    sparse_counts: tuple[int, ...] = ()
    """Present cells of all images together for each sparse level; these are the last levels."""
    image_codebook_sizes: tuple[int, ...] = ()
    """K per image token, in [2, 2^32)."""

    @property
    def num_full(self) -> int:
        """Levels before the first sparse one."""
        return len(self.grids) - len(self.sparse_counts)

    @property
    def num_bytes(self) -> int:
        """Bytes of the header itself."""
        return _bytes_before_ids(len(self.grids), len(self.image_codebook_sizes), len(self.sparse_counts))

    @property
    def cells(self) -> list[int]:
        """Cells of each level, absent ones included, of all images together."""
        return [self.batch_size * h * w for h, w in self.grids]

    @property
    def counts(self) -> list[int]:
        """Ids of each level, of all images together."""
        return [*self.cells[: self.num_full], *self.sparse_counts]

    @property
    def image_bytes(self) -> list[int]:
        """Bytes of the packed ids of each image token."""
        return [(self.batch_size * _bits(k) + 7) // 8 for k in self.image_codebook_sizes]

    @property
    def level_bytes(self) -> list[tuple[int, int]]:
        """Bytes of each level's split bits, 0 if it is full, and of its packed ids."""
        splits = [0] * self.num_full + [(n + 7) // 8 for n in self.counts[self.num_full - 1 : -1]]
        ids = [(n * _bits(k) + 7) // 8 for n, k in zip(self.counts, self.codebook_sizes, strict=True)]
        return list(zip(splits, ids, strict=True))

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole file."""
        levels = sum(splits + ids for splits, ids in self.level_bytes)
        return self.num_bytes + sum(self.image_bytes) + levels + _CHECKSUM_BYTES


def pack(header: TokenHeader, ids: Sequence[np.ndarray], image_ids: np.ndarray | None = None) -> bytes:
    r"""The bytes of one batch of tokens.

    Args:
        header: Describes `ids`; its numbers must fit the format.
        ids: One integer array (B, h, w) per level, coarse to fine: in [0, K), and -1 for the absent cells of a sparse level.
        image_ids: Integers (B, M) in [0, K) of each image token; None where there are none.

    Raises:
        TokenFileError: Nearly all cells of very fine levels are absent, more than the format allows.

    Example:
        >>> sizes = {"codebook_sizes": (6,), "grids": ((1, 3),), "batch_size": 1, "image_size": (8, 24)}
        >>> header = TokenHeader(**sizes, fingerprint="0" * 64, precision="float32")
        >>> data = pack(header, [np.array([[[1, 0, 5]]])])
        >>> data[:11], data[67:69].hex(), len(data)  # 1 + 0·8 + 5·64 = 0x141, in 9 bits
        (b'PYRTOK\x04\x01\x01\x01\x00', '4101', 85)
    """
    _check_cells(header)
    levels, precision = len(header.grids), PRECISIONS.index(header.precision)
    image_sizes, columns = header.image_codebook_sizes, () if image_ids is None else image_ids.T
    numbers = levels, header.num_full, precision, len(image_sizes), header.batch_size, *header.image_size
    parts = [_FIXED.pack(MAGIC, VERSION, *numbers, bytes.fromhex(header.fingerprint))]
    parts += [_LEVEL.pack(k, h, w) for (h, w), k in zip(header.grids, header.codebook_sizes, strict=True)]
    parts += [_SIZE.pack(k) for k in image_sizes]
    parts += [_COUNT.pack(n) for n in header.sparse_counts]
    parts += [pack_ids(x, _bits(k)) for x, k in zip(columns, image_sizes, strict=True)]
    for level, (x, k) in enumerate(zip(ids, header.codebook_sizes, strict=True)):
        sparse = level >= header.num_full
        if sparse:
            parts.append(np.packbits(split_bits(ids[level - 1], x), bitorder="little").tobytes())
        parts.append(pack_ids(x[x >= 0] if sparse else x.reshape(-1), _bits(k)))
    body = b"".join(parts)
    return body + _checksum(body)


def unpack(data: bytes | bytearray | memoryview) -> tuple[TokenHeader, list[np.ndarray], np.ndarray]:
    """The header and the ids that `pack` wrote; the ids are not checked against their codebooks here.

    Nothing is allocated before the length and the checksum are right, so a lying header costs no memory. Decoded ids take
    at most 64 times the bytes given if all levels are full, and at most 32,768 times the bytes given if not.

    Args:
        data: Exactly one token file.

    Returns:
        The header, per level an int64 array (B, h, w), -1 where a cell is absent, and the image ids, int64 (B, M).

    Raises:
        TokenFileError: `data` is of another format or version, too short, too long or altered.
    """
    view = memoryview(data).cast("B")
    header = parse_header(view)
    _check_length(len(view), header)
    body, checksum = view[:-_CHECKSUM_BYTES], bytes(view[-_CHECKSUM_BYTES:])
    if _checksum(body) != checksum:
        raise TokenFileError(
            f"expected checksum {_checksum(body).hex()} of a token file, got {checksum.hex()}: bytes were altered; "
            "copy the file or encode the image again"
        )
    image_ids, start = _unpack_image_ids(view, header)
    ids: list[np.ndarray] = []
    levels = zip(header.grids, header.codebook_sizes, header.counts, header.level_bytes, strict=True)
    for level, ((h, w), k, count, (split_bytes, id_bytes)) in enumerate(levels):
        middle, stop = start + split_bytes, start + split_bytes + id_bytes
        flat = unpack_ids(np.frombuffer(view[middle:stop], np.uint8), count, _bits(k))
        shape = header.batch_size, h, w
        if level < header.num_full:
            ids.append(flat.reshape(shape))
        else:
            ids.append(_fill_level(flat, np.frombuffer(view[start:middle], np.uint8), ids[-1], shape))
        start = stop
    return header, ids, image_ids


def parse_header(data: bytes | memoryview) -> TokenHeader:
    """The header at the beginning of `data`, which may end anywhere behind it.

    Args:
        data: The first bytes of a token file, or all of them.

    Raises:
        TokenFileError: `data` is of another format or version, the header is cut short, or it holds a number that the
            format excludes.
    """
    if bytes(data[: len(MAGIC)]) != MAGIC[: len(data)] or not len(data):
        raise TokenFileError(
            f"expected a token file (it begins with {MAGIC!r}), got {bytes(data[:8])!r}: name a file that `save` wrote"
        )
    if len(data) > 6 and data[6] != VERSION:
        raise TokenFileError(
            f"expected token format version {VERSION}, got {data[6]}: read it with the release of pyramid-tokenizer that "
            "wrote it, or encode the images again"
        )
    levels, num_full, num_image = (data[7], data[8], data[10]) if len(data) > 10 else (0, 0, 0)
    needed = _bytes_before_ids(levels, num_image, max(0, levels - num_full))
    if len(data) < needed:
        raise TokenFileError(
            f"expected a header of at least {needed} bytes, got {len(data)}: the token file is truncated; copy it again"
        )
    precision, _, batch_size, height, width, fingerprint = _FIXED.unpack_from(data)[4:]
    numbers = [_LEVEL.unpack_from(data, _FIXED.size + i * _LEVEL.size) for i in range(levels)]
    sizes = struct.unpack_from(f"<{num_image}I", data, _bytes_before_ids(levels, 0, 0))
    # A codebook of one entry takes no bits, so its grid could promise any number of ids in a short file.
    wrong = any(k < 2 or h < 1 or w < 1 for k, h, w in numbers) or any(k < 2 for k in sizes)
    if not levels or min(batch_size, height, width) < 1 or wrong:
        raise TokenFileError(
            f"expected levels, images, sizes and grids of 1 or more and codebooks of 2 or more, got {levels} levels, "
            f"{batch_size} images of {height}x{width} px, (K, h, w) {numbers[:4]}, image codebooks {sizes[:4]}: bytes were "
            "altered; copy it again"
        )
    if precision >= len(PRECISIONS):
        raise TokenFileError(
            f"expected a precision in [0, {len(PRECISIONS)}), got {precision}: bytes were altered; copy it again"
        )
    if not 1 <= num_full <= levels:
        raise TokenFileError(
            f"expected 1 to {levels} full levels, got {num_full}: bytes were altered; copy the file again"
        )
    counts = struct.unpack_from(f"<{levels - num_full}Q", data, _bytes_before_ids(levels, num_image, 0))
    header = TokenHeader(
        codebook_sizes=tuple(k for k, _, _ in numbers),
        grids=tuple((h, w) for _, h, w in numbers),
        batch_size=batch_size,
        image_size=(height, width),
        fingerprint=fingerprint.hex(),
        precision=PRECISIONS[precision],
        sparse_counts=counts,
        image_codebook_sizes=sizes,
    )
    _check_counts(header)
    return header


def write_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a token file whole or not at all.

    Args:
        path: Name of the file, in a directory that exists; an older file is replaced.
        data: All of its bytes.

    Raises:
        TokenFileError: The file cannot be written.
    """
    path = Path(path)
    if not path.name:
        raise TokenFileError(f"expected the name of a token file, got {str(path)!r}: add a file name to the directory")
    try:
        write_bytes(path, [data])
    except OSError as error:
        raise TokenFileError(
            f"expected a place to write token file {path}, got {error.strerror}: check directory and permissions"
        ) from error


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a token file, of which no more than the header is read unless the file's length fits it.

    Args:
        path: Name of the file.

    Raises:
        TokenFileError: There is no such file, it cannot be read, or its header or its length is wrong.
    """
    refuse_lfs_pointer(path, error=TokenFileError)
    try:
        with open(path, "rb") as file:
            start = file.read(_LONGEST_HEADER)
            _check_length(os.fstat(file.fileno()).st_size, parse_header(start))
            return start + file.read()
    except TokenFileError as error:
        raise TokenFileError(f"{os.fspath(path)}: {error}") from None
    except OSError as error:
        raise TokenFileError(
            f"expected a token file at {os.fspath(path)}, got {error.strerror}: check the name"
        ) from error


def _bytes_before_ids(levels: int, image_tokens: int, sparse_levels: int) -> int:
    return _FIXED.size + _LEVEL.size * levels + _SIZE.size * image_tokens + _COUNT.size * sparse_levels


def _bits(codebook_size: int) -> int:
    return (codebook_size - 1).bit_length()  # ceil(log2 K) without rounding


def _checksum(body: bytes | memoryview) -> bytes:
    return hashlib.sha256(body).digest()[:_CHECKSUM_BYTES]


def _check_counts(header: TokenHeader) -> None:
    """Raises TokenFileError for numbers of present cells that no splits make on these grids."""
    counts, cells = header.counts, header.cells
    for level in range(header.num_full, len(counts)):
        (h, w), (fine_h, fine_w) = header.grids[level - 1 : level + 1]
        ratio = fine_h // h
        whole = (fine_h, fine_w) == (h * ratio, w * ratio)
        most = min(ratio**2 * counts[level - 1], cells[level] - 1)
        if not whole or counts[level] % ratio**2 or counts[level] > most:
            raise TokenFileError(
                f"expected whole families of children in sparse level {level}, at most {most} cells of them, got "
                f"{counts[level]} on grids {fine_h}x{fine_w} and {h}x{w}: bytes were altered; copy the file again"
            )


def _check_length(length: int, header: TokenHeader) -> None:
    if length != header.total_bytes:
        fault = "it is truncated" if length < header.total_bytes else "bytes follow its end"
        raise TokenFileError(
            f"expected a token file of {header.total_bytes} bytes by its header, got {length}: {fault}; copy it again"
        )
    _check_cells(header)


def _check_cells(header: TokenHeader) -> None:
    if not header.sparse_counts:
        return  # every cell has an id of a bit or more
    cells, most = sum(header.cells), _MOST_CELLS_PER_BYTE * header.total_bytes
    if cells > most:
        raise TokenFileError(
            f"expected at most {most} cells in a token file of {header.total_bytes} bytes, got {cells}: leave out the finest "
            "levels, by tokens[:n]; a file that is not your own may be made to fill the memory"
        )


def _unpack_image_ids(view: memoryview, header: TokenHeader) -> tuple[np.ndarray, int]:
    """The ids (B, M) int64 of the image tokens, and where the levels begin."""
    start, columns = header.num_bytes, []
    for k, length in zip(header.image_codebook_sizes, header.image_bytes, strict=True):
        columns.append(unpack_ids(np.frombuffer(view[start : start + length], np.uint8), header.batch_size, _bits(k)))
        start += length
    return np.stack(columns, 1) if columns else np.empty((header.batch_size, 0), np.int64), start


def _fill_level(flat: np.ndarray, splits: np.ndarray, coarse: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """A sparse level (B, h, w) of its ids, its packed split bits, and the next coarser level."""
    num_bits = int(np.count_nonzero(coarse >= 0))
    check_filling(splits, num_bits, "split bit")
    bits = np.unpackbits(splits, count=num_bits, bitorder="little").astype(bool)
    present = presence_of_bits(bits, coarse, shape[1] // coarse.shape[1])
    if np.count_nonzero(present) != len(flat):
        raise TokenFileError(
            f"expected {len(flat)} present cells in a sparse level by the header, got {np.count_nonzero(present)} by its split "
            "bits: not `pack` wrote this; encode the image again"
        )
    ids = np.full(shape, ABSENT, np.int64)
    ids[present] = flat
    return ids
