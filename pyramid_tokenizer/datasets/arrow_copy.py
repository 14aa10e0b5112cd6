"""The Arrow copy of a token dataset: all rows in one uncompressed file, which is mapped into memory and not read.

Parquet is the truth. The copy is made of it once, checked while it is made, and lies in a cache folder under a name that
follows from the manifest, which holds the checksum of every shard: another dataset has another copy. It may be deleted.
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyramid_tokenizer.datasets.manifest import Plan, ShardRecord, checksum
from pyramid_tokenizer.datasets.schema import (
    IMAGE_COLUMN,
    SPLIT_PREFIX,
    TOKEN_PREFIX,
    build_schema,
    id_types,
    import_pyarrow,
    token_columns,
)
from pyramid_tokenizer.datasets.storage import Storage
from pyramid_tokenizer.errors import DatasetError
from pyramid_tokenizer.files import replacing
from pyramid_tokenizer.tokens.geometry import grids_of

FORMAT = 3
"""Counts changes of the copy; part of its name."""
COPY_NAME = "rows.arrow"
GROUP_ROWS = 16_384
"""Shards are joined until a group has this many rows: few groups are quickly found and cost little memory."""
GROUP_BYTES = 1 << 26
"""Or until its ids take as many bytes, because a group is held in memory while the copy is made."""


@dataclass(frozen=True, slots=True)
class Group:
    """Some rows of the copy; all arrays are views of the mapped file."""

    heights: NDArray[np.int32]
    widths: NDArray[np.int32]
    starts: tuple[NDArray[np.int32], ...]
    """(rows + 1,) per level: the ids of row i are values[starts[i] : starts[i + 1]]."""
    values: tuple[NDArray[np.unsignedinteger[Any]], ...]
    """The ids of all rows per level."""
    split_starts: tuple[NDArray[np.int32], ...]
    """As `starts`, of the splits of each level but the finest; none in a full dataset."""
    splits: tuple[NDArray[np.uint8], ...]
    """The splits of all rows per level, 0 or 1 for each present cell."""
    image_ids: NDArray[np.unsignedinteger[Any]]
    """(rows, M) the ids of the image tokens of all rows."""
    batch: Any
    """The `pyarrow.RecordBatch`."""


def user_folder() -> Path:
    """pyramid-tokenizer/datasets in the user's cache folder: $XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # a relative path there is invalid, by the XDG base directory specification
    folder = Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()
    return folder / "pyramid-tokenizer" / "datasets"


def group_shards(plan: Plan, records: Mapping[int, ShardRecord]) -> list[list[int]]:
    """The shards of each group of the copy, in order; those without rows are in none.

    Args:
        plan: The dataset's plan.
        records: Of all shards, by number.
    """
    widths = [kind.itemsize + plan.is_sparse for kind in id_types(plan.codebook_sizes)]  # a split takes a byte
    groups: list[list[int]] = []
    rows = size = 0
    for shard in range(plan.num_shards):
        record = records[shard]
        if not record.rows:
            continue
        if not groups or rows >= GROUP_ROWS or size >= GROUP_BYTES:
            groups.append([])
            rows = size = 0
        groups[-1].append(shard)
        rows += record.rows
        size += sum(count * width for count, width in zip(record.tokens, widths, strict=True))
    return groups


class ArrowCopy:
    """The mapped file. It is opened at first use in each process, so that a dataset can be pickled.

    Args:
        path: The file.
    """

    def __init__(self, path: Path):
        self.path = path
        self._reader: Any = None
        self._groups: dict[int, Group] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_reader": None, "_groups": {}}

    def group(self, number: int) -> Group:
        """One group of rows.

        Args:
            number: Its number.

        Raises:
            DatasetError: The file is gone or is no copy of this version.
        """
        if number not in self._groups:
            self._groups[number] = _view(self._open().get_batch(number))
        return self._groups[number]

    def _open(self) -> Any:
        if self._reader is None:
            pa = import_pyarrow()
            try:
                mapped = pa.memory_map(str(self.path), "r")
                # No threads of pyarrow: those of a parent process are not there in a forked one, which would wait for them.
                self._reader = pa.ipc.open_file(mapped, options=pa.ipc.IpcReadOptions(use_threads=False))
            except (OSError, pa.ArrowInvalid) as error:
                raise DatasetError(
                    f"expected the copy of a token dataset in {str(self.path)!r}, got {error}: delete the file, and open the "
                    "dataset again, which makes it anew"
                ) from error
        return self._reader


