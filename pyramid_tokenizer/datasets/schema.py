"""The columns of a token dataset, and a shard's bytes.

    key         string           stable name of the image, unique in the dataset
    source_row  int64            number of the image in the source
    height      int32            of the encoded image in pixels, before padding
    width       int32
    image_tokens list<uintN>     only where the tokenizer has image tokens: their ids, in the smallest type that holds them
    tokens_0    list<uintN>      ids of level 0, the coarsest, row by row from the top left
    tokens_1    list<uintN>      ... one column per level, in the smallest type that holds its ids
    splits_0    list<bool>       only in a sparse dataset, for each level but the finest: which of its cells are split
    ...         any              the source's own columns

In a full dataset a list has h_l * w_l ids, where the grid (h_l, w_l) follows from height, width and the strides in the
manifest (`tokens.geometry.grids_of`). In a sparse one, whose manifest names a `limit`, it has the ids of the present cells
alone. `splits_l` has one boolean for each present cell of level l, row by row: true where all cells of level l + 1 below it
are present, false where none of them is, nor anything below these (`tokens.splits`).

Token columns are dictionary-encoded, which Parquet stores as bit-packed indices of ceil(log2 K) bits: within a few per cent
of what ids take at a fixed rate, in an encoding that every reader of Parquet knows. A boolean takes one bit.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyramid_tokenizer.datasets.manifest import SCHEMA_VERSION, Plan
from pyramid_tokenizer.errors import MissingExtraError
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.tokens.split_bits import split_bits

OWN_COLUMNS = ("key", "source_row", "height", "width")
"""Columns that every token dataset has beside those of its levels."""
IMAGE_COLUMN = "image_tokens"
TOKEN_PREFIX, SPLIT_PREFIX = "tokens_", "splits_"
RENAMED_PREFIX = "source_"
"""Put before a column of the source whose name a token dataset uses itself."""
METADATA_KEY = "pyramid_tokenizer"
"""Of the metadata of a shard's schema, so that a single file tells which tokenizer made it."""
_DICTIONARY_BYTES = 1 << 22  # 4 bytes an entry: codebooks of a million entries
_ZSTD_LEVEL = 3


@dataclass(frozen=True, slots=True)
class Row:
    """An encoded image."""

    key: str
    source_row: int
    image_size: tuple[int, int]
    ids: tuple[NDArray[np.unsignedinteger[Any]], ...]
    """The ids of the present cells per level, of the types of `id_types`."""
    splits: tuple[NDArray[np.bool_], ...] = ()
    """Of a sparse dataset, for each level but the finest: one boolean for each of its present cells."""
    image_ids: NDArray[np.unsignedinteger[Any]] | None = None
    """(M,) the ids of the image tokens; None where the dataset has none."""


def id_types(codebook_sizes: Sequence[int]) -> list[np.dtype[Any]]:
    """The smallest unsigned integer type that holds the ids of each level.

    Example:
        >>> id_types((256, 4096, 65537))
        [dtype('uint8'), dtype('uint16'), dtype('uint32')]
    """
    return [np.min_scalar_type(size - 1) for size in codebook_sizes]


def rows_of(tokens: TokenPyramid, plan: Plan) -> list[tuple[tuple[Any, ...], tuple[Any, ...], Any]]:
    """The ids, the splits and the ids of the image tokens of each image, as `Row` has them.

    Args:
        tokens: Of B images.
        plan: Of the dataset.
    """
    levels, kinds = [ids.cpu().numpy() for ids in tokens.ids], id_types(plan.codebook_sizes)
    image_ids: list[Any] = [None] * tokens.batch_size
    if plan.image_codebook_sizes:
        image_ids = list(tokens.image_ids.cpu().numpy().astype(image_type(plan)))
    if not plan.is_sparse:
        flat = [ids.reshape(len(ids), -1).astype(kind) for ids, kind in zip(levels, kinds, strict=True)]
        return [(tuple(ids), (), own) for ids, own in zip(zip(*flat, strict=True), image_ids, strict=True)]
    images = zip(*levels, strict=True)  # (h_l, w_l) per level
    return [
        (
            tuple(ids[ids >= 0].astype(kind) for ids, kind in zip(image, kinds, strict=True)),
            tuple(split_bits(coarse[None], fine[None]) for coarse, fine in itertools.pairwise(image)),
            own,
        )
        for image, own in zip(images, image_ids, strict=True)
    ]


def image_type(plan: Plan) -> np.dtype[Any]:
    """The type of the ids of image tokens: the smallest that holds those of each."""
    return np.min_scalar_type(max(plan.image_codebook_sizes) - 1)


def token_columns(plan: Plan) -> tuple[list[str], list[str], list[str]]:
    """Names of the columns of the levels' ids, of splits, and of the ids of image tokens.

    Args:
        plan: Of the dataset.
    """
    levels = range(len(plan.strides))
    splits = levels[:-1] if plan.is_sparse else ()
    image = [IMAGE_COLUMN] if plan.image_codebook_sizes else []
    return [f"{TOKEN_PREFIX}{level}" for level in levels], [f"{SPLIT_PREFIX}{level}" for level in splits], image


