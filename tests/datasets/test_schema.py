"""The columns of a dataset, its files on other storage, and readers that do not know this library."""

from __future__ import annotations

import io
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pyramid_tokenizer.datasets.locks import only_writer
from pyramid_tokenizer.datasets.manifest import Plan
from pyramid_tokenizer.datasets.schema import Row, build_table, to_parquet
from pyramid_tokenizer.datasets.storage import open_storage
from pyramid_tokenizer.errors import DatasetError, DatasetInUseError
from tests.datasets.conftest import files_of


def plan_of(codebook_sizes: tuple[int, ...]) -> Plan:
    return Plan(
        fingerprint="0" * 64,
        precision="float32",
        codebook_sizes=codebook_sizes,
        strides=(32, 16, 8),
        image_recipe={"version": 1, "size": 256, "jpeg_draft": False},
        batch_size=1,
        shard_images=1024,
        images=1024,
        keys_sha256="",
        columns={},
    )


@pytest.mark.parametrize("codebook_sizes", [(4096, 4096, 4096), (4096, 1024, 8192), (100, 1000, 256)])
def test_token_columns_of_a_full_shard_take_hardly_more_than_their_fixed_rate(codebook_sizes):
    """Ids that are all equally frequent, which nothing can compress: the worst case."""
    rng, cells = np.random.default_rng(0), (64, 256, 1024)
    ids = [
        rng.integers(0, k, (256, n)).astype(np.min_scalar_type(k - 1))
        for k, n in zip(codebook_sizes, cells, strict=True)
    ]
    rows = [Row(f"{row}", row, (256, 256), tuple(level[row] for level in ids)) for row in range(256)]
    table = build_table(plan_of(codebook_sizes), rows, None)
    data, token_bytes = to_parquet(table)
    least = 256 * sum(n * math.log2(k) / 8 for k, n in zip(codebook_sizes, cells, strict=True))
    assert least < token_bytes <= 1.2 * least
    assert data == to_parquet(table)[0]
    assert pq.read_table(io.BytesIO(data)).equals(table)


def test_a_shard_without_a_row_has_the_columns_of_the_others():
    own = pa.table({"label": pa.array([], pa.int8())})
    table = build_table(plan_of((4, 4, 4)), [], own)
    assert pq.read_table(io.BytesIO(to_parquet(table)[0])).schema.equals(table.schema)


@pytest.mark.slow
def test_hugging_face_datasets_streams_the_shards(write, tmp_path, shared_photos):
    datasets = pytest.importorskip("datasets")
    write(tmp_path / "tokens")
    expected = pq.read_table(tmp_path / "tokens" / "data").to_pylist()
    files = str(tmp_path / "tokens" / "data" / "*.parquet")
    streamed = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    assert list(streamed) == expected
    # the folder alone is enough: its names are those of the shards of a split
    assert list(datasets.load_dataset(str(tmp_path / "tokens"), split="train", streaming=True)) == expected


@pytest.fixture
def memory():
    """An address of fsspec's file system in memory, empty before and after."""
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield "memory://bucket/tokens"
    files.store.clear()


def test_an_address_of_fsspec_gets_the_same_files_and_goes_on_too(write, tmp_path, memory):
    write(tmp_path / "tokens")
    assert write(memory).new_shards == 3
    storage = open_storage(memory)
    assert {name: storage.read(name) for name in storage.sizes()} == files_of(tmp_path / "tokens")
    storage.write("data/train-00002-of-00003.parquet", b"cut")
    assert write(memory).new_shards == 1
    assert {name: storage.read(name) for name in storage.sizes()} == files_of(tmp_path / "tokens")


def test_a_remote_writer_that_is_at_work_is_respected_and_one_that_is_gone_is_not(memory):
    storage = open_storage(memory)
    second = only_writer(storage, beat_seconds=0.01)
    with only_writer(storage, beat_seconds=0.005), pytest.raises(DatasetInUseError, match="memory://"), second:
        pass
    storage.write(".lock", b"of a process that is gone")
    with only_writer(storage, beat_seconds=0.001):
        assert storage.read(".lock") != b"of a process that is gone"
    assert storage.sizes() == {}


@pytest.mark.parametrize("address", ["nowhere://bucket", "memory://bucket/no/such"])
def test_an_address_that_nothing_knows_and_a_file_that_is_missing_are_named(address):
    with pytest.raises(DatasetError, match=address[:9]):
        open_storage(address).read("manifest.json")
