"""The torch-free reader against the library: pixels by the same recipe, and no torch in its process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pyramid_tokenizer.export import reader
from pyramid_tokenizer.export.reader import OnnxTokenizer, TokenIds
from pyramid_tokenizer.images import read_image
from pyramid_tokenizer.images.synthetic import synthetic_images

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "CMYK", "1", "I;16", "F"])
@pytest.mark.parametrize("size", [None, 29, 64])
def test_an_image_of_any_mode_has_the_librarys_pixels(mode: str, size: int | None) -> None:
    pixels = synthetic_images(1, 40, 56)[0].transpose(1, 2, 0)
    rgb = Image.fromarray(pixels)
    made = {
        "RGBA": lambda: Image.fromarray(np.dstack([pixels, pixels[..., :1]])),
        "I;16": lambda: Image.fromarray(pixels[..., 0].astype(np.uint16) * 257),
        "F": lambda: Image.fromarray(pixels[..., 0].astype(np.float32) / 255),
    }
    image = made.get(mode, lambda: rgb.convert(mode))()
    np.testing.assert_allclose(reader.read_image(image, size), read_image(image, size=size).numpy(), atol=1e-6)


@pytest.mark.parametrize(("height", "width", "size"), [(3, 200, 2), (333, 47, 20), (17, 17, 171), (300, 200, 199)])
def test_resizing_down_and_up_is_the_librarys_kernel(height: int, width: int, size: int) -> None:
    array = synthetic_images(1, height, width)[0].transpose(1, 2, 0)
    np.testing.assert_allclose(reader.read_image(array, size), read_image(array, size=size).numpy(), atol=2e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_file_is_turned_as_its_exif_says(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.jpg"
    Image.fromarray(synthetic_images(1, 24, 40)[0].transpose(1, 2, 0)).save(path, exif=exif)
    np.testing.assert_array_equal(reader.read_image(path), read_image(path).numpy())


def test_an_image_that_covers_one_size_keeps_its_centre() -> None:
    image = np.zeros((3, 20, 60), dtype=np.float32)
    image[:, :, 20:40] = 1
    assert reader._cover(image, (20, 20)).min() == 1
    assert reader._cover(image, (40, 40)).shape == (3, 40, 40)


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2, 3), np.int32), np.full((2, 2), 2.0), np.full((2, 2), np.nan), np.zeros((2,))]
)
def test_an_array_that_is_no_image_is_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        reader.read_image(array)


def test_a_folder_without_exported_files_names_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"encode\.onnx"):
        reader.OnnxTokenizer(tmp_path)


def test_the_recipe_is_the_one_that_the_library_follows() -> None:
    from pyramid_tokenizer.images import IMAGE_RECIPE_VERSION

    assert reader.IMAGE_RECIPE == IMAGE_RECIPE_VERSION


@pytest.mark.slow
def test_importing_the_reader_loads_no_torch() -> None:
    script = "import sys; import pyramid_tokenizer.export.reader; print('torch' in sys.modules, 'onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_synthetic_images_never_change() -> None:
    import hashlib

    digest = hashlib.sha256(synthetic_images(2, 48, 64).tobytes()).hexdigest()
    assert digest == "438f141505383f283196c1b91a2e57a859aa182ea43e4882b86d9bf140b7efe3"


def test_the_graphs_give_what_the_tokenizer_gives(toy_tokenizer, smooth: Callable[..., torch.Tensor]) -> None:
    from pyramid_tokenizer.export.graphs import DecodeGraph, EmbedGraph, EncodeGraph

    images = smooth(3, 64, 96, seed=5)
    tokens = toy_tokenizer.encode(images)
    encoded = EncodeGraph(toy_tokenizer)(images)
    assert all(torch.equal(a, b) for a, b in zip(encoded, (*tokens.ids, tokens.image_ids), strict=True))
    for levels in (1, 2, 3):
        ids = [own if level < levels else torch.full_like(own, -1) for level, own in enumerate(tokens.ids)]
        torch.testing.assert_close(
            DecodeGraph(toy_tokenizer)(ids), toy_tokenizer.decode(tokens[:levels]), atol=1e-5, rtol=0
        )
        embedding = EmbedGraph(toy_tokenizer)([*ids, tokens.image_ids])
        torch.testing.assert_close(embedding, toy_tokenizer.embedding(tokens[:levels]))


@pytest.mark.parametrize(
    "image_ids", [None, np.zeros((3, 2), int), np.array([[0, 3], [0, 0]]), np.array([[-1, 0], [0, 0]])]
)
def test_image_ids_that_do_not_fit_the_levels_or_their_codebooks_are_refused(image_ids: Any) -> None:
    tok = object.__new__(OnnxTokenizer)  # without files
    tok._facts = {"image_codebook_sizes": [5, 3]}
    levels = TokenIds([np.zeros((2, 1, 1), np.int64)], np.array([[4, 2], [0, 0]]))
    assert tok._image_input(levels[:1], 2)["image_ids"].tolist() == [[4, 2], [0, 0]]
    with pytest.raises(ValueError, match=r"image_ids \(2, 2\) < \[5, 3\]"):
        tok._image_input(TokenIds(levels, image_ids), 2)
