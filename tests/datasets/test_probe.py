"""A machine that does not see the caller's images is refused before it takes them for damaged ones."""

from __future__ import annotations

import dataclasses
import shutil

import pytest

from pyramid_tokenizer.datasets.engines.probe import check_machine, probe
from pyramid_tokenizer.datasets.keys import Keys
from pyramid_tokenizer.datasets.options import TokenizeOptions
from pyramid_tokenizer.datasets.plan import plan_dataset
from pyramid_tokenizer.datasets.shards import Work
from pyramid_tokenizer.errors import DatasetError
from pyramid_tokenizer.images import open_images


@pytest.fixture
def work(tmp_path, monkeypatch, shared_photos, toy_tokenizer) -> Work:
    """The photos by a relative path from the current folder, the first of them damaged."""
    shutil.copytree(shared_photos, tmp_path / "photos")
    (tmp_path / "photos" / "a" / "00.png").write_bytes(b"damaged")
    monkeypatch.chdir(tmp_path)
    images = open_images("photos")
    keys = Keys(images, "photos")
    plan = plan_dataset(toy_tokenizer, keys, (), TokenizeOptions())
    return Work(plan=plan, source=images, keys=keys, columns=None, model=toy_tokenizer)


def test_a_machine_with_the_same_images_passes_from_any_folder(work, tmp_path, monkeypatch):
    found = probe(work)
    assert found.image is not None
    assert work.keys[found.image[0]] == "a/02.png"
    monkeypatch.chdir("/")
    check_machine(work, found)  # which goes to the caller's folder
    check_machine(work, dataclasses.replace(found, folder=str(tmp_path / "not here")))


def test_a_machine_without_the_images_or_with_others_is_refused_with_the_first_of_them(work, tmp_path):
    found = probe(work)
    photo = tmp_path / "photos" / "a" / "02.png"
    shutil.copy(tmp_path / "photos" / "b" / "11.png", photo)
    with pytest.raises(DatasetError, match=r"'a/02\.png'.*another one"):
        check_machine(work, found)
    photo.unlink()
    with pytest.raises(DatasetError, match=r"'a/02\.png'.*none that can be read"):
        check_machine(work, found)


def test_a_machine_with_another_pyarrow_is_refused_and_images_that_nobody_can_read_are_not_asked_for(work):
    found = probe(work)
    other = dataclasses.replace(found, versions=(found.versions[0], ("pyarrow", "1.2.3")))
    with pytest.raises(DatasetError, match="pyarrow 1.2.3"):
        check_machine(work, other)
    check_machine(work, dataclasses.replace(found, image=None))
