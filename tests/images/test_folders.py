"""What a folder holds: one rule for listings, sources, labelled sets and commands."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from PIL import Image

from pyramid_tokenizer.errors import DataError, ImageFileError
from pyramid_tokenizer.images import find_images, folders, list_folder, open_images
from pyramid_tokenizer.images.labelled.sets import open_segmentation_set

COUNT = ["a.PNG", "broken.jpg", "c.JFIF", "sub/b.Tga"]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder with files that count (`COUNT`) and one of each kind that does not."""
    root = tmp_path / "mixed"
    for name in (
        "a.PNG",
        "c.JFIF",
        "sub/b.Tga",
        "._a.PNG",
        ".cache/x.png",
        "._X.JPG",
        "notes.txt",
        "paper.pdf",
        "v.mpg",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "broken.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(root / "pipe.png")
    return root


def below(folder: Path, paths) -> list[str]:
    return [Path(path).relative_to(folder).as_posix() for path in paths]


def test_a_listing_says_what_counts_and_why_the_rest_does_not(mixed):
    listing = list_folder(mixed)
    assert below(mixed, listing.files) == COUNT
    assert {path.relative_to(mixed).as_posix(): reason for path, reason in listing.passed_over.items()} == {
        **dict.fromkeys(("._a.PNG", "._X.JPG", ".cache"), folders.HIDDEN),
        **dict.fromkeys(("notes.txt", "paper.pdf", "v.mpg"), folders.OTHER_ENDING),
        "linked": folders.LINKED_FOLDER,
        "pipe.png": folders.NO_REGULAR_FILE,
    }


def test_functions_and_sources_follow_the_same_rule(mixed, caplog):
    assert below(mixed, find_images(mixed)) == COUNT
    with caplog.at_level(logging.DEBUG):
        images = open_images(mixed)
    assert below(mixed, [images.name(i) for i in range(len(images))]) == COUNT
    assert sum("8 passed over" in record.message for record in caplog.records) == 1
    assert any("notes.txt" in record.message for record in caplog.records)
    pattern = open_images(f"{mixed}/*.jp*")
    assert below(mixed, [pattern.name(0)]) == ["broken.jpg"]
    with pytest.raises(ImageFileError, match="broken link"):
        pattern.read(0)


def test_hidden_images_alone_are_no_images_and_the_error_counts_them(tmp_path):
    (tmp_path / "._X.JPG").touch()
    with pytest.raises(DataError, match=f"{folders.HIDDEN}: 1"):
        find_images(tmp_path)


def test_endings_of_a_plugin_count_once_it_is_registered(tmp_path, monkeypatch):
    (tmp_path / "x.heic").touch()
    assert list_folder(tmp_path).files == []
    monkeypatch.setitem(Image.EXTENSION, ".heic", "PNG")
    assert below(tmp_path, list_folder(tmp_path).files) == ["x.heic"]


def test_a_folder_that_cannot_be_listed_is_told(tmp_path, monkeypatch, caplog):
    (tmp_path / "locked").mkdir()
    (tmp_path / "a.png").touch()
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = list_folder(tmp_path)
    assert below(tmp_path, listing.files) == ["a.png"]
    assert below(tmp_path, listing.unlisted) == ["locked"]
    assert len(find_images(tmp_path)) == 1
    assert "locked" in caplog.text


def test_labelled_sets_follow_the_same_rule(tmp_path):
    names = ("images/A.JPG", "images/b.v2.Tiff", "labels/A.PNG", "labels/b.v2.bmp", "labels/._A.PNG", "labels/note.txt")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        kind = "L" if name.startswith("labels") else "RGB"
        if not name.endswith("txt"):
            Image.new(kind, (4, 4)).save(tmp_path / name, format="png")
    (tmp_path / "classes.txt").write_text("sky\ntree\n")
    samples = open_segmentation_set(tmp_path)
    assert [(pair.key, pair.image.name, pair.labels.name) for pair in samples.files] == [
        ("A", "A.JPG", "A.PNG"),
        ("b.v2", "b.v2.Tiff", "b.v2.bmp"),
    ]
    (tmp_path / "labels/c.png").symlink_to("nowhere.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "images/c.png")
    with pytest.raises(DataError, match=r"c\.png"):
        open_segmentation_set(tmp_path)[2]


def test_the_endings_of_a_published_layout_count_in_any_case(tmp_path):
    for name, kind in (("JPEGImages/1.JPG", "RGB"), ("SegmentationClass/1.PNG", "L")):
        (tmp_path / name).parent.mkdir()
        Image.new(kind, (4, 4)).save(tmp_path / name)
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("1\n")
    samples = open_segmentation_set(tmp_path, "voc-21")
    assert [(pair.image.name, pair.labels.name) for pair in samples.files] == [("1.JPG", "1.PNG")]
