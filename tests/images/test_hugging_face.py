import sys

import numpy as np
import pytest
import torch
from PIL import Image

from pyramid_tokenizer.errors import DataError, ImageError, MissingExtraError
from pyramid_tokenizer.images import open_images

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.fixture
def dataset(encoded):
    rows = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(encoded)]
    return datasets.Dataset.from_dict({"label": range(5), "image": rows}).cast_column("image", datasets.Image())


def test_rows_of_a_dataset_are_read_by_number_as_the_files_are(dataset, pixels):
    images = open_images(dataset)
    assert (len(images), images.name(3)) == (5, "dataset:3")
    assert all(torch.equal(images.read(i), pixels[i]) for i in range(5))
    assert torch.equal(images.read(np.int64(2)), pixels[2])


def test_the_callers_dataset_stays_as_it_is_and_its_transforms_are_left_out(dataset, pixels):
    dataset.set_transform(lambda rows: {"image": [None] * len(rows["image"])})
    assert torch.equal(open_images(dataset).read(0), pixels[0])
    assert dataset[0] == {"image": None}
    dataset.reset_format()
    assert isinstance(dataset[0]["image"], Image.Image)


def test_a_selection_keeps_its_order(dataset, pixels):
    images = open_images(dataset.select([4, 0]))
    assert [torch.equal(images.read(i), pixels[j]) for i, j in enumerate((4, 0))] == [True, True]


def test_images_may_be_paths_bytes_or_an_unusual_column(dataset, files, encoded, pixels):
    paths = datasets.Dataset.from_dict({"image": [str(file) for file in files]}).cast_column("image", datasets.Image())
    plain = datasets.Dataset.from_dict({"data": encoded, "label": range(5)})
    named = dataset.rename_column("image", "scan").add_column("mask", encoded[::-1])
    for images in (open_images(paths), open_images(plain), open_images(named, column="scan")):
        assert torch.equal(images.read(3), pixels[3])
    with pytest.raises(DataError, match="label .*scan, mask"):
        open_images(named)


def test_rows_without_a_image_are_image_errors(encoded):
    rows = [
        {"bytes": b"text", "path": None},
        None,
        {"bytes": None, "path": "no/such.png"},
        {"bytes": encoded[0], "path": None},
    ]
    images = open_images(datasets.Dataset.from_dict({"image": rows}).cast_column("image", datasets.Image()))
    for row in range(3):
        with pytest.raises(ImageError):
            images.read(row)
    assert images.read(3).shape == (3, 40, 60)


def test_a_saved_dataset_and_one_with_a_single_split_are_opened_by_their_folder(dataset, tmp_path, pixels):
    dataset.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=dataset).save_to_disk(tmp_path / "single")
    for name in ("one", "single"):
        images = open_images(tmp_path / name)
        assert (len(images), images.name(4)) == (5, f"{tmp_path / name}:4")
        assert torch.equal(images.read(4), pixels[4])


def test_of_several_splits_one_must_be_named(dataset, tmp_path):
    both = datasets.DatasetDict(train=dataset, test=dataset.select([0]))
    with pytest.raises(DataError, match="train, test"):
        open_images(both)
    both.save_to_disk(tmp_path / "both")
    with pytest.raises(DataError, match="train, test.*both/train"):
        open_images(tmp_path / "both")
    assert len(open_images(tmp_path / "both" / "test")) == 1


def test_a_name_is_what_load_dataset_takes(folder, files, pixels):
    images = open_images(f"hf-dataset:{folder}")
    assert (len(images), images.name(1)) == (5, f"hf-dataset:{folder}:1")
    assert all(torch.equal(images.read(i), pixels[i]) for i in range(5))
    part = open_images(f"hf-dataset:{folder}:train[3:]")
    assert (len(part), part.name(1)) == (2, f"hf-dataset:{folder}:train[3:]:1")
    assert torch.equal(part.read(1), pixels[4])
    with pytest.raises(DataError, match='"tarin"'):
        open_images(f"hf-dataset:{folder}:tarin")


def test_a_name_without_a_split_needs_one_where_there_are_several(dataset, monkeypatch):
    both = datasets.DatasetDict(train=dataset, test=dataset)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: both if split is None else both[split])
    with pytest.raises(DataError, match="train, test.*hf-dataset:user/cats:train"):
        open_images("hf-dataset:user/cats")
    assert open_images("hf-dataset:user/cats:test").name(0) == "hf-dataset:user/cats:test:0"


def test_what_cannot_be_loaded_is_one_line(tmp_path):
    with pytest.raises(DataError, match="no/such"):
        open_images("hf-dataset:no/such")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "state.json").write_text("{")
    with pytest.raises(DataError, match="broken") as caught:
        open_images(tmp_path / "broken")
    assert "\n" not in str(caught.value)


def test_an_empty_or_streamed_dataset_is_an_error(dataset):
    with pytest.raises(DataError, match="rows"):
        open_images(dataset.select([]))
    with pytest.raises(DataError, match="IterableDataset"):
        open_images(dataset.to_iterable_dataset())


def test_without_datasets_the_pip_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r'pip install "pyramid-tokenizer\[data\]"'):
        open_images("hf-dataset:user/cats")
