"""Writes image-recipe-VERSION.npz, the pixels of small images under the image recipe: python tests/golden/make_image_recipe.py.

The images are formulas and stored without loss, so the pixels depend on the recipe alone. A change of the recipe raises
`IMAGE_RECIPE_VERSION`, and this script then writes the next file; delete the one before.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pyramid_tokenizer.images.pixels import pad_to_multiple
from pyramid_tokenizer.images.read import IMAGE_RECIPE_VERSION, read_image

PATH = Path(__file__).with_name(f"image-recipe-{IMAGE_RECIPE_VERSION}.npz")
_ORIENTATION = 0x0112


def _numbers(*shape: int, dtype: str = "uint8") -> np.ndarray:
    """Every value of the dtype can come; neighbours differ much."""
    count = int(np.prod(shape))
    return (np.arange(count, dtype=np.int64) * 40_503 % (np.iinfo(dtype).max + 1)).astype(dtype).reshape(shape)


def recipe_pixels() -> dict[str, np.ndarray]:
    """(3, H, W) float32 by the name of what is special about an image."""
    colours = Image.fromarray(_numbers(4, 5, 3))
    palette = Image.fromarray(_numbers(4, 5) % 7).convert("P")
    palette.putpalette(_numbers(21).tolist())
    images: dict[str, Image.Image] = {
        "rgb": colours,
        "grey": Image.fromarray(_numbers(4, 5)),
        "one bit": Image.fromarray(_numbers(4, 5) > 127),
        "palette": palette,
        "cmyk": colours.convert("CMYK"),
        "16 bit": Image.fromarray(_numbers(4, 5, dtype="uint16")),
        "grey with alpha": Image.fromarray(_numbers(4, 5, 2)),
        "rgb with alpha": Image.fromarray(_numbers(4, 5, 4)),
    }
    pixels: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:

        def read(name: str, image: Image.Image, suffix: str = "png", **options: object) -> None:
            path = Path(folder, f"{len(pixels)}.{suffix}")
            image.save(path, **options)
            pixels[name] = read_image(path).numpy()

        for name, image in images.items():
            read(name, image, "tiff" if name == "cmyk" else "png")
        read("transparent palette entry", palette, transparency=3)
        read("first frame", images["grey"], "gif", save_all=True, append_images=[Image.new("L", (5, 4))])
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[_ORIENTATION] = orientation
            read(f"orientation {orientation}", colours, exif=exif)
    pixels["uint8 tensor"] = read_image(torch.from_numpy(_numbers(3, 4, 5))).numpy()
    pixels["float array"] = read_image(_numbers(4, 5) / 255).numpy()
    for name, array, size in (("smaller", _numbers(24, 31, 3), 7), ("larger", _numbers(4, 5, 3), 9)):
        pixels[name] = read_image(array, size=size).numpy()
        pixels[f"tensor {name}"] = read_image(read_image(array), size=size).numpy()
    pixels["padded"] = pad_to_multiple(read_image(colours)[None], multiple=7)[0].numpy()
    return pixels


if __name__ == "__main__":
    np.savez_compressed(PATH, **recipe_pixels())
    print(f"wrote {PATH.name}: {PATH.stat().st_size} bytes")
