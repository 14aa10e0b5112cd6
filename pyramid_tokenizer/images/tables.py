"""Images in a column of Parquet files, read by number from a copy that is made on first use."""

from __future__ import annotations

import hashlib
import logging
import os
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pyramid_tokenizer.errors import DataError, MissingExtraError
from pyramid_tokenizer.files import replacing
from pyramid_tokenizer.images.columns import ParquetColumns
from pyramid_tokenizer.images.packed import one_line, read_encoded, read_span

CACHE_VARIABLE = "PYRAMID_TOKENIZER_CACHE"
"""Environment variable that names the folder for these copies; ~/.cache/pyramid_tokenizer without it."""

_LOGGER = logging.getLogger(__name__)
_COLUMN_NAMES = frozenset({"image", "img", "jpg", "jpeg", "png", "webp", "photo"})
_ROWS_AT_ONCE = 64  # photos of some MB each still fit in memory
_STEM_BYTES = 100


class ParquetImages:
    """The images in one column of Parquet files; an `ImageSource`.

    Parquet compresses pages of many rows, so reading one row would decode all of its neighbours. On first use the column's
    bytes are therefore copied into a file of the cache, one image after the other and then the int64 offset of each; a row
    is read from there by two seeks, by any number of processes, without an index in memory. Images are compressed already,
    so the copy is hardly larger than the column.

    `datasets.Dataset.from_parquet` was tried in its place (version 5.2). It is as fast to open (4 files of 60 MB: 3.6 s, here
    3.3 s) and faster to read (132 us a row, here 195 us, next to some ms for decoding a JPEG). But it takes names with [, ] or
    * for patterns and then finds no file, fails on a file without rows, does not say which of many files is damaged, and
    takes seconds to import. So this class stays.

    Args:
        files: Parquet files.
        column: Name of a column of image bytes, or of structs {bytes, path} as Hugging Face writes them; None finds it, see
            `find_column`.

    Raises:
        DataError: A file is missing or damaged or has no such column, there is no row at all, or the cache cannot be written.
        MissingExtraError: pyarrow is not installed.
    """

    def __init__(self, files: Sequence[Path], *, column: str | None = None):
        self._files = [str(file) for file in files]
        copies = [_copy_column(file, column) for file in files]
        self._copies = [str(path) for path, _ in copies]
        self._ends = np.cumsum([rows for _, rows in copies])
        if not len(self):
            raise DataError(f"expected rows in {len(files)} Parquet files, the first {self._files[0]}, got none")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def name(self, index: int) -> str:
        """The file's path and the number of the row in it: "photos.parquet:17"."""
        file, row, _ = self._place(index)
        return f"{self._files[file]}:{row}"

    def read(self, index: int) -> Tensor:
        """(3, H, W) float32 in [0, 1].

        Raises:
            ImageError: The row holds no complete image.
        """
        return self.read_resized(index, size=None, jpeg_draft=False)

    def read_resized(self, index: int, *, size: int | None, jpeg_draft: bool) -> Tensor:
        """As `read`, with the short side of `size` pixels; see `images.sources.read_resized`."""
        file, row, rows = self._place(index)
        return read_encoded(_read_copy(self._copies[file], row, rows), size=size, jpeg_draft=jpeg_draft)

    def own_columns(self, names: Sequence[str]) -> ParquetColumns:
        """Other columns of the files; see `images.columns`."""
        return ParquetColumns(self._files, self._ends, names)

    def _place(self, index: int) -> tuple[int, int, int]:
        """Which file an image is in, its row there, and the number of rows of that file."""
        file = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[file - 1]) if file else 0
        return file, index - start, int(self._ends[file]) - start


