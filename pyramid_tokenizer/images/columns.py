"""Columns that a source has beside its images: captions and labels of tables, texts of tar shards.

They come as pyarrow tables, so that values keep their types on the way into other files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pyramid_tokenizer.errors import DataError, MissingExtraError, did_you_mean
from pyramid_tokenizer.images.packed import PackedStrings, one_line, read_span


class SourceColumns(Protocol):
    """Chosen columns of a source; pickled into worker processes."""

    @property
    def schema(self) -> Any:
        """Names and types, a `pyarrow.Schema`."""
        ...

    def read(self, indices: Sequence[int]) -> Any:
        """A `pyarrow.Table` of `schema` with one row for each number of an image, in the order given."""
        ...


@runtime_checkable
class SourceWithColumns(Protocol):
    """A source that has columns beside its images."""

    def own_columns(self, names: Sequence[str]) -> SourceColumns:
        """The columns of these names, at least one."""
        ...


def open_columns(source: object, names: Sequence[str]) -> SourceColumns | None:
    """Columns of a source by name; None where no name is given.

    Args:
        source: What `open_images` returned.
        names: Columns of a table or a data set; the endings of a tar shard's members, such as "txt" or "json"; or "label" for
            image files, the name of the folder that holds each.

    Raises:
        DataError: The source has no columns, or none of that name; the message lists those it has.
        MissingExtraError: pyarrow is not installed.

    Example:
        >>> from pyramid_tokenizer.images import open_images
        >>> open_columns(open_images(["photos/cat/a.jpg", "photos/dog/a.jpg"]), ["label"]).read([1, 0])["label"].to_pylist()
        ['dog', 'cat']
    """
    if not names:
        return None
    if not isinstance(source, SourceWithColumns):
        raise DataError(
            f"expected no columns for {type(source).__name__}, got {', '.join(names)}: only image files, tables, data sets and "
            "tar shards have columns"
        )
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            'expected pyarrow for columns, got none: pip install "pyramid-tokenizer[data]"'
        ) from error
    return source.own_columns(names)


def check_names(names: Sequence[str], known: Sequence[str], where: str) -> None:
    """Raises DataError for a name that is not among the known ones, or is given twice."""
    for name in names:
        if name not in known:
            listed = ", ".join(known) or "no other column"
            hint = did_you_mean(name, known, otherwise="name one of these")
            raise DataError(f"expected a column of {where} ({listed}), got {name!r}: {hint}")
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise DataError(f"expected every column once, got {twice[0]!r} more than once: leave the others out")


class ParquetColumns:
    """Columns of Parquet files; a `SourceColumns`.

    Args:
        files: Parquet files.
        ends: Number of rows of all files up to and including each.
        names: Columns of the first file; every other file must have them in types that can be converted without loss.
    """

    def __init__(self, files: Sequence[str], ends: NDArray[np.int64], names: Sequence[str]):
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._files, self._ends, self._names = list(files), ends, list(names)
        schema = pq.read_schema(self._files[0])
        check_names(names, schema.names, self._files[0])
        self.schema = pa.schema([schema.field(name).remove_metadata() for name in names])

    def read(self, indices: Sequence[int]) -> Any:
        """A `pyarrow.Table` with one row for each number.

        Raises:
            DataError: A file is damaged, has no such column, or has values of another type.
        """
        import pyarrow as pa

        indices_ = np.asarray(indices, dtype=np.int64)
        files = np.searchsorted(self._ends, indices_, side="right")
        tables, order = [self.schema.empty_table()], []
        for file in np.unique(files):
            (rows,) = np.nonzero(files == file)
            first = int(self._ends[file - 1]) if file else 0
            tables.append(self._read_rows(int(file), indices_[rows] - first))
            order.append(rows)
        table = pa.concat_tables(tables)
        return table.take(np.argsort(np.concatenate(order), kind="stable")) if order else table

    def _read_rows(self, number: int, rows: NDArray[np.int64]) -> Any:
        """The rows of one file, from the row groups that hold them."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self._files[number]
        try:
            with pq.ParquetFile(path) as file:
                counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
                ends = np.cumsum(counts)
                groups = np.unique(np.searchsorted(ends, rows, side="right"))
                starts = np.cumsum([0, *(counts[group] for group in groups)])  # of each group in the table that is read
                table = file.read_row_groups(groups.tolist(), columns=self._names, use_threads=False)
            place = np.searchsorted(groups, np.searchsorted(ends, rows, side="right"))
            first = ends[groups] - np.asarray(counts)[groups]  # row of the file that each group begins with
            return table.select(self._names).take(rows - first[place] + starts[place]).cast(self.schema)
        except (OSError, KeyError, pa.ArrowException) as error:
            raise DataError(
                f"expected the columns {', '.join(self._names)} in {path!r} as in {self._files[0]!r}, got {one_line(error)}: "
                "write the file again, or leave it out"
            ) from error


