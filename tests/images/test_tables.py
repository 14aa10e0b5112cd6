import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from pyramid_tokenizer.errors import DataError, ImageError, MissingExtraError
from pyramid_tokenizer.images import tables
from pyramid_tokenizer.images.tables import ParquetImages

pytest.importorskip("pyarrow")


def structs(encoded):
    return [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(encoded)]


@pytest.mark.parametrize("kind", ["binary", "large_binary", "structs"])
def test_rows_are_read_by_number_over_several_files(tmp_path, encoded, pixels, write_parquet, monkeypatch, kind):
    import pyarrow as pa

    monkeypatch.setattr(tables, "_ROWS_AT_ONCE", 2)
    values = pa.array(structs(encoded)) if kind == "structs" else pa.array(encoded, getattr(pa, kind)())
    parts = {"a": values[:3], "b": values[:0], "c": values[3:]}
    images = ParquetImages(
        [write_parquet(tmp_path / f"{i}.parquet", x=[1] * len(p), image=p) for i, p in parts.items()]
    )
    rows = ["a.parquet:0", "a.parquet:1", "a.parquet:2", "c.parquet:0", "c.parquet:1"]
    assert [images.name(i) for i in range(len(images))] == [f"{tmp_path}/{row}" for row in rows]
    assert all(torch.equal(images.read(i), pixels[i]) for i in (4, 0, 3, 2, 1))


def test_rows_without_a_image_are_image_errors_and_the_others_keep_their_places(
    tmp_path, encoded, pixels, write_parquet
):
    binary = [encoded[0], None, b"text", encoded[1], b""]
    struct = [
        structs(encoded)[0],
        None,
        {"bytes": None, "path": "a"},
        structs(encoded)[1],
        {"bytes": b"", "path": None},
    ]
    for name, values in (("binary", binary), ("struct", struct)):
        images = ParquetImages([write_parquet(tmp_path / f"{name}.parquet", image=values)])
        assert len(images) == 5
        assert torch.equal(images.read(0), pixels[0])
        assert torch.equal(images.read(3), pixels[1])
        for row in (1, 2, 4):
            with pytest.raises(ImageError):
                images.read(row)


def test_a_file_is_copied_once_and_again_when_it_changes(tmp_path, encoded, pixels, write_parquet, cache):
    file = write_parquet(tmp_path / "a.parquet", image=encoded[:2])
    ParquetImages([file])
    (copy,) = cache.glob("*.images")
    written = copy.stat().st_mtime_ns, copy.stat().st_ino
    assert torch.equal(ParquetImages([file]).read(1), pixels[1])
    assert (copy.stat().st_mtime_ns, copy.stat().st_ino) == written
    write_parquet(file, image=encoded[2:4])
    os.utime(file, ns=(1, 1))  # another time even where the clock is coarse
    assert torch.equal(ParquetImages([file]).read(1), pixels[3])
    assert len(list(cache.glob("*.images"))) == 2


def test_processes_that_start_together_wait_for_one_copy(tmp_path, encoded, pixels, write_parquet, monkeypatch):
    file = write_parquet(tmp_path / "a.parquet", image=encoded)
    written, write = [], tables._write_copy

    def write_slowly(*arguments):
        written.append(arguments)
        time.sleep(0.05)
        write(*arguments)

    monkeypatch.setattr(tables, "_write_copy", write_slowly)
    with ThreadPoolExecutor(3) as pool:
        sources = list(pool.map(ParquetImages, [[file]] * 3))
    assert len(written) == 1
    assert all(torch.equal(images.read(2), pixels[2]) for images in sources)


def test_the_copy_is_the_images_bytes_and_their_offsets(tmp_path, encoded, write_parquet, cache):
    ParquetImages([write_parquet(tmp_path / "a.parquet", image=[encoded[0], None, encoded[1]])])
    (copy,) = cache.glob("*.images")
    ends = np.array([0, len(encoded[0]), len(encoded[0]), len(encoded[0] + encoded[1])], dtype="<i8")
    assert copy.read_bytes() == encoded[0] + encoded[1] + ends.tobytes()


