import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pyramid_tokenizer.errors import ImageError, ImageFileError
from pyramid_tokenizer.images.packed import PackedStrings, read_encoded, read_span


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]))))
def test_packed_strings_are_those_that_were_put_in(strings):
    packed = pickle.loads(pickle.dumps(PackedStrings(strings)))
    assert [packed[i] for i in range(len(packed))] == strings


def test_file_names_of_any_bytes_survive():
    name = b"\xe9\xff.jpg".decode("utf-8", "surrogateescape")
    assert PackedStrings(["a", name])[1] == name


def test_a_span_that_the_file_does_not_have_is_an_error(tmp_path):
    file = tmp_path / "bytes"
    file.write_bytes(bytes(range(10)))
    assert read_span(str(file), 3, 4) == bytes([3, 4, 5, 6])
    with pytest.raises(ImageFileError, match="4 bytes at 8 .*got 2"):
        read_span(str(file), 8, 4)
    with pytest.raises(ImageFileError, match="No such file"):
        read_span(str(tmp_path / "gone"), 0, 1)


def test_encoded_images_are_read_as_files_are(encoded, pixels):
    assert all(torch.equal(read_encoded(data), image) for data, image in zip(encoded, pixels, strict=True))


@pytest.mark.parametrize(
    "damage", [lambda _: None, lambda _: b"", lambda _: b"text", lambda data: data[:200], lambda d: d[7:]]
)
def test_damaged_bytes_are_an_image_error(encoded, damage):
    with pytest.raises(ImageError):
        read_encoded(damage(encoded[0]))


def test_a_decompression_bomb_is_an_image_error(encoded, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="DecompressionBomb"):
        read_encoded(encoded[0])