def make_copy(storage: Storage, plan: Plan, records: Mapping[int, ShardRecord], path: Path) -> None:
    """Writes the copy unless it is there; where several processes want it at once, one writes it and the others wait.

    Args:
        storage: Where the dataset lies.
        plan: Its plan.
        records: Of all shards, by number.
        path: The copy's file; its folder is made.

    Raises:
        DatasetError: A shard is missing, damaged or holds what the manifest does not say, which the message names; or the copy
            cannot be written.
    """
    from filelock import FileLock

    if path.exists():
        return
    pa = import_pyarrow()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{path.name}.lock")):
            if path.exists():
                return
            with replacing(path) as part, pa.OSFile(str(part), "wb") as sink:
                batches = read_groups(storage, plan, records)
                first = next(batches)
                with pa.ipc.new_file(sink, first.schema) as writer:
                    writer.write_batch(first)
                    for batch in batches:
                        writer.write_batch(batch)
    except OSError as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(
            f"expected to write an uncompressed copy of the dataset to {str(path)!r}, got {error}: free some space there, or "
            "name another cache_dir"
        ) from error


def read_groups(storage: Storage, plan: Plan, records: Mapping[int, ShardRecord]) -> Iterator[Any]:
    """The rows of the shards, a `pyarrow.RecordBatch` per group, checked.

    Args:
        storage: Where the dataset lies.
        plan: Its plan.
        records: Of all shards, by number.

    Raises:
        DatasetError: As for `make_copy`.
    """
    pa = import_pyarrow()
    for shards in group_shards(plan, records):
        joined = pa.concat_tables([read_shard(storage, plan, records[shard]) for shard in shards]).combine_chunks()
        batches = joined.to_batches()
        if len(batches) != 1:
            raise DatasetError(
                f"expected less than 2 GB per column in {plan.shard_name(shards[0])}, got more: tokenize with fewer shard_images"
            )
        yield batches[0]


def read_shard(storage: Storage, plan: Plan, record: ShardRecord) -> Any:
    """The `pyarrow.Table` of a shard, after every check; columns in dictionary encoding are decoded, and splits are uint8.

    Args:
        storage: Where the dataset lies.
        plan: Its plan.
        record: Of the shard.

    Raises:
        DatasetError: The shard is missing, damaged, or holds what the manifest does not say.
    """
    import pyarrow.parquet as pq

    pa, name = import_pyarrow(), plan.shard_name(record.shard)
    data = storage.read(name)
    check_bytes(data, record, name, storage.address)
    table = pq.read_table(io.BytesIO(data), use_threads=False)
    _check_types(plan, table.schema, name)
    splits, bytes_of_bits = token_columns(plan)[1], pa.list_(pa.field("element", pa.uint8(), nullable=False))
    for index, field in enumerate(table.schema):
        kind = field.type
        if field.name in splits:
            kind = bytes_of_bits  # Arrow's booleans are bits, which would have to be shifted at every reading
        elif pa.types.is_dictionary(kind):  # the file format has one dictionary per column, and shards have their own
            kind = kind.value_type
        if kind != field.type:
            table = table.set_column(index, field.with_type(kind), table.column(index).cast(kind))
    _check_rows(plan, record, _view(table.combine_chunks().to_batches()[0]) if len(table) else None, name)
    return table


def check_bytes(data: bytes, record: ShardRecord, name: str, where: str) -> None:
    """Raises DatasetError where a shard's bytes are not those that the manifest signs.

    Args:
        data: The bytes.
        record: Of the shard.
        name: Of its file.
        where: The dataset's address.
    """
    if len(data) != record.bytes or checksum(data) != record.sha256:
        got = f"{len(data):,} bytes" if len(data) != record.bytes else "other ones"
        raise DatasetError(
            f"expected the {record.bytes:,} bytes of {name} in {where!r} that the manifest signs, got {got}: the shard is "
            "damaged; restore it, or repeat the call of tokenize that made the dataset, which encodes it again"
        )


def _view(batch: Any) -> Group:
    lists, splits = (_numbered(batch, prefix) for prefix in (TOKEN_PREFIX, SPLIT_PREFIX))
    return Group(
        heights=batch.column("height").to_numpy(),
        widths=batch.column("width").to_numpy(),
        starts=tuple(column.offsets.to_numpy() for column in lists),
        values=tuple(column.values.to_numpy() for column in lists),
        split_starts=tuple(column.offsets.to_numpy() for column in splits),
        splits=tuple(column.values.to_numpy() for column in splits),
        image_ids=_image_ids(batch),
        batch=batch,
    )