def find_column(schema: Any, column: str | None, where: str) -> str:
    """The column that holds images: the only one of binary values or {bytes, path}, or the only such one with a usual name.

    Args:
        schema: A `pyarrow.Schema`.
        column: The column's name where the caller knows it.
        where: What the table is called in errors.

    Raises:
        DataError: `column` holds no images, or none was named and not exactly one column can be meant.
    """
    import pyarrow as pa

    def binary(kind: Any) -> bool:
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    def holds_images(kind: Any) -> bool:
        if not pa.types.is_struct(kind):
            return binary(kind)
        return kind.get_field_index("bytes") >= 0 and binary(kind.field("bytes").type)

    candidates = [field.name for field in schema if holds_images(field.type)]
    if column is not None:
        chosen = [name for name in candidates if name == column]
    else:
        usual = [name for name in candidates if name.lower() in _COLUMN_NAMES]
        chosen = candidates if len(candidates) == 1 else usual
    if len(chosen) != 1:
        wanted = "one column of image bytes" if column is None else f"{column!r} as a column of image bytes"
        columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
        fix = (
            f"pass column, one of {', '.join(candidates)}"
            if candidates
            else "only bytes, or {bytes, path}, hold images"
        )
        raise DataError(f"expected {wanted} in {where}, got {columns}: {fix}")
    return chosen[0]


def _copy_column(file: Path, column: str | None) -> tuple[Path, int]:
    """The file in the cache that holds the column's images, written on first use, and the number of rows."""
    from filelock import FileLock  # torch brings it

    parquet = _open_parquet(file)
    column = find_column(parquet.schema_arrow, column, str(file))
    rows, status = parquet.metadata.num_rows, file.stat()
    key = f"1|{file.resolve()}|{status.st_size}|{status.st_mtime_ns}|{column}"  # 1: the layout's version
    folder = Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/pyramid_tokenizer").expanduser()
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    stem = os.fsdecode(os.fsencode(file.stem)[:_STEM_BYTES])  # a name may have 255 bytes, with what follows the stem
    copy = folder / f"{stem}-{digest}.images"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{copy}.lock"):  # several processes of one training start together; one of them writes
            if not copy.exists():
                _LOGGER.info("copying the images of %s to %s", file, copy)
                _write_copy(parquet, file, column, copy)
    except OSError as error:
        raise DataError(
            f"expected to copy the images of {file} to {copy}, got {error}: free some space, or set {CACHE_VARIABLE} to a "
            "folder with room"
        ) from error
    return copy, rows


def _open_parquet(file: Path) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError(
            'expected pyarrow for Parquet files, got none: pip install "pyramid-tokenizer[data]"'
        ) from error
    try:
        return pq.ParquetFile(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"expected a Parquet file, got {one_line(error)} in {str(file)!r}: write it again") from error


def _write_copy(parquet: Any, file: Path, column: str, copy: Path) -> None:
    ends = array("q", [0])
    with replacing(copy) as part, part.open("xb") as target:
        for value in _column_values(parquet, file, column):
            target.write(value or b"")
            ends.append(target.tell())
        target.write(np.asarray(ends, dtype="<i8").tobytes())


def _column_values(parquet: Any, file: Path, column: str) -> Iterator[bytes | None]:
    import pyarrow as pa

    struct = pa.types.is_struct(parquet.schema_arrow.field(column).type)
    try:
        for batch in parquet.iter_batches(_ROWS_AT_ONCE, columns=[f"{column}.bytes" if struct else column]):
            values = batch.column(0)
            yield from (values.flatten()[0] if struct else values).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"expected a complete Parquet file, got {one_line(error)} in {str(file)!r}: write it again"
        ) from error


def _read_copy(path: str, row: int, rows: int) -> bytes:
    """The bytes of one row; the file ends with `rows` + 1 offsets of 8 bytes."""
    try:
        table = os.path.getsize(path) - 8 * (rows + 1)
    except OSError:
        table = 0  # gone: read_span says so
    start, end = np.frombuffer(read_span(path, table + 8 * row, 16), dtype="<i8").tolist()
    return read_span(path, start, end - start)
