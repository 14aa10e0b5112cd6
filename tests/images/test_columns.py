"""Columns that a source has beside its images."""

import pickle

import pytest
import torch

from pyramid_tokenizer.errors import DataError
from pyramid_tokenizer.images import open_images
from pyramid_tokenizer.images.columns import open_columns

pa = pytest.importorskip("pyarrow")


def test_rows_of_parquet_files_come_in_any_order_over_files_and_row_groups(tmp_path, encoded, write_parquet):
    write_parquet(tmp_path / "a.parquet", image=encoded, caption=["a0", "a1", "a2", "a3", None], tags=[["x"]] * 5)
    write_parquet(tmp_path / "b.parquet", image=encoded[:3], caption=["b0", "b1", "b2"], tags=[[], ["y"], ["z"]])
    columns = pickle.loads(pickle.dumps(open_columns(open_images(tmp_path), ["tags", "caption"])))
    table = columns.read([7, 0, 4, 3, 6, 0])
    assert table.schema == columns.schema
    assert table["caption"].to_pylist() == ["b2", "a0", None, "a3", "b1", "a0"]
    assert table["tags"].to_pylist() == [["z"], ["x"], ["x"], ["x"], ["y"], ["x"]]
    assert columns.read([]).num_rows == 0


def test_a_file_whose_column_is_missing_or_of_another_type_is_named(tmp_path, encoded, write_parquet):
    write_parquet(tmp_path / "a.parquet", image=encoded, label=[1] * 5)
    write_parquet(tmp_path / "b.parquet", image=encoded, label=["one"] * 5)
    write_parquet(tmp_path / "c.parquet", image=encoded)
    columns = open_columns(open_images(tmp_path), ["label"])
    assert columns.read([1]).to_pylist() == [{"label": 1}]
    for row, file in ((5, "b.parquet"), (10, "c.parquet")):
        with pytest.raises(DataError, match=file):
            columns.read([row])


def test_the_members_of_tar_samples_are_texts_and_a_missing_one_is_null(tmp_path, encoded, write_tar):
    write_tar(tmp_path / "0.tar", {"a.png": encoded[0], "a.txt": "Bär".encode(), "b.png": encoded[1], "c.txt": b"-"})
    write_tar(tmp_path / "1.tar", {"d.json": b"{}", "d.png": encoded[2], "d.txt": b"d"})
    columns = pickle.loads(pickle.dumps(open_columns(open_images(tmp_path), ["txt", "json"])))
    assert columns.read([2, 0, 1]).to_pylist() == [
        {"txt": "d", "json": "{}"},
        {"txt": "Bär", "json": None},
        {"txt": None, "json": None},
    ]
    with pytest.raises(DataError, match=r"0\.tar"):
        open_columns(open_images(tmp_path), ["png"]).read([0])


def test_columns_of_a_hugging_face_data_set(encoded):
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_dict({"image": encoded, "label": [3, 1, 4, 1, 5]}).select([4, 2, 0])
    columns = open_columns(open_images(dataset), ["label"])
    assert columns.schema.names == ["label"]
    assert columns.read([2, 0])["label"].to_pylist() == [3, 5]


def test_unknown_and_repeated_names_are_refused_with_those_that_there_are(tmp_path, encoded, write_parquet):
    images = open_images(write_parquet(tmp_path / "a.parquet", image=encoded, caption=["x"] * 5))
    with pytest.raises(DataError, match="'captoin'.*'caption'"):
        open_columns(images, ["captoin"])
    with pytest.raises(DataError, match="caption"):
        open_columns(images, ["caption", "caption"])
    assert open_columns(images, []) is None
    with pytest.raises(DataError, match="ListedImages"):
        open_columns(open_images(torch.rand(1, 3, 8, 8)), ["caption"])


def test_the_label_of_an_image_file_is_the_name_of_its_folder(tmp_path):
    for name in ("cat/b.png", "dog/indoor/c.png", "cat/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    columns = pickle.loads(pickle.dumps(open_columns(open_images(tmp_path), ["label"])))
    assert columns.read([2, 0, 1]).to_pydict() == {"label": ["indoor", "cat", "cat"]}
    with pytest.raises(DataError, match=r"image files \(label\).*'caption'"):
        open_columns(open_images(tmp_path), ["caption"])
    (tmp_path / "stray.png").touch()
    with pytest.raises(DataError, match=r"stray\.png"):
        open_columns(open_images(tmp_path), ["label"])
    assert open_columns(open_images(str(tmp_path / "cat" / "*.png")), ["label"]) is not None
