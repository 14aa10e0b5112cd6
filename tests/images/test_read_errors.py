"""What is no image is refused, and the message says what to do."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pyramid_tokenizer.errors import ImageFileError, ImageTooLargeError, ImageValueError, MixedSizesError
from pyramid_tokenizer.images import checks
from pyramid_tokenizer.images.pixels import pad_to_multiple, to_pil
from pyramid_tokenizer.images.read import DEFAULT_MAX_PIXELS, read_image, to_batch


def noise(height: int = 12, width: int = 17, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def reference(array: np.ndarray) -> torch.Tensor:
    """(3, H, W) of an (H, W, 3) uint8 array, the plain way."""
    return torch.from_numpy(np.array(array)).permute(2, 0, 1) / 255


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def encoded(format: str, array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.full((3, 4, 4), float("nan")), "finite"),
        (torch.full((3, 4, 4), float("inf")), "finite"),
        (np.full((4, 4, 3), np.nan), "finite"),
        (np.full((4, 4, 3), -np.inf), "finite"),
        (torch.full((3, 4, 4), 200.0), "divide by 255"),
        (np.full((4, 4, 3), 200.0), "divide by 255"),
        (Image.new("F", (4, 4), 200), "divide by 255"),
        (torch.full((3, 4, 4), -0.5), "normalisation"),
        (torch.full((3, 4, 4), 1.001), "1.001"),
        (torch.zeros(3, 4, 4, dtype=torch.bool), r"bool.*images\.float\(\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int16), r"int16.*to\(torch\.uint8\)"),
        (np.zeros((4, 4, 3), dtype=np.int16), "int16.*astype"),
        (np.zeros((4, 4, 3), dtype=">i2"), "i2.*astype"),
        (np.zeros((4, 4), dtype=complex), "complex"),
        (np.array([["a"]]), "<U1"),
        (torch.zeros(4, 5, 3), r"permute\(2, 0, 1\)"),
        (torch.zeros(2, 4, 5, 3), r"permute\(0, 3, 1, 2\)"),
        (torch.zeros(1, 4, 4), r"expand\(3, -1, -1\)"),
        (torch.zeros(4, 4), r"\(3, H, W\)"),
        (torch.zeros(2, 3, 4, 4), "batch of 2"),
        (np.zeros((3, 8, 8), dtype=np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((2, 8, 8, 3), dtype=np.uint8), r"list\(array\)"),
        (np.zeros(8, dtype=np.uint8), r"\(H, W\)"),
        (np.zeros((0, 8, 3), dtype=np.uint8), "empty"),
        (np.zeros((0, 8)), "empty"),
        (torch.zeros(3, 0, 8), "empty"),
        (Image.new("RGB", (0, 8)), "empty"),
        (None, "NoneType"),
        (io.StringIO("text"), "'rb'"),
        ({"image": 3}, r'item\["image"\]'),
        ([np.zeros((4, 4, 3), dtype=np.uint8)], "list"),
    ],
)
def test_pixels_that_are_no_image_are_refused_with_a_cure(image: object, message: str) -> None:
    with pytest.raises(ImageValueError, match=message):
        read_image(image)  # type: ignore[arg-type]


def test_rounding_beyond_the_range_is_clamped() -> None:
    values = torch.tensor([-5e-5, 0.5, 1 + 5e-5]).reshape(3, 1, 1)
    expected = torch.tensor([0, 0.5, 1]).reshape(3, 1, 1)
    assert torch.equal(read_image(values), expected)
    assert torch.equal(read_image(values.permute(1, 2, 0).numpy()), expected)


@pytest.mark.parametrize("bad", [0, -1, 2.5, True, "8"])
def test_a_size_that_is_no_positive_whole_number_is_refused(bad: object) -> None:
    for call in (read_image, to_batch):
        with pytest.raises(ImageValueError, match="size"):
            call(torch.zeros(3, 4, 4), size=bad)  # type: ignore[arg-type]
    with pytest.raises(ImageValueError, match="multiple"):
        pad_to_multiple(torch.zeros(1, 3, 4, 4), multiple=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 3, 0, 4)])
def test_padding_refuses_what_is_no_batch(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageValueError, match="batch"):
        pad_to_multiple(torch.zeros(shape), multiple=2)


@pytest.mark.parametrize(
    "bad", [torch.zeros(3, 4, 4, dtype=torch.int16), torch.zeros(1, 4, 4), torch.full((3, 1, 1), float("nan"))]
)
def test_what_is_no_image_does_not_become_a_image(bad: torch.Tensor) -> None:
    with pytest.raises(ImageValueError):
        to_pil(bad)


def test_mixed_sizes_are_named_and_point_to_encode_many() -> None:
    with pytest.raises(MixedSizesError, match=r"12 x 17 \(image 0\), 8 x 9 \(image 2\): use encode_many"):
        to_batch([noise(), noise(), noise(8, 9)])


def test_an_empty_list_is_refused() -> None:
    for empty in ([], ()):
        with pytest.raises(ImageValueError, match=f"empty {type(empty).__name__}"):
            to_batch(empty)


def test_a_bad_item_of_a_list_is_named() -> None:
    with pytest.raises(ImageFileError, match=r"image 1 of 2: .*nowhere\.png"):
        to_batch([noise(), "nowhere.png"])


def test_tensors_of_several_devices_are_refused() -> None:
    with pytest.raises(ImageValueError, match="cpu, meta"):
        checks.check_stackable([torch.zeros(3, 2, 2), torch.zeros(3, 2, 2, device="meta")])


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no file"), (b"", "empty file"), (b"just some text\n", "known format"), ("directory", "a directory")],
)
def test_what_is_no_image_file_is_named(tmp_path: Path, content: bytes | str | None, message: str) -> None:
    path = tmp_path / "image.jpg"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "directory":
        path.mkdir()
    for form in (path, str(path)):
        with pytest.raises(ImageFileError, match=f"{message}.*image.jpg"):
            read_image(form)


@pytest.mark.parametrize("data", [b"", b"bytes", bytearray(b"\x89PNG\r\n\x1a\n"), io.BytesIO(b"GIF89a")])
def test_bytes_that_are_no_image_are_a_file_error(data: object) -> None:
    with pytest.raises(ImageFileError):
        read_image(data)  # type: ignore[arg-type]


@pytest.mark.parametrize("kept", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA"])
def test_a_truncated_file_is_never_accepted(tmp_path: Path, format: str, kept: float) -> None:
    data = encoded(format, noise(64, 80))
    path = tmp_path / "cut"
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ImageFileError, match="cut"):
        read_image(path)


def test_a_callers_truncated_image_is_refused_every_time() -> None:
    data = encoded("JPEG", noise(64, 80))
    opened = Image.open(io.BytesIO(data[: len(data) // 2]))
    for _ in range(2):
        with pytest.raises(ImageFileError, match="truncated"):
            read_image(opened)


def test_a_closed_image_is_refused() -> None:
    picture = Image.open(io.BytesIO(encoded("PNG", noise())))
    picture.close()
    with pytest.raises(ImageFileError, match="PIL image"):
        read_image(picture)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF"]),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), max_size=4),
)
def test_damaged_bytes_give_a_image_or_our_error(
    tmp_path_factory: pytest.TempPathFactory, format: str, flips: list[tuple[int, int]]
) -> None:
    content = bytearray(encoded(format, noise(6, 7)))
    for position, flip in flips:
        content[position % len(content)] ^= flip
    path = tmp_path_factory.mktemp("damaged") / "a"
    path.write_bytes(content)
    try:
        pixels = read_image(path)
    except (ImageFileError, ImageTooLargeError, ImageValueError):
        return
    assert pixels.dtype == torch.float32 and pixels.shape[0] == 3 and pixels.min() >= 0 and pixels.max() <= 1


@pytest.mark.parametrize("side", [60_000, 10_000])
@pytest.mark.parametrize("action", ["ignore", "error"])
def test_a_decompression_bomb_is_refused_whatever_the_warning_filter(tmp_path: Path, side: int, action: str) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(side, side))
    limits = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter(action)  # type: ignore[arg-type]
        with pytest.raises(ImageTooLargeError):
            read_image(path)
    assert limits == Image.MAX_IMAGE_PIXELS


def test_the_limit_is_checked_before_anything_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "small_bomb.png"
    path.write_bytes(png_header(60, 60))  # decoding it would fail as truncated
    with pytest.raises(ImageTooLargeError, match="at most 3599 pixels, got height 60 x width 60"):
        read_image(path, max_pixels=3599)
    with pytest.raises(ImageFileError):
        read_image(path, max_pixels=3600)


def test_the_limit_holds_for_arrays_tensors_and_images_alike() -> None:
    assert DEFAULT_MAX_PIXELS >= 8000 * 6000
    for form in (noise(4, 5), reference(noise(4, 5)), Image.fromarray(noise(4, 5))):
        with pytest.raises(ImageTooLargeError, match="at most 19"):
            to_batch(form, max_pixels=19)
        assert torch.equal(to_batch(form, max_pixels=20), reference(noise(4, 5))[None])
