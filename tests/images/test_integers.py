"""Integer images of more than 8 bits follow one rule, whatever holds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pyramid_tokenizer.errors import ImageValueError
from pyramid_tokenizer.images.read import read_image, to_batch

VALUES = np.array([[0, 300, 4095], [20_000, 65_534, 65_535]])
WIDE = ["int32", "uint32", "int64", "uint64", ">i4"]


def as_forms(values: np.ndarray) -> dict[str, object]:
    """The same grey values in everything that holds more than 16 bits."""
    tensor = torch.from_numpy(values).expand(3, *values.shape)
    return {
        "mode I": Image.fromarray(values.astype(np.int32)),
        **{dtype: values.astype(dtype) for dtype in WIDE},
        **{str(dtype): tensor.to(dtype) for dtype in (torch.int32, torch.int64, torch.uint32)},
        "batch": tensor[None],
    }


def test_the_same_values_give_the_same_pixels_in_every_form() -> None:
    expected = read_image(VALUES.astype(np.uint16))
    assert torch.equal(expected[0], torch.from_numpy((VALUES / 65535).astype(np.float32)))
    forms = as_forms(VALUES)
    forms |= {"I;16": Image.fromarray(VALUES.astype(np.uint16)), "big-endian": VALUES.astype(">u2")}
    forms |= {"uint16": torch.from_numpy(VALUES.astype(np.uint16)).expand(3, 2, 3)}
    assert [name for name, form in forms.items() if not torch.equal(read_image(form), expected)] == []


@pytest.mark.parametrize(
    ("low", "high", "lines"),
    [
        (0, 255, ('image.convert("L")', 'image.convert("I;16")', "array.astype('uint8')", "tensor.to(torch.uint8)")),
        (0, 65_536, ("numpy.asarray(image, dtype='float32') / 65536", "array.astype('float32') / 65536")),
        (-1024, 3071, ("(array.astype('float32') + 1024) / 4095", "(tensor.float() + 1024) / 4095")),
    ],
)
def test_values_whose_white_is_unknown_are_refused_with_the_line_that_scales_them(
    low: int, high: int, lines: tuple[str, ...]
) -> None:
    values = np.linspace(low, high, 6).astype(np.int64).reshape(2, 3)
    shown = ""
    for name, form in as_forms(values).items():
        if low < 0 and "uint" in name:
            continue
        for call in (read_image, to_batch):
            with pytest.raises(ImageValueError) as error:
                call(form)
            shown += str(error.value)
            assert f"{low}..{high}" in str(error.value), name
    assert [line for line in lines if line not in shown] == []


def test_the_lines_of_the_errors_give_the_image() -> None:
    values = np.array([[0, 51, 255]], dtype=np.int32)
    expected = torch.tensor([0, 0.2, 1]).expand(3, 1, 3)
    image, tensor = Image.fromarray(values), torch.from_numpy(values).expand(3, 1, 3)
    for scaled in (image.convert("L"), values.astype("uint8"), tensor.to(torch.uint8), tensor.float() / 255):
        assert torch.equal(read_image(scaled), expected)
    assert torch.equal(read_image(image.convert("I;16")), read_image(values.astype("uint16")))


def test_dark_16_bit_images_and_files_are_dark_and_not_refused(tmp_path: Path) -> None:
    dark = np.full((2, 3), 255, dtype=np.uint16)
    expected = torch.full((3, 2, 3), 255 / 65535)
    forms = [dark, Image.fromarray(dark), torch.from_numpy(dark).expand(3, 2, 3)]
    for suffix in ("pgm", "png", "tiff"):
        Image.fromarray(dark).save(tmp_path / f"dark.{suffix}")
        forms.append(tmp_path / f"dark.{suffix}")
    assert all(torch.equal(read_image(form), expected) for form in forms)
    Image.fromarray(dark.astype(np.int32)).save(tmp_path / "dark32.tiff")
    with pytest.raises(ImageValueError, match=r"255\.\.255"):
        read_image(tmp_path / "dark32.tiff")


def test_a_file_whose_integers_are_refused_is_named(tmp_path):
    path = tmp_path / "depth.tif"
    Image.fromarray(np.full((4, 4), 70_000, dtype=np.int32)).save(path)
    for read in (read_image, lambda file: to_batch([file])):
        with pytest.raises(ImageValueError, match="depth.tif.*70000"):
            read(path)
