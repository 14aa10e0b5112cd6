"""`tokenize`: what a dataset holds, and that neither interruptions nor who encodes change a byte of it."""

from __future__ import annotations

import errno
import hashlib
import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pyramid_tokenizer.datasets import TokenDataset, estimate, storage, writer
from pyramid_tokenizer.datasets.storage import LocalStorage
from pyramid_tokenizer.encoding import by_windows, encoder
from pyramid_tokenizer.errors import BackboneError, ConfigError, DataError, DatasetError, ImageFileError
from pyramid_tokenizer.images import read_image
from tests.datasets.conftest import DAMAGED, files_of


@pytest.fixture(scope="module")
def whole(tmp_path_factory, toy_tokenizer, shared_photos):
    """A dataset of the shared photos. Never change it."""
    out = tmp_path_factory.mktemp("whole") / "tokens"
    writer.tokenize(shared_photos, out, model=toy_tokenizer, workers=0, shard_images=4)
    return out


def test_rows_hold_the_ids_of_encode_by_key_and_place(whole, shared_photos, toy_tokenizer):
    rows = pq.read_table(whole / "data").to_pylist()
    every = sorted(path.relative_to(shared_photos).as_posix() for path in shared_photos.rglob("*.png"))
    assert [row["key"] for row in rows] == [key for key in every if key != DAMAGED]
    for row in rows:
        tokens = toy_tokenizer.encode(read_image(shared_photos / row["key"]))
        assert (row["height"], row["width"]) == tokens.image_size
        assert [row[f"tokens_{level}"] for level in range(3)] == [ids.flatten().tolist() for ids in tokens.ids]
        assert every[row["source_row"]] == row["key"]


def test_columns_are_of_the_smallest_types_and_each_file_tells_its_tokenizer(whole, toy_tokenizer):
    for file in (whole / "data").iterdir():
        schema = pq.read_schema(file)
        assert str(schema.field("tokens_2").type) == "list<element: uint8 not null>"
        facts = json.loads(schema.metadata[b"pyramid_tokenizer"])
        assert (facts["fingerprint"], facts["precision"]) == (toy_tokenizer.fingerprint, "float32")


def test_the_manifest_counts_and_signs_every_file_and_damaged_images_are_listed(whole, toy_tokenizer):
    manifest = json.loads((whole / "manifest.json").read_text())
    assert (manifest["schema_version"], manifest["images"], manifest["rows"], manifest["errors"]) == (4, 12, 11, 1)
    assert [shard["rows"] for shard in manifest["shards"]] == [4, 4, 3]
    for shard in manifest["shards"]:
        data = (whole / shard["file"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard["bytes"], shard["sha256"])
        table = pq.read_table(whole / shard["file"])
        assert shard["tokens"] == [len(table[f"tokens_{level}"].combine_chunks().flatten()) for level in range(3)]
    (failure,) = map(json.loads, (whole / "errors.jsonl").read_text().splitlines())
    assert (failure["key"], failure["source_row"]) == (DAMAGED, 8)
    assert "truncated" in failure["reason"]
    assert {path.name for path in whole.iterdir()} == {".lock", "data", "errors.jsonl", "manifest.json"}


def test_a_second_call_writes_nothing(whole, write, monkeypatch):
    monkeypatch.setattr(LocalStorage, "write", lambda *_: pytest.fail("wrote"))
    report = write(whole)
    assert (report.rows, report.errors, report.shards, report.new_shards) == (11, 1, 3, 0)


@pytest.mark.parametrize("readers", [3])
def test_bytes_do_not_depend_on_threads_that_read(whole, write, tmp_path, readers):
    write(tmp_path / "tokens", readers=readers)
    assert files_of(tmp_path / "tokens") == files_of(whole)


def test_a_row_does_not_depend_on_the_images_that_are_encoded_with_it(write, tmp_path, shared_photos):
    write(tmp_path / "many", batch_size=3, shard_images=12)
    write(tmp_path / "one", [shared_photos / "b" / "07.png"], batch_size=3)
    many, one = (pq.read_table(tmp_path / name / "data").to_pylist() for name in ("many", "one"))
    names = [f"tokens_{level}" for level in range(3)]
    (same,) = [row for row in many if row["key"] == "b/07.png"]
    assert [one[0][name] for name in names] == [same[name] for name in names]


def test_a_run_that_ends_between_any_two_changes_of_the_folder_goes_on_to_the_same_bytes(
    write, tmp_path, monkeypatch, shared_photos
):
    source = [shared_photos / "a" / "00.png", shared_photos / DAMAGED, shared_photos / "b" / "01.png"]
    plain = {name: getattr(LocalStorage, name) for name in ("write", "remove")}
    changes = 0

    def stop_before(number):
        def counted(name):
            def change(self, *arguments):
                nonlocal changes
                if changes == number:
                    raise KeyboardInterrupt
                changes += 1
                plain[name](self, *arguments)

            return change

        for name in plain:
            monkeypatch.setattr(LocalStorage, name, counted(name))

    write(tmp_path / "whole", source, shard_images=1)
    for number in range(100):
        changes = 0
        stop_before(number)
        try:
            write(tmp_path / str(number), source, shard_images=1)
        except KeyboardInterrupt:
            stop_before(-1)
            write(tmp_path / str(number), source, shard_images=1)
        else:
            break
        assert files_of(tmp_path / str(number)) == files_of(tmp_path / "whole")
    assert (
        number == 2 + 3 * 2 + 2 + 5
    )  # keys and plan; shards and records; errors and manifest; the progress is removed


def test_a_full_disk_is_told_and_loses_nothing(whole, write, tmp_path, monkeypatch):
    plain = storage.write_bytes

    def full(path, chunks):
        if "00001-of" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(path, chunks)

    monkeypatch.setattr(storage, "write_bytes", full)
    with pytest.raises(DatasetError, match="No space left") as caught:
        write(tmp_path / "tokens")
    assert "data/train-00001-of-00003.parquet" in str(caught.value)
    monkeypatch.setattr(storage, "write_bytes", plain)
    assert write(tmp_path / "tokens").new_shards == 2
    assert files_of(tmp_path / "tokens") == files_of(whole)


@pytest.mark.parametrize("fault", ["missing", "cut", "flipped"])
def test_a_damaged_shard_is_named_and_encoded_again(whole, write, tmp_path, caplog, fault):
    write(tmp_path / "tokens")
    shard = tmp_path / "tokens" / "data" / "train-00001-of-00003.parquet"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] if fault == "cut" else data[:-40] + bytes([data[-40] ^ 1]) + data[-39:])
    if fault == "missing":
        shard.unlink()
    with caplog.at_level(logging.WARNING):
        assert write(tmp_path / "tokens").new_shards == 1
    assert shard.name in caplog.text
    assert files_of(tmp_path / "tokens") == files_of(whole)


