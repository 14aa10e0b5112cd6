"""`to_megatron`: writes a token dataset as the .bin and .idx files that Megatron-LM and its relatives train on.

    .bin    the integers of all images, one after the other
    .idx    the bytes MMIDIDX and two NULs, uint64 1 (version), uint8 (code of the integers' type), uint64 S, uint64 D,
            int32[S] lengths of sequences, int64[S] their places in .bin in bytes, int64[D] first sequence of each
            document, then S

All little-endian. Here an image is a sequence and a document: S images, D = S + 1.

Source:
    megatron/core/datasets/indexed_dataset.py in NVIDIA/Megatron-LM.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pyramid_tokenizer.checks.arguments import check_path
from pyramid_tokenizer.datasets.sequences import SequenceOrder, check_order, checked_levels, flatten_rows
from pyramid_tokenizer.errors import DatasetError
from pyramid_tokenizer.files import replacing

if TYPE_CHECKING:
    from pyramid_tokenizer.datasets.reader import TokenDataset

_MAGIC, _VERSION = b"MMIDIDX\x00\x00", 1
_CODES = {"int32": 4, "uint16": 8}
_LARGEST_UINT16 = 65_500  # vocabularies from here on get int32, as in Megatron-LM itself
_ROWS = 256
_BLOCK = 1 << 16


def to_megatron(
    ds: TokenDataset, prefix: str | os.PathLike[str], *, levels: int | None = None, order: SequenceOrder = "levels"
) -> tuple[Path, Path]:
    """Writes prefix.bin and prefix.idx: every image is a document, in the integers of `ds.vocabulary`.

    The .idx file is written last, so that a pair which has it is whole.

    Args:
        ds: The dataset.
        prefix: The files' name without ending, in a folder that exists; files of these names are replaced.
        levels: The coarsest levels alone, this many of them. None: those that the dataset reads.
        order: In which order the ids of an image come, as for `TokenDataset.sequences`.

    Returns:
        The two files.

    Raises:
        ConfigError: Levels that there are not, or another order.
        DatasetError: The files cannot be written.
    """
    check_path(prefix, name="prefix")
    check_order(order)
    levels = checked_levels(levels, ds.levels)
    kind = np.dtype("<u2" if ds.vocabulary.size < _LARGEST_UINT16 else "<i4")
    data, index = (Path(f"{os.fspath(prefix)}.{ending}") for ending in ("bin", "idx"))
    lengths = np.empty(len(ds), dtype="<i4")
    try:
        index.unlink(missing_ok=True)  # that of older data does not fit
        with replacing(data) as part, part.open("xb") as file:
            for first in range(0, len(ds), _ROWS):
                rows = flatten_rows(ds, first, min(first + _ROWS, len(ds)), levels=levels, order=order)
                lengths[first : first + len(rows)] = [len(row) for row in rows]
                file.writelines(row.numpy().astype(kind).data for row in rows)
        with replacing(index) as part, part.open("xb") as file:
            _write_index(file, lengths, kind)
    except OSError as error:
        raise DatasetError(
            f"expected to write {str(data)!r} and its index, got {error}: name a folder that exists and has space"
        ) from error
    return data, index


def _write_index(file: BinaryIO, lengths: NDArray[np.int32], kind: np.dtype) -> None:
    file.write(_MAGIC + struct.pack("<QB", _VERSION, _CODES[kind.name]))
    file.write(struct.pack("<QQ", len(lengths), len(lengths) + 1))
    file.write(lengths.data)
    place = 0
    for block in _blocks(lengths):
        ends = place + np.cumsum(block, dtype="<i8") * kind.itemsize
        file.write((ends - block.astype("<i8") * kind.itemsize).data)
        place = int(ends[-1])
    for first in range(0, len(lengths) + 1, _BLOCK):
        file.write(np.arange(first, min(first + _BLOCK, len(lengths) + 1), dtype="<i8").data)


def _blocks(values: NDArray[np.int32]) -> Iterator[NDArray[np.int32]]:
    return (values[first : first + _BLOCK] for first in range(0, len(values), _BLOCK))
