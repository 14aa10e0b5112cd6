"""`TokenDataset`: rows come back as they were encoded, through loaders of every kind, and damage is named."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from pyramid_tokenizer.datasets import TokenDataset, arrow_copy, collate_by_size
from pyramid_tokenizer.errors import ConfigError, DatasetError, TokenError
from pyramid_tokenizer.images import read_image
from tests.datasets.conftest import DAMAGED

SHARDS = 3


@pytest.fixture(scope="module")
def keys(shared_photos) -> list[str]:
    every = sorted(path.relative_to(shared_photos).as_posix() for path in shared_photos.rglob("*.png"))
    return [key for key in every if key != DAMAGED]


def test_rows_are_what_encode_gives_by_key(ds, keys, shared_photos, toy_tokenizer):
    assert len(ds) == len(keys) == 11
    for number, row in enumerate(ds):
        assert (row.key, row.row) == (keys[number], number)
        assert row.tokens == toy_tokenizer.encode(read_image(shared_photos / row.key))
        assert row.tokens.precision == "float32"
    assert ds[-1].key == keys[-1]


@pytest.mark.parametrize("asked", [[5, 0, 10, 0, 3, 4], [], list(range(11))])
def test_many_rows_at_once_are_single_rows_in_the_order_asked_for(ds, asked):
    rows = ds.__getitems__(asked)
    assert [row.row for row in rows] == asked
    assert all(
        row.tokens == ds[number].tokens and row.key == ds[number].key for row, number in zip(rows, asked, strict=True)
    )
    assert sorted(n for part in rows.by_size() for n in part.rows.tolist()) == sorted(asked)


def test_a_prefix_of_levels_is_read_alone(written, ds):
    coarse = TokenDataset(written, levels=2, cache_dir=written.parent / "cache")
    assert [row.tokens for row in coarse] == [row.tokens[:2] for row in ds]
    with pytest.raises(ConfigError, match="1 to 3 levels, got 4"):
        TokenDataset(written, levels=4, cache_dir=written.parent / "cache")


def test_rows_of_one_size_become_a_batch_and_other_rows_are_refused(ds):
    same = [number for number in range(11) if ds[number].tokens.image_size == (32, 40)]
    batch = default_collate(ds.__getitems__(same))
    assert batch.keys == tuple(ds[number].key for number in same)
    assert batch.rows.tolist() == same
    singles = default_collate([ds[number] for number in same])
    assert batch.tokens == singles.tokens
    assert singles.keys == batch.keys
    with pytest.raises(TokenError, match="3 sizes"):
        default_collate(ds.__getitems__(range(11)))


def test_rows_of_several_sizes_become_a_batch_for_each_whoever_gathered_them(ds):
    several = list(range(11))
    together, single = collate_by_size(ds.__getitems__(several)), collate_by_size([ds[number] for number in several])
    assert [batch.tokens.image_size for batch in together] == [(32, 32), (32, 40), (40, 32)]
    assert [batch.keys for batch in single] == [batch.keys for batch in together]
    assert all(one.tokens == other.tokens for one, other in zip(single, together, strict=True))
    samples = [{"tokens": ds[number].tokens, "label": number} for number in several]
    mixed = collate_by_size(samples)
    assert [batch["tokens"] for batch in mixed] == [batch.tokens for batch in together]
    assert [batch["label"].tolist() for batch in mixed] == [batch.rows.tolist() for batch in together]


def test_own_columns_come_along(tmp_path, write, write_parquet, encoded):
    source = write_parquet(
        tmp_path / "a.parquet", image=encoded, caption=list("abcde"), score=[0.5, None, 2.0, 3.0, 4.0]
    )
    write(tmp_path / "tokens", source, columns=("caption", "score"), size=32, shard_images=2)
    ds = TokenDataset(tmp_path / "tokens", cache_dir=tmp_path)
    assert ds.columns == ("caption", "score")
    assert [row.columns["caption"] for row in ds.__getitems__([4, 0, 1, 2])] == ["e", "a", "b", "c"]
    assert ds[1].columns == {"caption": "b", "score": None}


def test_rows_outside_are_index_errors(ds):
    for index in (11, -12):
        with pytest.raises(IndexError, match="11"):
            ds[index]
    with pytest.raises(IndexError):
        ds.__getitems__([0, -1])


def test_the_copy_is_made_once_and_found_again_by_the_manifest(written, ds, monkeypatch):
    monkeypatch.setattr(arrow_copy, "read_shard", lambda *_: pytest.fail("read"))
    again = TokenDataset(written, cache_dir=written.parent / "cache")
    assert again[3].tokens == ds[3].tokens
    assert sorted(path.name for path in ds.cache_folder.iterdir()) == ["rows.arrow", "rows.arrow.lock"]


def test_rows_in_several_groups_are_found(written, tmp_path, ds, monkeypatch):
    monkeypatch.setattr(arrow_copy, "GROUP_ROWS", 1)
    small = TokenDataset(written, cache_dir=tmp_path)
    assert small.num_groups == SHARDS
    assert [row.tokens for row in small.__getitems__([8, 1, 3, 4])] == [ds[n].tokens for n in (8, 1, 3, 4)]
    small.verify()


def test_any_address_of_fsspec_is_read(written, tmp_path, ds):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.put(str(written), "/tokens", recursive=True)
    try:
        remote = TokenDataset("memory://tokens", cache_dir=tmp_path)
        assert remote[7].tokens == ds[7].tokens
        remote.verify()
    finally:
        memory.rm("/tokens", recursive=True)


@pytest.fixture
def copy(written, tmp_path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "tokens"))


def test_a_damaged_shard_is_named_when_it_is_first_read_and_all_of_them_by_verify(copy, tmp_path):
    ds = TokenDataset(copy, cache_dir=tmp_path / "cache")
    ds.verify()
    first, _, last = sorted((copy / "data").iterdir())
    first.write_bytes(first.read_bytes()[:-1])
    last.unlink()
    with pytest.raises(DatasetError) as caught:
        ds.verify()
    assert first.name in str(caught.value)
    assert last.name in str(caught.value)
    with pytest.raises(DatasetError, match=first.name):
        TokenDataset(copy, cache_dir=tmp_path / "other")
    assert not list((tmp_path / "other").rglob("*.arrow"))


def test_a_damaged_copy_is_found_by_verify(copy, tmp_path):
    ds = TokenDataset(copy, cache_dir=tmp_path / "cache")
    path = ds.cache_folder / "rows.arrow"
    data = bytearray(path.read_bytes())
    place = data.index(np.asarray(ds[0].tokens.numpy()[2], np.uint8).tobytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="rows.arrow"):
        TokenDataset(copy, cache_dir=tmp_path / "cache").verify()


@pytest.mark.parametrize(
    ("change", "fact"), [({"codebook_sizes": [2, 16, 64]}, "level 0 below 2"), ({"strides": [32, 16, 4]}, "level 2")]
)
def test_shards_that_do_not_hold_what_the_manifest_says_are_refused(copy, tmp_path, change, fact):
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(DatasetError, match=fact):
        TokenDataset(copy, cache_dir=tmp_path)


def test_a_dataset_without_a_row_is_refused(copy, tmp_path):
    manifest = json.loads((copy / "manifest.json").read_text())
    for record in manifest["shards"]:
        record["rows"] = 0
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DatasetError, match="expected rows"):
        TokenDataset(copy, cache_dir=tmp_path / "cache")


def test_incomplete_newer_and_missing_datasets_are_refused(copy, tmp_path):
    with pytest.raises(DatasetError, match=r"manifest\.json"):
        TokenDataset(tmp_path / "nothing")
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 99}))
    with pytest.raises(DatasetError, match="99"):
        TokenDataset(copy, cache_dir=tmp_path)


def test_a_pickled_dataset_opens_the_copy_again(ds):
    again = pickle.loads(pickle.dumps(ds))
    assert again[4].tokens == ds[4].tokens
    assert len(pickle.dumps(ds)) < 5000


def test_a_loader_reads_a_rank_and_the_sampler_goes_on_where_it_was_used(ds):
    sampler = ds.sampler(1, 2, seed=4)
    loader = DataLoader(ds, batch_size=2, sampler=sampler, collate_fn=collate_by_size)
    order = list(ds.sampler(1, 2, seed=4))
    seen = [[row for part in batch for row in part.rows.tolist()] for batch in loader]
    assert [sorted(rows) for rows in seen] == [sorted(order[i : i + 2]) for i in (0, 2, 4)]
    sampler.advance(order[:2])
    assert sampler.state_dict() == {"seed": 4, "epoch": 0, "position": 4, "dataset": ds.checksum}


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_loaders_of_each_start_method_read_all_rows(ds, start):
    ds[0]  # mapped before the fork
    loader = DataLoader(ds, batch_size=3, num_workers=2, multiprocessing_context=start, collate_fn=list)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
        rows = [row for batch in loader for row in batch]
    assert [row.key for row in rows] == [row.key for row in ds]
    assert all(torch.equal(row.tokens.ids[2], ds[row.row].tokens.ids[2]) for row in rows)