def test_a_full_disk_is_an_error_that_leaves_no_half_copy(tmp_path, encoded, pixels, write_parquet, cache):
    resource = pytest.importorskip("resource")
    file = write_parquet(tmp_path / "a.parquet", image=encoded)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(encoded[0]) + 100, hard))
    try:
        with pytest.raises(DataError, match="File too large.*PYRAMID_TOKENIZER_CACHE"):
            ParquetImages([file])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.suffix for path in cache.iterdir()] in ([], [".lock"])
    assert torch.equal(ParquetImages([file]).read(4), pixels[4])


def test_a_cache_that_is_no_folder_is_an_error(tmp_path, encoded, write_parquet, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PYRAMID_TOKENIZER_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="PYRAMID_TOKENIZER_CACHE"):
        ParquetImages([write_parquet(tmp_path / "a.parquet", image=encoded)])


def test_a_copy_that_went_away_is_an_image_error(tmp_path, encoded, write_parquet, cache):
    images = ParquetImages([write_parquet(tmp_path / "a.parquet", image=encoded)])
    next(cache.glob("*.images")).unlink()
    with pytest.raises(ImageError, match=r"\.images"):
        images.read(0)


@pytest.mark.parametrize(
    ("columns", "column", "expected"),
    [
        (("photo_bytes",), None, "photo_bytes"),
        (("mask", "image"), None, "image"),
        (("thumb", "JPG", "mask"), None, "JPG"),
        (("mask", "image"), "mask", "mask"),
    ],
)
def test_the_column_is_found_by_its_type_then_by_its_name(
    tmp_path, encoded, pixels, write_parquet, columns, column, expected
):
    values = {name: [encoded[i]] for i, name in enumerate(columns)}
    file = write_parquet(tmp_path / "a.parquet", label=[3], path=["a.png"], **values)
    assert torch.equal(ParquetImages([file], column=column).read(0), pixels[columns.index(expected)])


@pytest.mark.parametrize(
    ("columns", "column", "message"),
    [
        (
            (),
            None,
            r"expected one column of image bytes in .*, got label \(int64\): only bytes, or {bytes, path}, hold images",
        ),
        (
            ("left", "right"),
            None,
            r"got label \(int64\), left \(binary\), right \(binary\): pass column, one of left, right",
        ),
        (("image", "img"), None, "pass column, one of image, img"),
        (("image",), "label", "'label' .*image"),
        (("image",), "img", "'img'"),
    ],
)
def test_columns_that_do_not_tell_are_an_error_that_lists_them(
    tmp_path, encoded, write_parquet, columns, column, message
):
    file = write_parquet(tmp_path / "a.parquet", label=[3], **{name: [encoded[0]] for name in columns})
    with pytest.raises(DataError, match=message):
        ParquetImages([file], column=column)


def test_damaged_and_empty_files_are_errors(tmp_path, encoded, write_parquet, cache):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="rows .*empty.parquet"):
        ParquetImages([tmp_path / "empty.parquet"])
    file = write_parquet(tmp_path / "a.parquet", image=encoded)
    data = file.read_bytes()
    file.write_bytes(data[:-20])
    with pytest.raises(DataError, match="a.parquet"):
        ParquetImages([file])
    file.write_bytes(b"PAR1" + bytes(len(data) // 2 - 4) + data[len(data) // 2 :])  # the footer is whole, pages are not
    with pytest.raises(DataError, match="complete.*a.parquet"):
        ParquetImages([file])
    assert not list(cache.glob("a-*.images")) and not list(cache.glob("*.part"))
    with pytest.raises(DataError, match="missing.parquet"):
        ParquetImages([tmp_path / "missing.parquet"])


def test_without_pyarrow_the_pip_command_is_named(tmp_path, encoded, write_parquet, monkeypatch):
    file = write_parquet(tmp_path / "a.parquet", image=encoded)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r'pip install "pyramid-tokenizer\[data\]"'):
        ParquetImages([file])
