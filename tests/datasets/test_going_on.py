"""What `tokenize` finds in a folder: a dataset to go on with, or one that is refused."""

from __future__ import annotations

import json
import shutil

import pyarrow.parquet as pq
import pytest

from pyramid_tokenizer.datasets import manifest
from pyramid_tokenizer.datasets.locks import only_writer
from pyramid_tokenizer.datasets.storage import LocalStorage
from pyramid_tokenizer.errors import ConfigError, DatasetError, DatasetInUseError
from tests.datasets.conftest import files_of


class Stopped(Exception):
    """Ends a run."""


@pytest.fixture
def begun(write, tmp_path, shared_photos, monkeypatch):
    """tokens, with the first of three shards, of a copy of the photos."""
    source, out = tmp_path / "photos", tmp_path / "tokens"
    shutil.copytree(shared_photos, source)
    plain = LocalStorage.write

    def write_one_shard(self, name, data):
        if "00001-of" in name:
            raise Stopped
        plain(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "write", write_one_shard)
        with pytest.raises(Stopped):
            write(out, source)
    return out


def test_a_source_that_has_changed_is_described_and_refused(begun, write, tmp_path, shared_photos):
    source, before = tmp_path / "photos", files_of(begun)
    (source / "a" / "04.png").unlink()
    shutil.copy(shared_photos / "a" / "00.png", source / "a" / "01-new.png")
    with pytest.raises(DatasetError, match=r"1 gone \('a/04\.png'\), 1 new \('a/01-new\.png'\)"):
        write(begun, source)
    assert files_of(begun) == before


def test_on_demand_a_changed_source_is_followed_by_the_images_of_the_plan(begun, write, tmp_path, shared_photos):
    source = tmp_path / "photos"
    (source / "a" / "10.png").unlink()
    shutil.copy(shared_photos / "a" / "00.png", source / "a" / "01-new.png")
    report = write(begun, source, on_change="go_on")
    assert (report.rows, report.errors, report.images) == (10, 2, 12)
    failures = [json.loads(line) for line in (begun / "errors.jsonl").read_text().splitlines()]
    assert [(failure["key"], failure["source_row"]) for failure in failures] == [("a/10.png", 5), ("b/05.png", 8)]
    write(tmp_path / "whole")
    rows, expected = (pq.read_table(tmp_path / name / "data").to_pylist() for name in ("tokens", "whole"))
    assert rows == [row for row in expected if row["key"] != "a/10.png"]


def test_a_complete_dataset_takes_no_other_images(write, tmp_path, shared_photos):
    write(tmp_path / "tokens")
    with pytest.raises(DatasetError, match="12 images.*got 6"):
        write(tmp_path / "tokens", shared_photos / "a", on_change="go_on")


def test_another_model_is_refused(begun, write, tmp_path, other_tokenizer, toy_tokenizer):
    with pytest.raises(DatasetError, match=f"{toy_tokenizer.fingerprint[:12]}.*{other_tokenizer.fingerprint[:12]}"):
        write(begun, tmp_path / "photos", model=other_tokenizer)


@pytest.mark.parametrize("options", [{"size": 16}, {"shard_images": 5}, {"batch_size": 2}, {"window_px": 128}])
def test_other_options_are_refused_by_name(begun, write, tmp_path, options):
    with pytest.raises(DatasetError, match="image_recipe" if "size" in options else next(iter(options))):
        write(begun, tmp_path / "photos", **options)


def test_the_batch_size_of_the_beginning_stays(write, tmp_path):
    write(tmp_path / "tokens", batch_size=2)
    assert write(tmp_path / "tokens").new_shards == 0


def test_without_resume_a_folder_must_be_new(begun, write, tmp_path):
    with pytest.raises(DatasetError, match="resume=False"):
        write(begun, tmp_path / "photos", resume=False)


@pytest.mark.parametrize("name", ["thesis.docx", "data/train-00000-of-00009.parquet", "manifest.json/x"])
def test_a_folder_with_other_files_is_refused(write, tmp_path, name):
    file = tmp_path / "tokens" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(DatasetError, match=name):
        write(tmp_path / "tokens")
    assert file.read_text() == "mine"


def test_a_foreign_file_among_the_shards_of_a_dataset_is_refused_and_a_card_beside_them_is_not(begun, write, tmp_path):
    (begun / "README.md").write_text("# Tokens")
    assert write(begun, tmp_path / "photos").new_shards == 2
    (begun / "data" / "train-00000-of-00001.parquet").write_bytes(b"")
    with pytest.raises(DatasetError, match="train-00000-of-00001"):
        write(begun, tmp_path / "photos")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"schema_version": 5}, "version 4.*got 5 of a newer"),
        ({"schema_version": 1}, "version 4.*got 1 of an older"),
        ({"format": "photos"}, "photos"),
        ({"strides": None}, "damaged"),
        ({"window_px": "wide"}, "window_px.*damaged"),
    ],
)
def test_plans_of_newer_versions_other_formats_and_damaged_ones_are_refused(begun, write, tmp_path, change, expected):
    plan = begun / "progress" / "plan.json"
    plan.write_text(json.dumps(json.loads(plan.read_text()) | change))
    with pytest.raises(DatasetError, match=expected):
        write(begun, tmp_path / "photos")


@pytest.mark.parametrize("name", ["progress/plan.json", "progress/00000.json", "progress/keys.gz"])
def test_a_damaged_file_of_progress_is_named_or_not_needed(begun, write, tmp_path, name):
    (begun / name).write_bytes((begun / name).read_bytes()[:-9])
    if name == "progress/keys.gz":  # only a source that has changed is compared with it
        (tmp_path / "photos" / "a" / "00.png").unlink()
    with pytest.raises(DatasetError, match="keys" if "keys" in name else name):
        write(begun, tmp_path / "photos")


@pytest.mark.parametrize("name", ["manifest.json", "errors.jsonl"])
def test_a_damaged_manifest_is_an_error(write, tmp_path, name):
    write(tmp_path / "tokens")
    file = tmp_path / "tokens" / name
    file.write_bytes(file.read_bytes()[:-60])
    with pytest.raises(DatasetError, match=r"manifest\.json"):
        write(tmp_path / "tokens")


def test_two_writers_at_once_are_refused_and_the_lock_ends_with_its_holder(write, tmp_path):
    with only_writer(LocalStorage(tmp_path / "tokens")), pytest.raises(DatasetInUseError, match="tokens"):
        write(tmp_path / "tokens")
    assert write(tmp_path / "tokens").new_shards == 3


def test_a_file_in_place_of_the_folder_is_refused(write, tmp_path):
    (tmp_path / "tokens").write_text("mine")
    with pytest.raises(DatasetError, match="the file"):
        write(tmp_path / "tokens")


@pytest.mark.parametrize("name", ["", "tokens", "a/tokens"])
def test_a_dataset_inside_the_folder_of_its_images_is_refused(write, tmp_path, shared_photos, name):
    source = tmp_path / "photos"
    shutil.copytree(shared_photos, source)
    with pytest.raises(DatasetError, match="photos"):
        write(source / name, source)
    assert write(tmp_path / "photos-tokens", source).rows == 11


def test_more_shards_than_names_can_count_are_refused_with_what_would_do(write, tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "MOST_SHARDS", 2)
    with pytest.raises(ConfigError, match="at least 6"):
        write(tmp_path / "tokens")