def name_columns(names: Sequence[str], num_levels: int) -> dict[str, str]:
    """The dataset's name of each column that comes from the source -> its name there.

    A name that a token dataset uses itself, such as "key", gets "source_" before it.

    Example:
        >>> name_columns(["caption", "key"], 3)
        {'caption': 'caption', 'source_key': 'key'}
    """
    taken = {
        *OWN_COLUMNS,
        IMAGE_COLUMN,
        *(f"{prefix}{n}" for prefix in (TOKEN_PREFIX, SPLIT_PREFIX) for n in range(num_levels)),
    }
    renamed = {name: RENAMED_PREFIX + name if name in taken else name for name in names}
    for name in names:  # "source_key" beside "key"
        while list(renamed.values()).count(renamed[name]) > 1:
            renamed[name] = RENAMED_PREFIX + renamed[name]
    return {new: name for name, new in renamed.items()}


def build_schema(plan: Plan, own: Any | None) -> Any:
    """The `pyarrow.Schema` of a dataset's shards.

    Args:
        plan: The dataset's plan.
        own: Schema of the columns that come from the source, by their names there; None for none.
    """
    pa = import_pyarrow()
    fields = [
        pa.field("key", pa.string(), nullable=False),
        pa.field("source_row", pa.int64(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
    ]
    tokens, splits, image = token_columns(plan)
    kinds = [pa.from_numpy_dtype(kind) for kind in id_types(plan.codebook_sizes)] + [pa.bool_()] * len(splits)
    kinds += [pa.from_numpy_dtype(image_type(plan)) for _ in image]
    for name, kind in zip((*tokens, *splits, *image), kinds, strict=True):
        fields.append(pa.field(name, pa.list_(pa.field("element", kind, nullable=False)), nullable=False))
    fields += [own.field(name).with_name(new) for new, name in plan.columns.items()] if own is not None else []
    facts = {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": plan.fingerprint,
        "precision": plan.precision,
        "codebook_sizes": plan.codebook_sizes,
        "strides": plan.strides,
        "image_codebook_sizes": plan.image_codebook_sizes,
        "image_recipe": plan.image_recipe,
        "limit": plan.limit,
        "window_px": plan.window_px,
    }
    return pa.schema(fields, metadata={METADATA_KEY: json.dumps(facts)})


def build_table(plan: Plan, rows: Sequence[Row], own: Any | None) -> Any:
    """The `pyarrow.Table` of a shard.

    Args:
        plan: The dataset's plan.
        rows: Its encoded images, in the order of the source.
        own: Their columns of the source, a `pyarrow.Table` with as many rows; None for none.
    """
    pa = import_pyarrow()
    schema = build_schema(plan, None if own is None else own.schema)
    columns: list[Any] = [
        pa.array([row.key for row in rows], pa.string()),
        pa.array([row.source_row for row in rows], pa.int64()),
        pa.array([row.image_size[0] for row in rows], pa.int32()),
        pa.array([row.image_size[1] for row in rows], pa.int32()),
    ]
    kinds, (_, splits, image) = id_types(plan.codebook_sizes), token_columns(plan)
    levels: list[tuple[Any, list[Any]]] = [(kind, [row.ids[level] for row in rows]) for level, kind in enumerate(kinds)]
    levels += [(np.dtype(bool), [row.splits[level] for row in rows]) for level in range(len(splits))]
    levels += [(image_type(plan), [row.image_ids for row in rows]) for _ in image]
    for kind, lists in levels:
        ends = pa.array(np.cumsum([0, *map(len, lists)], dtype=np.int32))
        values = pa.array(np.concatenate([np.empty(0, kind), *lists]))
        columns.append(pa.ListArray.from_arrays(ends, values, type=schema.field(len(columns)).type))
    columns += [own.column(name) for name in plan.columns.values()] if own is not None else []
    return pa.Table.from_arrays(columns, schema=schema)


def to_parquet(table: Any) -> tuple[bytes, int]:
    """A shard's bytes, and how many of them the columns of tokens take.

    They depend on the table and on pyarrow's version alone.
    """
    import pyarrow.parquet as pq

    tokens = [n for n in table.schema.names if n == IMAGE_COLUMN or n.startswith((TOKEN_PREFIX, SPLIT_PREFIX))]
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        row_group_size=max(1, table.num_rows),
        compression="zstd",
        compression_level=_ZSTD_LEVEL,
        use_dictionary=True,
        dictionary_pagesize_limit=_DICTIONARY_BYTES,
    )
    group = pq.ParquetFile(sink).metadata
    sizes = [
        column.total_compressed_size
        for number in range(group.num_row_groups)
        for column in map(group.row_group(number).column, range(group.num_columns))
        if column.path_in_schema.partition(".")[0] in tokens
    ]
    return sink.getvalue(), sum(sizes)


def import_pyarrow() -> Any:
    """The module `pyarrow`; MissingExtraError where it is not installed."""
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtraError(
            'expected pyarrow for token datasets, got none: pip install "pyramid-tokenizer[data]"'
        ) from error
    return pyarrow
