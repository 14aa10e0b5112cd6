"""Resized reading, and JPEG files decoded at a fraction of their size."""

import pytest
import torch
from PIL import Image

from pyramid_tokenizer.errors import ImageFileError
from pyramid_tokenizer.images import open_images, read_image, read_resized, to_pil
from pyramid_tokenizer.images.draft import read_jpeg_draft


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory, smooth):
    """A JPEG of 141 x 203 px, which EXIF turns on its side."""
    file = tmp_path_factory.mktemp("jpeg") / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    to_pil(smooth(1, 141, 203, seed=5))[0].save(file, quality=95, exif=exif)
    return file


@pytest.mark.parametrize("size", [8, 17])
def test_a_draft_has_the_size_and_nearly_the_pixels_of_the_full_image(jpeg, size):
    full, draft = read_image(jpeg, size=size), read_jpeg_draft(jpeg, size=size)
    assert draft.shape == full.shape == (3, round(203 * size / 141), size)
    assert 0 < (draft - full).abs().mean() < 0.02
    assert torch.equal(draft, read_jpeg_draft(jpeg.read_bytes(), size=size))


def test_small_jpegs_and_other_formats_are_read_in_full(jpeg, files):
    assert torch.equal(read_jpeg_draft(jpeg, size=40), read_image(jpeg, size=40))
    assert torch.equal(read_jpeg_draft(files[0], size=8), read_image(files[0], size=8))


@pytest.mark.parametrize("data", [b"", b"text", None])
def test_what_is_no_image_is_the_error_of_a_full_read(jpeg, tmp_path, data):
    file = tmp_path / "damaged.jpg"
    file.write_bytes(jpeg.read_bytes()[:900] if data is None else data)
    with pytest.raises(ImageFileError, match=r"damaged\.jpg"):
        read_jpeg_draft(file, size=8)
    with pytest.raises(ImageFileError, match=r"gone\.jpg"):
        read_jpeg_draft(tmp_path / "gone.jpg", size=8)


def test_every_source_gives_the_same_resized_pixels(tmp_path, jpeg, write_tar, write_parquet, image_cache):
    datasets = pytest.importorskip("datasets")
    data = jpeg.read_bytes()
    sources = [
        [jpeg],
        write_tar(tmp_path / "a.tar", {"a.jpg": data}),
        write_parquet(tmp_path / "a.parquet", image=[data]),
        datasets.Dataset.from_dict({"image": [data]}),
        datasets.Dataset.from_dict({"image": [str(jpeg)]}).cast_column("image", datasets.Image()),
    ]
    for source in map(open_images, sources):
        assert torch.equal(read_resized(source, 0, size=16), read_image(jpeg, size=16))
        assert torch.equal(read_resized(source, 0, size=16, jpeg_draft=True), read_jpeg_draft(jpeg, size=16))
        assert torch.equal(read_resized(source, 0, jpeg_draft=True), read_image(jpeg))
    decoded = open_images([Image.open(jpeg)])
    assert torch.equal(read_resized(decoded, 0, size=16, jpeg_draft=True), read_image(jpeg, size=16))
