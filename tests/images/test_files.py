import numpy as np
import pytest
import torch
from PIL import Image

from pyramid_tokenizer.errors import DataError, ImageFileError
from pyramid_tokenizer.images import find_images
from pyramid_tokenizer.images.files import FileImages, ListedImages, expand_pattern


def test_images_are_found_below_a_folder_in_order(tmp_path):
    for name in ("b/2.JPG", "a/1.png", "c.webp", "notes.txt", "b/x.jpeg.bak", "d.avif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()  # a folder is no image, whatever its name
    assert find_images(tmp_path) == [tmp_path / name for name in ("a/1.png", "b/2.JPG", "c.webp", "d.avif")]
    assert find_images(str(tmp_path)) == find_images(tmp_path)


def test_a_list_names_files_from_its_own_folder_on(tmp_path):
    listing = tmp_path / "train.txt"
    listing.write_text("a/1.png\n\n  brücke.jpg \n/absolute/3.png\n", encoding="utf-8")
    assert [str(path) for path in find_images(listing)] == [
        str(tmp_path / "a/1.png"),
        str(tmp_path / "brücke.jpg"),
        "/absolute/3.png",
    ]


def test_a_source_without_images_is_an_error(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        find_images(tmp_path / "nowhere")
    (tmp_path / "photo.png").write_bytes(b"x")
    with pytest.raises(DataError, match="photo.png"):
        find_images(tmp_path / "photo.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    for empty in ("empty", "empty.txt"):
        with pytest.raises(DataError, match=empty):
            find_images(tmp_path / empty)


def test_braces_and_stars_are_expanded_as_a_shell_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a-08.tar", "a-09.tar", "a-10.tar", "b/x.tar", "b/c/y.tar", "a-11.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def expanded(pattern):
        return [path.as_posix() for path in expand_pattern(pattern)]

    assert expanded("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert expanded("{a-10,b/x}.{tar}") == ["a-10.tar", "b/x.tar"]
    assert expanded("a-*.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert expanded("a-{0,1}[01]*") == ["a-10.tar", "a-11.json"]
    assert expanded("b/**/*.tar") == ["b/c/y.tar", "b/x.tar"]
    assert expanded("*") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.json"]  # no folders


def test_a_missing_shard_of_a_range_is_an_error(tmp_path):
    for number in (8, 10):
        (tmp_path / f"{number}.tar").touch()
    with pytest.raises(DataError, match=r"2 .*9\.tar"):
        expand_pattern(f"{tmp_path}/{{8..11}}.tar")


def test_listed_images_are_read_by_number_and_named(folder, pixels):
    images = ListedImages(
        [Image.open(folder / "0.png"), np.asarray(Image.open(folder / "1.png")), pixels[2], folder / "3.png"]
    )
    assert [images.name(i) for i in range(4)] == ["image 0", "image 1", "image 2", str(folder / "3.png")]
    assert all(torch.equal(images.read(i), pixels[i]) for i in range(4))


def test_opened_images_do_not_share_their_file_with_forked_workers(folder, encoded, pixels, tmp_path):
    (tmp_path / "cut.png").write_bytes(encoded[1][:300])
    with open(folder / "0.png", "rb") as file, open(tmp_path / "cut.png", "rb") as cut:
        images = ListedImages([Image.open(file), Image.open(cut)])
    assert torch.equal(images.read(0), pixels[0])
    with pytest.raises(ImageFileError):
        images.read(1)


def test_a_missing_file_is_found_when_it_is_read(folder, pixels):
    images = FileImages([folder / "0.png", "no/such.png"])
    assert torch.equal(images.read(0), pixels[0])
    with pytest.raises(ImageFileError, match="'no/such.png'"):
        images.read(1)
