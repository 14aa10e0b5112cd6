"""Datasets of sparse pyramids: an image has as many tokens as it needs, and all that reads full ones reads them."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import math
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch.utils.data import default_collate

from pyramid_tokenizer.datasets import TokenDataset, arrow_copy, estimate
from pyramid_tokenizer.datasets.manifest import checksum, fixed_bits
from pyramid_tokenizer.datasets.schema import Row, build_table, to_parquet
from pyramid_tokenizer.datasets.storage import LocalStorage
from pyramid_tokenizer.errors import ConfigError, DatasetError
from pyramid_tokenizer.images import read_image
from tests.datasets.conftest import QUALITY, files_of
from tests.datasets.test_schema import plan_of


def test_a_row_is_what_encode_gives_within_the_limit(sparse_ds, shared_photos, toy_tokenizer):
    counts = []
    for row in sparse_ds:
        assert row.tokens == toy_tokenizer.encode(read_image(shared_photos / row.key), quality=QUALITY)
        counts.append(row.tokens.num_tokens)
    assert len(set(counts)) > 2
    assert sparse_ds.plan.limit == {"quality": QUALITY}


def test_columns_hold_present_ids_and_a_boolean_for_each_cell_that_may_be_split(written_sparse, sparse_ds):
    table = pq.read_table(written_sparse / "data")
    names = ["tokens_0", "tokens_1", "tokens_2", "splits_0", "splits_1"]
    assert table.schema.names == ["key", "source_row", "height", "width", *names, "image_tokens"]
    assert str(table.schema.field("splits_1").type) == "list<element: bool not null>"
    for row, tokens in zip(table.to_pylist(), (row.tokens for row in sparse_ds), strict=True):
        levels = [ids[0] for ids in tokens.ids]
        assert row["image_tokens"] == tokens.image_ids[0].tolist()
        assert [row[f"tokens_{n}"] for n in range(3)] == [ids[ids >= 0].tolist() for ids in levels]
        split = [(fine[::2, ::2] >= 0)[coarse >= 0] for coarse, fine in itertools.pairwise(levels)]
        assert [row[f"splits_{n}"] for n in range(2)] == [bits.tolist() for bits in split]


@pytest.mark.parametrize("asked", [[5, 0, 10, 0, 3, 4], [], list(range(11))])
def test_many_rows_at_once_are_single_rows_in_the_order_asked_for(sparse_ds, asked):
    rows = sparse_ds.__getitems__(asked)
    assert [row.tokens for row in rows] == [sparse_ds[number].tokens for number in asked]


def test_prefixes_batches_groups_and_pickles_are_read(written_sparse, sparse_ds, tmp_path, monkeypatch):
    for levels in (1, 2):
        coarse = TokenDataset(written_sparse, levels=levels, cache_dir=written_sparse.parent / "cache")
        assert [row.tokens for row in coarse] == [row.tokens[:levels] for row in sparse_ds]
        assert coarse.columns == ()
    same = [number for number in range(11) if sparse_ds[number].tokens.image_size == (32, 40)]
    batch = default_collate(sparse_ds.__getitems__(same))
    assert batch.tokens == default_collate([sparse_ds[number] for number in same]).tokens
    monkeypatch.setattr(arrow_copy, "GROUP_ROWS", 1)
    small = TokenDataset(written_sparse, cache_dir=tmp_path)
    assert small.num_groups == 3
    assert [row.tokens for row in small.__getitems__([8, 1, 3])] == [sparse_ds[n].tokens for n in (8, 1, 3)]
    small.verify()


def test_bytes_do_not_depend_on_readers_or_on_where_a_run_ended(written_sparse, write, tmp_path, monkeypatch):
    plain = LocalStorage.write

    def stop(self, name, data):
        if "00001-of" in name:
            raise KeyboardInterrupt
        plain(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "tokens", quality=QUALITY, readers=3)
    for other, names in (
        ({"quality": 0.5}, "limit.*0.5.*in place of.*0.3"),
        ({"max_tokens": 20}, "limit.*max_tokens"),
        ({}, "limit {} in place of"),
        ({"quality": QUALITY, "levels": 2}, "levels 2 in place of 3:"),
    ):
        with pytest.raises(DatasetError, match=names):
            write(tmp_path / "tokens", **other)
    assert write(tmp_path / "tokens", quality=QUALITY).new_shards == 2
    assert files_of(tmp_path / "tokens") == files_of(written_sparse)


@pytest.mark.parametrize(
    "limit",
    [{"quality": 0.4}, *(pytest.param(x, marks=pytest.mark.slow) for x in ({"max_tokens": 20}, {"target_psnr": 22}))],
)
def test_a_row_does_not_depend_on_the_images_that_are_encoded_with_it(write, tmp_path, shared_photos, limit):
    write(tmp_path / "many", batch_size=3, shard_images=12, **limit)
    write(tmp_path / "one", [shared_photos / "b" / "07.png"], batch_size=3, **limit)
    many, one = (pq.read_table(tmp_path / name / "data").to_pylist() for name in ("many", "one"))
    (same,) = [row for row in many if row["key"] == "b/07.png"]
    names = [name for name in same if name.startswith(("tokens_", "splits_"))]
    assert len(names) == 5
    assert [one[0][name] for name in names] == [same[name] for name in names]


@pytest.mark.slow
def test_processes_write_the_bytes_of_a_single_one(written_sparse, write, tmp_path):
    write(tmp_path / "there", workers=2, quality=QUALITY)
    assert files_of(tmp_path / "there") == files_of(written_sparse)


def test_detail_levels_are_stored_where_they_are_asked_for(write, tmp_path, detailed_tokenizer, shared_photos):
    photo = shared_photos / "a" / "00.png"
    for name, options in (
        ("full", {"levels": 3}),
        ("sparse", {"quality": 0.5}),
        ("base", {"quality": 0.5, "levels": 2}),
    ):
        write(tmp_path / name, [photo], model=detailed_tokenizer, **options)
        (row,) = TokenDataset(tmp_path / name, cache_dir=tmp_path / "cache")
        assert row.tokens == detailed_tokenizer.encode(photo, **options)
        assert len(row.tokens) == options.get("levels", 3)


@pytest.mark.parametrize("options", [{"levels": 4}, {"levels": 0}, {"levels": 1, "quality": 0.5}, {"quality": 2.0}])
def test_levels_and_limits_that_there_are_not_are_refused(write, tmp_path, options):
    with pytest.raises(ConfigError, match="quality" if "quality" in options else "levels"):
        write(tmp_path / "tokens", **options)
    assert not list(tmp_path.glob("tokens/[!.]*"))


def test_an_image_with_more_cells_than_tokens_are_allowed_is_listed(write, tmp_path, shared_photos, toy_tokenizer):
    report = write(
        tmp_path / "tokens", max_tokens=3
    )  # 32 x 32 px have one cell on level 0, others two, and all have two image tokens
    assert (report.rows, report.errors) == (3, 9)
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "tokens" / "errors.jsonl").read_text().splitlines()]
    assert sum("max_tokens of 4 or more" in reason for reason in reasons) == 8
    found = estimate(shared_photos, model=toy_tokenizer, sample=12, max_tokens=3, workers=1)
    assert (found.unreadable, found.tokens_per_image) == (9, 3)


def test_images_that_miss_their_target_are_counted_and_keep_all_tokens(write, tmp_path, shared_photos):
    source = [shared_photos / "a" / "00.png", shared_photos / "b" / "01.png"]
    assert write(tmp_path / "low", source, target_psnr=10).missed == 0
    report = write(tmp_path / "high", source, target_psnr=50)
    assert report.missed == json.loads((tmp_path / "high" / "manifest.json").read_text())["missed"] == 2
    assert write(tmp_path / "high", source, target_psnr=50).missed == 2  # read back
    assert not any(row.tokens.is_sparse for row in TokenDataset(tmp_path / "high", cache_dir=tmp_path))


def test_an_estimate_tells_the_tokens_and_bytes_of_the_limit(toy_tokenizer, shared_photos, sparse_ds):
    found = estimate(shared_photos, model=toy_tokenizer, sample=12, quality=QUALITY, workers=1)
    assert found.tokens_per_image == pytest.approx(sum(row.tokens.num_tokens for row in sparse_ds) / 11)
    full = estimate(shared_photos, model=toy_tokenizer, sample=12, workers=1)
    assert found.bytes_per_image < full.bytes_per_image


def test_an_example_image_finds_its_own_row(sparse_ds, toy_tokenizer, shared_photos):
    row = sparse_ds[7]
    for example in (shared_photos / row.key, row.tokens):
        first = sparse_ds.search(example, top=1, model=toy_tokenizer)[0]
        assert (first.row, first.score) == (7, pytest.approx(1, abs=1e-5))


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda row: row["splits_0"].pop(), "splits of level 0 in row 0"),
        (lambda row: row.update(splits_0=[not row["splits_0"][0], *row["splits_0"][1:]]), "ids of level 1 in row 0"),
        (lambda row: row["tokens_2"].pop(), "ids of level 2 in row 0"),
        (lambda row: row["image_tokens"].pop(), "2 image tokens in every row"),
        (lambda row: row["image_tokens"].append(0), "2 image tokens in every row"),
        (lambda row: row.update(image_tokens=[0, 3]), r"image tokens below \[5, 3\]"),
        (lambda row: row.pop("image_tokens"), "a column image_tokens.* no such column"),
        (lambda row: row.pop("splits_1"), "a column splits_1.* no such column"),
        (
            lambda row: row.update(tokens_1=[-1, *row["tokens_1"][1:]]),
            r"a column tokens_1.*uint8.*, got list<element: int8",
        ),
    ],
)
def test_shards_whose_splits_do_not_fit_their_ids_are_refused(written_sparse, tmp_path, change, fact):
    copy = shutil.copytree(written_sparse, tmp_path / "tokens")
    manifest = json.loads((copy / "manifest.json").read_text())
    shard = manifest["shards"][0]
    table = pq.read_table(copy / shard["file"])
    rows = table.to_pylist()
    for row in rows:
        change(row)
    signed = pa.list_(pa.field("element", pa.int8(), nullable=False))
    fields = [field for field in table.schema if field.name in rows[0]]
    fields = [field.with_type(signed) if -1 in rows[0][field.name] else field for field in fields[4:]]
    fields = [*list(table.schema)[:4], *fields]
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(fields)), copy / shard["file"])
    data = (copy / shard["file"]).read_bytes()
    shard |= {"bytes": len(data), "sha256": checksum(data)}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DatasetError, match=fact):
        TokenDataset(copy, cache_dir=tmp_path)


def test_columns_of_random_splits_and_ids_take_hardly_more_than_their_fixed_rate():
    """Half of all cells are split, and all ids are equally frequent, which nothing can compress: the worst case."""
    rng, rows = np.random.default_rng(0), []
    plan = dataclasses.replace(plan_of((4096, 1024, 8192)), limit={"quality": 0.5})
    for number in range(256):
        counts, splits = [64], []
        for _ in range(2):
            splits.append(rng.random(counts[-1]) < 0.5)
            counts.append(4 * int(splits[-1].sum()))
        kinds = zip(plan.codebook_sizes, counts, strict=True)
        ids = tuple(rng.integers(0, k, n).astype(np.uint16) for k, n in kinds)
        rows.append(Row(f"{number}", number, (256, 256), ids, tuple(splits)))
    table = build_table(plan, rows, None)
    data, token_bytes = to_parquet(table)
    tokens = [sum(len(row.ids[level]) for row in rows) for level in range(3)]
    least = sum(n * math.log2(k) for n, k in zip(tokens, plan.codebook_sizes, strict=True)) + tokens[0] + tokens[1]
    assert fixed_bits(plan, tokens, 256) == least
    assert least / 8 < token_bytes <= 1.2 * least / 8
    assert pq.read_table(io.BytesIO(data)).equals(table)
