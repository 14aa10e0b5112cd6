import gzip
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from pyramid_tokenizer.errors import DataError
from pyramid_tokenizer.images import ImageSource, RandomCrops, open_images
from pyramid_tokenizer.images.tables import ParquetImages
from pyramid_tokenizer.images.tar import TarImages


class Squares:
    """A source of one's own."""

    def __len__(self):
        return 3

    def name(self, index):
        return f"square {index}"

    def read(self, index):
        return torch.full((3, 32, 32), index / 2)


def a_folder(folder, tmp_path, encoded, write_tar, write_parquet):
    return folder


def a_list_file(folder, tmp_path, encoded, write_tar, write_parquet):
    (tmp_path / "list.txt").write_text("\n".join(str(folder / f"{i}.png") for i in range(5)))
    return str(tmp_path / "list.txt")


def paths(folder, tmp_path, encoded, write_tar, write_parquet):
    return [str(folder / "0.png"), *(folder / f"{i}.png" for i in range(1, 5))]


def a_pattern_of_images(folder, tmp_path, encoded, write_tar, write_parquet):
    return f"{folder}/*.png"


def pil_images(folder, tmp_path, encoded, write_tar, write_parquet):
    return tuple(Image.open(folder / f"{i}.png") for i in range(5))


def arrays(folder, tmp_path, encoded, write_tar, write_parquet):
    return [np.asarray(Image.open(folder / f"{i}.png")) for i in range(5)]


def a_shard(folder, tmp_path, encoded, write_tar, write_parquet):
    return write_tar(tmp_path / "a.tar", {f"{i}.png": data for i, data in enumerate(encoded)})


def shards(folder, tmp_path, encoded, write_tar, write_parquet):
    for i, data in enumerate(encoded):
        write_tar(tmp_path / "shards" / f"{i + 7:03d}.tar", {"a.png": data, "a.json": b"{}"})
    (tmp_path / "shards" / "stats.json").write_text("{}")
    return str(tmp_path / "shards")


def a_range_of_shards(*arguments):
    return f"{shards(*arguments)}/{{007..011}}.tar"


def a_pattern_of_shards(*arguments):
    return f"{shards(*arguments)}/*"


def a_table(folder, tmp_path, encoded, write_tar, write_parquet):
    return write_parquet(tmp_path / "a.parquet", image=encoded)


