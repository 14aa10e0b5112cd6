"""Keys: names that stay when a folder moves."""

from __future__ import annotations

import os

import pytest
import torch

from pyramid_tokenizer.datasets.keys import Keys, digest_of, pack, unpack
from pyramid_tokenizer.errors import DataError
from pyramid_tokenizer.images import open_images


@pytest.fixture
def photos(tmp_path, monkeypatch, files):
    """photos/trip/a.png, photos/b.png, a list of them, and shards/0.tar, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos/trip/a.png", "photos/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(files[0].read_bytes())
    (tmp_path / "photos.txt").write_text("photos/b.png\nphotos/trip/a.png\n")
    return tmp_path


@pytest.mark.parametrize("absolute", [False, True])
def test_the_folder_that_was_given_is_not_part_of_a_key(photos, write_tar, absolute, encoded):
    write_tar(photos / "shards" / "0.tar", {"x/1.png": encoded[0]})
    start = f"{photos}/" if absolute else ""
    expected = {
        "photos": ["b.png", "trip/a.png"],
        "photos/": ["b.png", "trip/a.png"],
        "photos/**/*.png": ["b.png", "trip/a.png"],
        "photos/t*/*.png": ["trip/a.png"],
        "photos.txt": ["photos/b.png", "photos/trip/a.png"],
        "shards": ["0.tar:x/1.png"],
        "shards/0.tar": ["0.tar:x/1.png"],
        "shards/{0..0}.tar": ["0.tar:x/1.png"],
    }
    for given, keys in expected.items():
        assert list(Keys(open_images(start + given), start + given)) == keys


def test_lists_and_images_in_memory_keep_their_names(photos):
    listed = ["photos/b.png", "photos/trip/a.png"]
    assert list(Keys(open_images(listed), listed)) == listed
    batch = torch.rand(2, 3, 8, 8)
    assert list(Keys(open_images(batch), batch)) == ["image 0", "image 1"]


def test_bytes_that_are_no_text_become_escapes(photos):
    with open(os.fsencode(photos / "photos") + b"/stra\xdfe.png", "wb"):
        pass
    assert list(Keys(open_images("photos"), "photos")) == ["b.png", "stra\\xdfe.png", "trip/a.png"]


def test_keys_come_back_and_a_digest_tells_their_order():
    keys = ["b", "ä/a", ""]
    assert unpack(pack(keys)) == keys
    assert pack(keys) == pack(keys)
    digests = {digest_of(keys), digest_of(keys[::-1]), digest_of(keys[:2]), digest_of(["b\0ä/a", ""])}
    assert len(digests) >= 3
    with pytest.raises(DataError, match="'b' as images 0 and 2"):
        digest_of(["b", "a", "b"])