def test_a_repair_that_is_interrupted_is_finished_by_the_next_call(whole, write, tmp_path, monkeypatch):
    write(tmp_path / "tokens")
    manifest = json.loads((tmp_path / "tokens" / "manifest.json").read_text())
    manifest["shards"][1]["sha256"] = "0" * 64  # as if another version of pyarrow had written the shard
    (tmp_path / "tokens" / "manifest.json").write_text(json.dumps(manifest))
    plain = LocalStorage.write

    def stop(self, name, data):
        if name == "errors.jsonl":
            raise KeyboardInterrupt
        plain(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "tokens")
    assert write(tmp_path / "tokens").new_shards == 0
    assert files_of(tmp_path / "tokens") == files_of(whole)


def test_what_a_killed_process_left_half_written_is_removed(whole, write, tmp_path):
    for name in ("data/.0123456789abcdef.part", "progress/.0123456789abcdef.part", "progress/keys.gz"):
        (tmp_path / "tokens" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tokens" / name).write_bytes(b"half")
    write(tmp_path / "tokens")
    assert files_of(tmp_path / "tokens") == files_of(whole)


def test_columns_of_the_source_come_along_and_names_of_ours_are_set_apart(
    write, tmp_path, encoded, write_parquet, image_cache
):
    images = [*encoded[:4], b"damaged", encoded[4]]
    captions = [f"caption {row}" for row in range(6)]
    source = write_parquet(tmp_path / "a.parquet", image=images, caption=captions, key=[10, 11, 12, 13, 14, 15])
    report = write(tmp_path / "tokens", source, columns=("key", "caption"))
    table = pq.read_table(tmp_path / "tokens" / "data")
    assert report.errors == 1
    assert table["key"].to_pylist() == [f"a.parquet:{row}" for row in (0, 1, 2, 3, 5)]
    assert table["source_key"].to_pylist() == [10, 11, 12, 13, 15]
    assert table["caption"].to_pylist() == [captions[row] for row in (0, 1, 2, 3, 5)]
    assert table.schema.field("source_key").type == pa.int64()
    assert json.loads((tmp_path / "tokens" / "manifest.json").read_text())["columns"] == {
        "source_key": "key",
        "caption": "caption",
    }


def test_folders_of_classes_give_labels(write, tmp_path, shared_photos):
    write(tmp_path / "tokens", columns=("label",))
    rows = pq.read_table(tmp_path / "tokens" / "data").to_pylist()
    assert [row["label"] for row in rows] == [row["key"][0] for row in rows]


def test_images_are_resized_and_the_recipe_is_recorded(write, tmp_path, shared_photos, toy_tokenizer):
    write(tmp_path / "tokens", size=64, jpeg_draft=True)
    row = pq.read_table(tmp_path / "tokens" / "data").to_pylist()[0]
    tokens = toy_tokenizer.encode(shared_photos / row["key"], size=64)
    assert (row["height"], row["width"]) == tokens.image_size == (64, 80)
    assert row["tokens_2"] == tokens.ids[2].flatten().tolist()
    recipe = json.loads((tmp_path / "tokens" / "manifest.json").read_text())["image_recipe"]
    assert recipe == {"version": 1, "size": 64, "jpeg_draft": True}


def test_images_are_read_in_windows_of_which_manifest_and_shards_tell(
    write, tmp_path, toy_tokenizer, smooth, monkeypatch
):
    images, seen = smooth(1, 32, 320), []

    def encode_by_windows(*args, window_px, **options):
        seen.append(window_px)
        return by_windows.encode_by_windows(*args, window_px=window_px, **options)

    monkeypatch.setattr(encoder, "encode_by_windows", encode_by_windows)
    write(tmp_path / "tokens", images, window_px=128)
    (row,) = pq.read_table(tmp_path / "tokens" / "data").to_pylist()
    assert row["tokens_2"] == toy_tokenizer.encode(images, window_px=128).ids[2].flatten().tolist()
    assert json.loads((tmp_path / "tokens" / "manifest.json").read_text())["window_px"] == 128
    (file,) = (tmp_path / "tokens" / "data").iterdir()
    assert json.loads(pq.read_schema(file).metadata[b"pyramid_tokenizer"])["window_px"] == 128
    ds = TokenDataset(tmp_path / "tokens", cache_dir=tmp_path / "cache")
    assert ds.search(images[0], model=toy_tokenizer)[0].row == 0
    estimate(images, model=toy_tokenizer, sample=1, workers=0, window_px=128)
    with pytest.raises(ConfigError, match="window_px.* 32, .*130"):
        write(tmp_path / "others", images, window_px=130)
    assert seen == [128] * 5  # the estimate encodes its first image twice


class Failing:
    """Images of which one cannot be read, for a given reason."""

    def __init__(self, cause: OSError | None, count: int = 3):
        self.cause, self.count = cause, count

    def __len__(self):
        return self.count

    def name(self, index):
        return f"image {index}"

    def read(self, index):
        if index == 1:
            raise ImageFileError("expected an image, got none: replace it") from self.cause
        return torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(index))