def tables(folder, tmp_path, encoded, write_tar, write_parquet):
    for i in (0, 2):
        write_parquet(tmp_path / "data" / f"train-{i}.parquet", image=encoded[i : i + 2 + i // 2])
    return tmp_path


def a_list_of_tables(*arguments):
    return [str(path) for path in sorted(tables(*arguments).rglob("*.parquet"))]


KINDS = [
    a_folder, a_list_file, paths, a_pattern_of_images, pil_images, arrays, a_shard, shards, a_range_of_shards,
    a_pattern_of_shards, a_table, tables, a_list_of_tables,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_source_gives_the_same_images_by_number_also_when_pickled(
    kind, folder, tmp_path, encoded, pixels, write_tar, write_parquet
):
    images = open_images(kind(folder, tmp_path, encoded, write_tar, write_parquet))
    again = pickle.loads(pickle.dumps(images))
    assert isinstance(images, ImageSource)
    assert len({images.name(i) for i in range(5)}) == len(images) == len(again) == 5
    for i in (3, 0, 4, 1, 2):
        assert torch.equal(images.read(i), pixels[i])
        assert torch.equal(again.read(i), pixels[i])
        assert again.name(i) == images.name(i)


def test_a_batch_is_a_source_of_its_images(pixels):
    batch = torch.stack([image[:, :40] for image in pixels])
    array = (batch.permute(0, 2, 3, 1) * 255).round().byte().numpy()
    for images in (open_images(batch), open_images(array)):
        assert len(images) == 5
        assert all(torch.equal(images.read(i), batch[i]) for i in range(5))


def test_a_source_of_ones_own_is_returned_as_it_is():
    squares = Squares()
    assert open_images(squares) is squares
    assert RandomCrops(squares, batch_size=1, crop_px=16).images is squares


@pytest.mark.parametrize("name", ["a[1].tar", "{b}.parquet", "photos {x}"])
def test_a_real_name_is_no_pattern(tmp_path, encoded, pixels, write_tar, write_parquet, name):
    if name.endswith(".tar"):
        write_tar(tmp_path / name, {"a.png": encoded[0]})
    elif name.endswith(".parquet"):
        write_parquet(tmp_path / name, image=encoded)
    else:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(encoded[0])
    assert torch.equal(open_images(str(tmp_path / name)).read(0), pixels[0])


def test_several_kinds_in_one_place_are_an_error_and_a_pattern_chooses(tmp_path, encoded, write_tar, write_parquet):
    # as img2dataset writes it: shards, and a table of what is in them
    write_tar(tmp_path / "00000.tar", {"a.jpg": encoded[0]})
    write_parquet(tmp_path / "00000.parquet", url=["a"])
    for place in (tmp_path, f"{tmp_path}/*"):
        with pytest.raises(DataError, match=r"1 tar, 1 parquet .*\*\.tar"):
            open_images(place)
    assert isinstance(open_images(f"{tmp_path}/*.tar"), TarImages)
    write_tar(tmp_path / "photos" / "b.tar", {"a.jpg": encoded[0]})
    (tmp_path / "photos" / "a.png").write_bytes(encoded[0])
    with pytest.raises(DataError, match=r"1 image, 1 tar .*\*\.png"):
        open_images(tmp_path / "photos")
    assert open_images(f"{tmp_path}/photos/*.png").name(0).endswith("a.png")
    with pytest.raises(DataError, match="list of 2"):
        open_images([tmp_path / "photos" / "a.png", tmp_path / "00000.tar"])


def test_compressed_shards_are_an_error_unless_images_lie_beside_them(tmp_path, encoded, write_tar):
    shard = write_tar(tmp_path / "plain.tar", {"a.png": encoded[0]})
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(shard.read_bytes()))
    for place in (tmp_path, tmp_path / "a.tar.gz", [tmp_path / "a.tar.gz"], f"{tmp_path}/a.tar.*"):
        with pytest.raises(DataError, match=r"a\.tar\.gz"):
            open_images(place)
    shard.unlink()
    (tmp_path / "a.png").write_bytes(encoded[0])
    assert len(open_images(tmp_path)) == 1  # the archive that the photos came from


def test_an_empty_source_is_an_error_that_says_what_was_looked_for(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.doc").touch()
    (tmp_path / "empty.txt").write_text("\n")
    looked_for = r"expected images \(.jpg.*\), .tar or .parquet files in "
    for place in ("empty", "empty.txt", "empty/*.doc", "empty/*.jpg"):
        with pytest.raises(DataError, match=looked_for):
            open_images(str(tmp_path / place))
    with pytest.raises(DataError, match="empty list"):
        open_images([])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/place", "'no/such/place'"),
        ("https://example.org/a.tar", "'https://example.org/a.tar'"),
        ("no/such/*.tar", r"'no/such/\*.tar'"),
        ("no/such/{0..3}.tar", "4 .*no/such/0.tar"),
        (b"bytes", "bytes"),
        (np.zeros((8, 8, 3)), "ndarray"),
        (torch.zeros(3, 8, 8), "Tensor"),
        (Image.new("L", (8, 8)), "Image"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_source_is_an_error(source, message):
    with pytest.raises(DataError, match=message):
        open_images(source)


def test_a_single_file_is_an_error_that_names_the_ways_out(folder, tmp_path):
    with pytest.raises(DataError, match=r"0.png'.*\['.*0.png'\]"):
        open_images(folder / "0.png")
    (tmp_path / "a.zip").touch()
    with pytest.raises(DataError, match="a.zip'"):
        open_images(tmp_path / "a.zip")


def test_a_column_where_there_are_none_is_an_error(folder, pixels):
    for source in (folder, Squares(), pixels, torch.stack([pixels[0]]), f"{folder}/*.png"):
        with pytest.raises(DataError, match="column .*'image'"):
            open_images(source, column="image")


def test_a_column_reaches_shards_and_tables(tmp_path, encoded, pixels, write_tar, write_parquet):
    shard = write_tar(tmp_path / "a.tar", {"a.png": encoded[0], "a.seg.png": encoded[1]})
    table = write_parquet(tmp_path / "a.parquet", image=encoded[:1], mask=encoded[1:2])
    assert torch.equal(open_images(shard, column="seg.png").read(0), pixels[1])
    tables = open_images(table, column="mask")
    assert isinstance(tables, ParquetImages)
    assert torch.equal(tables.read(0), pixels[1])