def _image_ids(batch: Any) -> NDArray[np.unsignedinteger[Any]]:
    """(rows, M), where `_check_rows` has seen that every row has M of them; else (rows, 0)."""
    if IMAGE_COLUMN not in batch.schema.names or not len(batch):
        return np.empty((len(batch), 0), np.uint8)
    column = batch.column(IMAGE_COLUMN)
    counts = np.diff(column.offsets.to_numpy())
    if (counts != counts[0]).any():
        return np.empty((len(batch), 0), np.uint8)
    first = column.offsets[0].as_py()
    return column.values.to_numpy()[first : first + len(batch) * int(counts[0])].reshape(len(batch), int(counts[0]))


def _numbered(batch: Any, prefix: str) -> list[Any]:
    """The columns of the prefix and 0, 1, 2, ..."""
    names = itertools.takewhile(set(batch.schema.names).__contains__, (f"{prefix}{n}" for n in itertools.count()))
    return [batch.column(name) for name in names]


def _check_types(plan: Plan, schema: Any, name: str) -> None:
    """Columns of levels must have the types that `tokenize` gives them: a signed type could hold a negative id."""
    expected = build_schema(plan, None)
    for column in itertools.chain(*token_columns(plan)):
        kind = schema.field(column).type if column in schema.names else "no such column"
        if kind != expected.field(column).type:
            raise _foreign(name, f"a column {column} of type {expected.field(column).type}", kind)


def _check_rows(plan: Plan, record: ShardRecord, group: Group | None, name: str) -> None:
    """Every row must be a pyramid of the plan's tokenizer: rows are trusted from here on."""
    found = 0 if group is None else len(group.heights)
    if found != record.rows:
        raise _foreign(name, f"{record.rows} rows", found)
    if group is None:
        return
    if len(group.values) != len(plan.strides):
        raise _foreign(name, f"{len(plan.strides)} levels", len(group.values))
    wanted = np.array(plan.image_codebook_sizes, np.int64)
    if group.image_ids.shape[1] != len(wanted):
        raise _foreign(name, f"{len(wanted)} image tokens in every row", group.image_ids.shape[1] or "others")
    if (group.image_ids >= wanted).any():
        raise _foreign(name, f"image tokens below {wanted.tolist()}", group.image_ids.max(0).tolist())
    for level, (starts, ids) in enumerate(zip(group.starts, group.values, strict=True)):
        _check_counts(name, f"ids of level {level}", starts, _expected_ids(plan, group, level))
        if len(ids) and int(ids.max()) >= plan.codebook_sizes[level]:
            raise _foreign(name, f"ids of level {level} below {plan.codebook_sizes[level]}", int(ids.max()))
        if level < len(group.splits):
            _check_counts(name, f"splits of level {level}", group.split_starts[level], np.diff(starts))


def _expected_ids(plan: Plan, group: Group, level: int) -> NDArray[np.int64]:
    """(rows,) how many ids of a level each row must have."""
    if level and plan.is_sparse:
        ratio, before = (
            plan.strides[level - 1] // plan.strides[level],
            np.cumsum(group.splits[level - 1], dtype=np.int64),
        )
        return ratio**2 * np.diff(np.concatenate([[0], before])[group.split_starts[level - 1]])
    sizes, kinds = np.unique(np.stack([group.heights, group.widths]), axis=1, return_inverse=True)
    grids = [grids_of((int(height), int(width)), plan.strides)[level] for height, width in sizes.T]
    return np.array([h * w for h, w in grids], dtype=np.int64)[kinds.reshape(-1)]


def _check_counts(name: str, what: str, starts: NDArray[np.int32], expected: NDArray[np.int64]) -> None:
    wrong = np.flatnonzero(np.diff(starts) != expected)
    if len(wrong):
        row = int(wrong[0])
        raise _foreign(name, f"{expected[row]} {what} in row {row}", int(np.diff(starts)[row]))


def _foreign(name: str, expected: str, got: object) -> DatasetError:
    return DatasetError(
        f"expected {expected} in {name}, got {got}: the shard was not written by tokenize; make it again"
    )