def test_an_error_of_the_machine_is_not_taken_for_a_damaged_image(write, tmp_path):
    with pytest.raises(OSError, match="Input/output"):
        write(tmp_path / "machine", Failing(OSError(errno.EIO, "Input/output error")))
    assert write(tmp_path / "image", Failing(OSError(errno.ENOENT, "gone"))).errors == 1


def test_an_error_while_images_are_encoded_names_them(write, tmp_path, toy_tokenizer, monkeypatch):
    def fail(self, batch, budget, **options):
        raise BackboneError("expected finite features, got NaN: use float32")

    monkeypatch.setattr(type(toy_tokenizer), "encode_within", fail)
    with pytest.raises(BackboneError, match=r"got NaN.*'a/00\.png'"):
        write(tmp_path / "tokens")


def test_images_of_which_none_can_be_read_are_an_error_that_names_the_first(write, tmp_path):
    with pytest.raises(DatasetError, match="image file that is none"):
        write(tmp_path / "tokens", [b"image file that is none".decode()])


def test_progress_counts_every_image_once_and_ends_at_all(write, tmp_path):
    told = []
    write(tmp_path / "tokens", progress=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 12)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (12, 12)


def test_sources_without_images_or_with_one_twice_are_refused(write, tmp_path, shared_photos):
    with pytest.raises(DataError, match="Failing"):
        write(tmp_path / "tokens", Failing(None, count=0))
    twice = [shared_photos / "a" / "00.png", shared_photos / "b" / "01.png", shared_photos / "a" / "00.png"]
    with pytest.raises(DataError, match=r"00\.png.*0 and 2"):
        write(tmp_path / "tokens", twice)
    assert not (tmp_path / "tokens" / "progress").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"shard_images": 0},
        {"size": 0},
        {"batch_size": 0},
        {"window_px": 0},
        {"workers": -1},
        {"readers": 0},
        {"jpeg_draft": True},
        {"on_change": "ask"},
        {"patience_seconds": 0},
        {"patience_seconds": "long"},
        {"device": "cuda:99"},
        {"columns": "caption"},
    ],
)
def test_options_out_of_their_range_are_named(write, tmp_path, options):
    with pytest.raises(ConfigError, match=next(iter(options)) if "device" not in options else "cuda:99"):
        write(tmp_path / "tokens", **options)
    assert not (tmp_path / "tokens").exists()


def test_detail_levels_are_left_out_as_encode_leaves_them_out(write, tmp_path, detailed_tokenizer, shared_photos):
    photo = shared_photos / "a" / "00.png"
    write(tmp_path / "tokens", [photo], model=detailed_tokenizer)
    (row,) = pq.read_table(tmp_path / "tokens" / "data").to_pylist()
    assert [name for name in row if name.startswith("tokens_")] == ["tokens_0", "tokens_1"]
    assert row["tokens_1"] == detailed_tokenizer.encode(photo).ids[1].flatten().tolist()