class DatasetColumns:
    """Columns of a Hugging Face data set; a `SourceColumns`.

    Args:
        dataset: A `datasets.Dataset`.
        names: Some of its columns.
        label: What the data set is called in errors.
    """

    def __init__(self, dataset: Any, names: Sequence[str], label: str):
        import pyarrow as pa

        check_names(names, dataset.column_names, label)
        self._dataset = dataset.select_columns(list(names)).with_format("arrow")
        schema = dataset.features.arrow_schema
        self.schema = pa.schema([schema.field(name).remove_metadata() for name in names])

    def read(self, indices: Sequence[int]) -> Any:
        """A `pyarrow.Table` with one row for each number."""
        return self._dataset[list(indices)].select(self.schema.names).cast(self.schema)


LABEL = "label"


class FolderColumns:
    """The label of image files that lie in a folder for each class; a `SourceColumns`.

    The label is the name of the folder that holds the file, as in `datasets`' imagefolder.

    Args:
        paths: Paths of all files.
        names: The columns that are asked for, which is `LABEL` alone.
        folder: The folder of all classes, in which no image may lie itself; None where it is not known.

    Raises:
        DataError: Another column is asked for, or an image lies in no folder of a class.
    """

    def __init__(self, paths: PackedStrings, names: Sequence[str], folder: Path | None):
        import pyarrow as pa

        check_names(names, (LABEL,), "image files")
        without_label = ("", os.fspath(folder or ""))
        for path in paths:
            if os.path.dirname(path) in without_label:
                raise DataError(
                    f"expected every image in a folder that is named as its class, got {path!r} in none: move it, or leave out "
                    f"the column {LABEL}"
                )
        self._paths = paths
        self.schema = pa.schema([pa.field(LABEL, pa.string())])

    def read(self, indices: Sequence[int]) -> Any:
        """A `pyarrow.Table` with one row for each number."""
        import pyarrow as pa

        labels = [os.path.basename(os.path.dirname(self._paths[index])) for index in indices]
        readable = [label.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for label in labels]
        return pa.table({LABEL: readable}, schema=self.schema)


class TextColumns:
    """Texts of tar shards, such as the members *.txt and *.json, as strings; a `SourceColumns`.

    Args:
        files: Tar files.
        spans: Per column (N, 3): shard, offset and bytes of each sample's text; offset -1 where it has none.
    """

    def __init__(self, files: Sequence[str], spans: dict[str, NDArray[np.int64]]):
        import pyarrow as pa

        self._files, self._spans = list(files), spans
        self.schema = pa.schema([pa.field(name, pa.string()) for name in spans])

    def read(self, indices: Sequence[int]) -> Any:
        """A `pyarrow.Table` with one row for each number; null where a sample has no such member.

        Raises:
            DataError: A member is no UTF-8 text.
        """
        import pyarrow as pa

        columns = {name: [self._text(name, index) for index in indices] for name in self._spans}
        return pa.table(columns, schema=self.schema)

    def _text(self, name: str, index: int) -> str | None:
        shard, offset, size = self._spans[name][index].tolist()
        if offset < 0:
            return None
        data = read_span(self._files[shard], offset, size)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            where = Path(self._files[shard])
            raise DataError(
                f"expected UTF-8 text in the member *.{name} at byte {offset} of {where}, got {one_line(error)}: only texts can "
                "be columns, leave it out"
            ) from error
