"""`tokenize`: a source -> a dataset."""

from __future__ import annotations

import json

import pytest

from pyramid_tokenizer.datasets.storage import LocalStorage
from pyramid_tokenizer.errors import DatasetError

pytest.importorskip("pyarrow")


@pytest.fixture
def tokenize(run, model, photos):
    """tokenize(*options): the command on the photos, in this process."""
    return lambda *options: run("tokenize", "--images", "photos", "--model", model, "--workers", 0, *options)


def test_a_folder_becomes_a_dataset_and_the_same_command_finds_it_whole(tokenize, here):
    done = tokenize("--out", "set", "--shard-images", 2, "--size", 32)
    assert done.exit_code == 0, done.stderr
    manifest = json.loads((here / "set" / "manifest.json").read_text())
    assert (manifest["images"], manifest["rows"], manifest["shard_images"]) == (3, 3, 2)
    assert manifest["image_recipe"]["size"] == 32
    assert done.stdout.startswith("3 of 3 images in 2 files: ")
    assert tokenize("--out", "set", "--shard-images", 2, "--size", 32).stdout.startswith(
        "3 of 3 images in 2 files, 2 of which were there already: "
    )


def test_images_that_cannot_be_read_are_counted_and_set_the_exit_code(tokenize, photos, here):
    (photos / "aa.jpg").write_bytes(b"not an image")
    done = tokenize()
    assert done.exit_code == 1
    assert done.stdout.startswith("3 of 4 images in 1 files")
    assert done.stderr.startswith("error: 1 of 4 images")
    (line,) = (here / "tokens" / "errors.jsonl").read_text().splitlines()
    assert json.loads(line)["key"] == "aa.jpg"


def test_a_dry_run_tells_what_all_would_take_and_writes_nothing(tokenize, here):
    done = tokenize("--dry-run", "--out", "set")
    assert done.exit_code == 0, done.stderr
    counted, each, every = done.stdout.splitlines()
    assert counted == "3 images, 0 of a sample of 3 cannot be read"
    assert "ms to read" in each
    assert every.endswith("MB in 1 files")
    assert not (here / "set").exists()


def test_a_limit_makes_a_sparse_dataset_and_misses_are_told(tokenize, here):
    done = tokenize("--out", "set", "--target-psnr", 60)
    assert done.exit_code == 0
    assert done.stderr.startswith("warning: 3 of 3 images have less than 60 dB")
    assert json.loads((here / "set" / "manifest.json").read_text())["limit"] == {"target_psnr": 60.0}
    for options, name in ((("--quality", 2), "--quality"), (("--quality", 0.5, "--max-tokens", 9), "--max-tokens")):
        refused = tokenize("--out", "other", *options)
        assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
        assert name.strip("-").replace("-", "_") in refused.stderr.replace("-", "_")
    assert not (here / "other").exists()


def test_a_wrong_column_is_an_error_of_one_line(tokenize, here):
    done = tokenize("--columns", "caption, label")
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert "'caption'" in done.stderr


def test_a_changed_source_is_an_error_or_followed_on_demand(tokenize, photos, monkeypatch):
    plain = LocalStorage.write

    def full(self, name, data):
        if "00001-of" in name:
            raise DatasetError("expected to write, got a full disk: free some space")
        plain(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "write", full)
        assert tokenize("--shard-images", 1).stderr == "error: expected to write, got a full disk: free some space\n"
    (photos / "b.png").unlink()
    refused = tokenize("--shard-images", 1)
    assert refused.exit_code == 1
    assert "'b.png'" in refused.stderr
    done = tokenize("--shard-images", 1, "--go-on-if-changed")
    assert done.stdout.startswith("2 of 3 images in 3 files, 1 of which were there already")
    assert done.stderr.startswith("error: 1 of 3 images could not be encoded")


def test_ray_is_chosen_by_name_and_told_what_does_not_suit_it(tokenize, here):
    done = tokenize("--engine", "ray")  # and no workers
    assert done.exit_code == 1
    assert "workers" in done.stderr
    assert tokenize("--engine", "dask").exit_code == 2
    assert not (here / "tokens").exists()
