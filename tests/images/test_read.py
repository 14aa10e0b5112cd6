"""Anything image-like becomes the same batch, and comes back bit for bit."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps

from pyramid_tokenizer.errors import ImageTooLargeError
from pyramid_tokenizer.images.pixels import pad_to_multiple, to_pil, to_uint8
from pyramid_tokenizer.images.read import read_image, to_batch
from pyramid_tokenizer.images.sources import open_images

IMAGES = hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))


def noise(height: int = 12, width: int = 17, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def reference(array: np.ndarray) -> torch.Tensor:
    """(3, H, W) of an (H, W, 3) uint8 array, the plain way."""
    return torch.from_numpy(np.array(array)).permute(2, 0, 1) / 255


def one_pixel(image: object) -> list[float]:
    pixels = read_image(image)  # type: ignore[arg-type]
    assert (pixels == pixels[:, :1, :1]).all()
    return [round(value * 255, 2) for value in pixels[:, 0, 0].tolist()]


def test_a_path_a_pil_image_an_array_and_a_tensor_of_one_image_are_the_same_pixels(tmp_path: Path) -> None:
    array = noise()
    path = tmp_path / "with a space.png"
    Image.fromarray(array).save(path)
    forms = [array, Image.fromarray(array), path, str(path), reference(array), reference(array)[None]]
    for size in (None, 5, 30):
        expected = read_image(reference(array), size=size)
        for form in forms:
            assert torch.equal(read_image(form, size=size), expected)
    assert torch.equal(read_image(array), reference(array))
    assert torch.equal(to_batch(forms), reference(array)[None].expand(6, -1, -1, -1))
    assert torch.equal(to_batch(array), reference(array)[None])


def test_bytes_and_file_objects_are_images_and_stay_open(tmp_path: Path) -> None:
    Image.fromarray(noise()).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    with open(tmp_path / "a.png", "rb") as file, io.BytesIO(data) as buffer:
        for form in (data, bytearray(data), memoryview(data), file, buffer):
            for _ in range(2):  # from the start each time
                assert torch.equal(read_image(form), reference(noise()))
        assert not file.closed and not buffer.closed
        listed = open_images([buffer, file, noise()])
        assert all(torch.equal(pickle.loads(pickle.dumps(listed)).read(i), reference(noise())) for i in range(3))


@settings(deadline=None)
@given(IMAGES)
def test_eight_bit_images_come_back_identical(array: np.ndarray) -> None:
    (picture,) = to_pil(to_batch(array))
    assert picture.mode == "RGB"
    assert np.array_equal(np.asarray(picture), array)
    assert np.array_equal(to_uint8(read_image(picture)).permute(1, 2, 0).numpy(), array)


@pytest.mark.parametrize("view", ["flipped", "read-only", "fortran", "strided"])
def test_arrays_of_any_memory_layout_are_read_alike(view: str) -> None:
    array = noise(8, 10)
    if view == "read-only":
        array.flags.writeable = False
    array = {"flipped": array[::-1, ::-1], "fortran": np.asfortranarray(array), "strided": array[::2, ::3]}.get(
        view, array
    )
    assert torch.equal(read_image(array), reference(array))


@pytest.mark.parametrize("dtype", ["uint16", ">u2", "float16", "float32", "float64", "bool"])
def test_arrays_of_other_dtypes_are_scaled_to_one(dtype: str) -> None:
    scale = 65535 if "u" in dtype else 1
    values = np.array([[0, 1, 0], [1, 0, 1]]) if dtype == "bool" else np.array([[0, 0.25, 1], [0.5, 0.75, 0.125]])
    pixels = read_image((values * scale).astype(dtype))
    expected = torch.from_numpy((values * scale).astype(dtype).astype(np.float64) / scale).float()
    assert torch.equal(pixels, expected.expand(3, 2, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_any_float_dtype_become_float32(dtype: torch.dtype) -> None:
    tensor = torch.tensor([0.0, 0.5, 1.0], dtype=dtype).reshape(3, 1, 1)
    assert torch.equal(read_image(tensor), torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_8_bit_tensors_give_the_pixels_of_8_bit_arrays(device: str) -> None:
    array = np.arange(256 * 3, dtype=np.uint8).reshape(16, 16, 3)  # every value in every channel
    tensor = torch.from_numpy(array).permute(2, 0, 1).to(device)
    assert torch.equal(read_image(tensor).cpu(), read_image(array))
    assert torch.equal(to_batch(tensor[None])[0].cpu(), read_image(array))
    assert torch.equal(to_batch([tensor, tensor])[1].cpu(), read_image(array))
    assert (read_image(tensor, size=9).cpu() - read_image(array, size=9)).abs().max() < 1e-6
    assert torch.equal(to_uint8(tensor), tensor)
    assert np.array_equal(np.asarray(to_pil(tensor)[0]), array)


def test_a_default_dtype_set_by_the_program_changes_nothing() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        pixels = read_image(noise())
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(pixels, reference(noise())) and pixels.dtype == torch.float32


def test_a_float32_batch_is_not_copied() -> None:
    batch = torch.rand(2, 3, 4, 5)
    assert to_batch(batch) is batch
    assert read_image(batch[0]).data_ptr() == batch.data_ptr()


@pytest.mark.gpu
def test_a_tensor_stays_on_its_device() -> None:
    tensor = torch.rand(3, 8, 8, device="cuda")
    assert to_batch(tensor, size=4).device == tensor.device == pad_to_multiple(tensor[None], multiple=5).device
    assert to_uint8(tensor).device == tensor.device


def test_a_list_keeps_its_order() -> None:
    pictures = [noise(seed=seed) for seed in range(3)]
    assert torch.equal(to_batch(pictures), torch.stack([reference(picture) for picture in pictures]))
    assert torch.equal(to_batch(tuple(pictures[::-1])), torch.stack([reference(picture) for picture in pictures[::-1]]))


def test_reading_leaves_the_callers_image_as_it_was() -> None:
    picture = Image.fromarray(noise(channels=4))
    picture.getexif()[0x0112] = 6
    before = picture.tobytes(), picture.mode, picture.size, dict(picture.getexif())
    read_image(picture, size=4)
    assert (picture.tobytes(), picture.mode, picture.size, dict(picture.getexif())) == before


@pytest.mark.parametrize("format", ["png", "tiff", "jpeg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_gives_the_upright_image(tmp_path: Path, orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{format}"
    Image.fromarray(noise()).save(path, exif=exif)
    with Image.open(path) as stored:
        stored.load()
        upright = reference(np.asarray(ImageOps.exif_transpose(stored)))
        assert torch.equal(read_image(stored), upright)
    assert torch.equal(read_image(path), upright)


def test_orientation_six_is_a_quarter_turn_clockwise_also_at_16_bits() -> None:
    picture = Image.fromarray(np.array([[0, 13107, 26214], [39321, 52428, 65535]], dtype=np.uint16))
    picture.getexif()[0x0112] = 6
    expected = torch.tensor([[3, 0], [4, 1], [5, 2]]) / 5
    assert torch.equal(read_image(picture), expected.expand(3, 3, 2))


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\xff" * 40])
def test_broken_exif_shows_the_image_as_stored(exif: bytes) -> None:
    picture = Image.fromarray(noise())
    picture.info["exif"] = exif
    assert torch.equal(read_image(picture), reference(noise()))


def test_an_unknown_orientation_shows_the_image_as_stored() -> None:
    picture = Image.fromarray(noise())
    picture.getexif()[0x0112] = 9
    assert torch.equal(read_image(picture), reference(noise()))


@pytest.mark.parametrize(
    ("mode", "colour", "rgb"),
    [
        ("1", 1, [255, 255, 255]),
        ("L", 51, [51, 51, 51]),
        ("CMYK", (0, 255, 255, 0), [255, 0, 0]),
        ("CMYK", (0, 0, 0, 255), [0, 0, 0]),
        ("CMYK", (255, 0, 0, 0), [0, 255, 255]),
        ("YCbCr", (76, 85, 255), [254, 0, 0]),
        ("HSV", (85, 255, 255), [0, 255, 0]),
        ("RGBX", (1, 2, 3, 0), [1, 2, 3]),
        ("LA", (0, 0), [255, 255, 255]),
        ("LA", (0, 204), [51, 51, 51]),
        ("La", (0, 204), [51, 51, 51]),
        ("RGBA", (255, 0, 0, 0), [255, 255, 255]),
        ("RGBA", (200, 100, 0, 255), [200, 100, 0]),
        ("RGBA", (255, 0, 0, 51), [255, 204, 204]),
        ("RGBa", (51, 0, 0, 51), [255, 204, 204]),
        ("I", 65535, [255, 255, 255]),
        ("I", 13107, [51, 51, 51]),
        ("I;16", 13107, [51, 51, 51]),
        ("I;16B", 13107, [51, 51, 51]),
        ("F", 0.2, [51, 51, 51]),
    ],
)
def test_a_known_colour_of_every_mode_is_that_colour(mode: str, colour: object, rgb: list[int]) -> None:
    assert one_pixel(Image.new(mode, (3, 2), colour)) == rgb  # type: ignore[arg-type]


def test_a_lab_image_has_its_colour() -> None:
    red = Image.merge("LAB", [Image.new("L", (2, 2), value) for value in (138, 209, 198)])
    assert one_pixel(red) == pytest.approx([255, 0, 0], abs=6)


def test_an_adobe_cmyk_jpeg_has_its_colour(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    assert one_pixel(tmp_path / "a.jpg") == pytest.approx([255, 0, 0], abs=3)


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])])
@pytest.mark.parametrize("format", ["png", "gif"])
def test_palette_transparency_is_white(tmp_path: Path, format: str, transparency: object) -> None:
    if format == "gif" and isinstance(transparency, bytes):
        transparency = 1
    picture = Image.new("P", (3, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.putdata([0, 1, 2])
    path = tmp_path / f"a.{format}"
    picture.save(path, transparency=transparency)
    expected = torch.tensor([[1.0, 0, 0], [1, 1, 1], [0, 0, 1]]).T[:, None]  # red, white for the hole, blue
    assert torch.equal(read_image(path), expected)


def test_a_palette_that_holds_alpha_is_composited() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 255, 0, 0, 0, 0], "RGBA")
    picture.putdata([0, 1])
    assert torch.equal(read_image(picture), torch.tensor([[1.0, 0, 0], [1, 1, 1]]).T[:, None])


def test_the_transparent_colour_of_a_grey_png_is_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 102, 51]], dtype=np.uint8)).save(tmp_path / "a.png", transparency=102)
    assert torch.equal(read_image(tmp_path / "a.png"), torch.tensor([0, 255, 51]).div(255).expand(3, 1, 3))


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_of_arrays_is_composited_as_in_images(channels: int) -> None:
    array = noise(channels=channels)
    assert torch.equal(read_image(array), read_image(Image.fromarray(array)))
    colour, alpha = torch.from_numpy(array).double().div(255).permute(2, 0, 1).split([channels - 1, 1])
    assert torch.allclose(read_image(array).double(), (colour * alpha + 1 - alpha).expand(3, -1, -1), atol=1e-6)


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bit_grey_files_are_scaled_and_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.arange(0, 65536, 257 * 5, dtype=np.uint16).reshape(4, -1)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    assert torch.equal(
        read_image(tmp_path / f"a.{suffix}"), torch.arange(0, 256, 5).div(255).reshape(4, -1).expand(3, -1, -1)
    )


def test_the_mode_counts_that_a_file_has_after_decoding(tmp_path: Path) -> None:
    Image.new("I;16", (16, 16), 13107).save(tmp_path / "a.icns")  # Pillow says RGBA until it is decoded
    assert one_pixel(tmp_path / "a.icns") == [51, 51, 51]


@pytest.mark.parametrize("format", ["gif", "webp"])
def test_a_file_gives_its_first_frame_and_an_open_image_its_current_one(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"a.{format}"
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    assert one_pixel(path) == [255, 0, 0]
    with Image.open(path) as opened:
        opened.seek(1)
        assert one_pixel(opened) == [0, 0, 255]


@pytest.mark.slow
def test_a_photo_of_48_megapixels_is_read(tmp_path: Path) -> None:
    Image.new("L", (8000, 6000), 51).save(tmp_path / "a.jpg", quality=95)
    assert torch.allclose(read_image(tmp_path / "a.jpg", size=6), torch.full((3, 6, 8), 0.2), atol=1e-4)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20))
def test_size_is_the_short_side_and_the_aspect_is_kept(height: int, width: int, size: int) -> None:
    pixels = read_image(np.full((height, width), 51, dtype=np.uint8), size=size)
    assert min(pixels.shape[1:]) == size
    assert abs(pixels.shape[1] * width - pixels.shape[2] * height) <= max(height, width) / 2
    assert torch.allclose(pixels, torch.full_like(pixels, 0.2), atol=1e-6)


@pytest.mark.parametrize("size", [3, 6, 11])
def test_downsizing_is_pillows_antialiased_bicubic(size: int) -> None:
    array = noise(24, 32)
    pillow = Image.fromarray(array).resize((round(32 * size / 24), size), Image.Resampling.BICUBIC)
    assert (read_image(array, size=size) - reference(np.asarray(pillow))).abs().max() <= 1.6 / 255


def test_resized_pixels_stay_in_range() -> None:
    checkers = np.indices((16, 16)).sum(0) % 2 * 255
    pixels = read_image(checkers.astype(np.uint8), size=23)
    assert pixels.min() == 0 and pixels.max() == 1


def test_a_thin_strip_may_not_grow_beyond_the_limit() -> None:
    with pytest.raises(ImageTooLargeError, match="max_pixels"):
        read_image(np.zeros((1, 20_000), dtype=np.uint8), size=256)


@settings(deadline=None)
@given(IMAGES, st.integers(1, 7))
def test_padding_repeats_the_edge_and_cropping_inverts_it(array: np.ndarray, multiple: int) -> None:
    batch = to_batch([array, array[::-1]])
    padded = pad_to_multiple(batch, multiple=multiple)
    height, width = batch.shape[-2:]
    bottom, right = padded.shape[-2] - height, padded.shape[-1] - width
    assert 0 <= bottom < multiple and 0 <= right < multiple
    assert padded.shape[-2] % multiple == padded.shape[-1] % multiple == 0
    assert torch.equal(padded[..., :height, :width], batch)
    assert np.array_equal(padded, np.pad(batch, ((0, 0), (0, 0), (0, bottom), (0, right)), mode="edge"))


def test_a_batch_that_fits_is_not_copied() -> None:
    batch = torch.rand(1, 3, 32, 64)
    assert pad_to_multiple(batch, multiple=32) is batch


def test_one_pixel_pads_to_a_whole_cell() -> None:
    assert torch.equal(pad_to_multiple(torch.full((1, 3, 1, 1), 0.3), multiple=32), torch.full((1, 3, 32, 32), 0.3))


def test_8_bit_values_are_rounded_and_clamped() -> None:
    values = torch.tensor([-3.0, 0.0, 0.49, 0.51, 1.49, 254.51, 255.0, 300.0, 128.0]).div(255).reshape(3, 1, 3)
    expected = torch.tensor([0, 0, 0, 1, 1, 255, 255, 255, 128], dtype=torch.uint8).reshape(3, 1, 3)
    assert torch.equal(to_uint8(values), expected)
    assert torch.equal(to_uint8(values.double().requires_grad_()), expected)
    assert np.array_equal(np.asarray(to_pil(values)[0]), expected.permute(1, 2, 0))


def test_bfloat16_is_rounded_once() -> None:
    values = (torch.arange(3 * 86) / 257).bfloat16().reshape(3, 1, 86)
    assert torch.equal(to_uint8(values), to_uint8(values.double()))


def test_to_pil_gives_one_image_per_image_in_order() -> None:
    batch = to_batch([noise(seed=1), noise(seed=2)])
    assert [np.asarray(picture).tolist() for picture in to_pil(batch)] == [noise(seed=seed).tolist() for seed in (1, 2)]
