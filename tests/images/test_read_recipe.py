"""The image recipe: pixels change with `IMAGE_RECIPE_VERSION` and only with it."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np

from pyramid_tokenizer.images.read import IMAGE_RECIPE_VERSION

GOLDEN = Path(__file__).parents[1] / "golden"


def test_the_pixels_of_the_recipe_are_those_stored_under_its_version() -> None:
    pixels = runpy.run_path(str(GOLDEN / "make_image_recipe.py"))["recipe_pixels"]()
    with np.load(GOLDEN / f"image-recipe-{IMAGE_RECIPE_VERSION}.npz") as file:
        stored = dict(file)
    assert sorted(stored) == sorted(pixels)
    resized = {name for name in pixels if name.endswith(("smaller", "larger"))}
    for name, expected in stored.items():
        assert expected.dtype == pixels[name].dtype == np.float32
        # machines add up the resizing filter in different orders
        np.testing.assert_allclose(pixels[name], expected, rtol=0, atol=1e-5 if name in resized else 0, err_msg=name)


def test_only_the_present_version_of_the_recipe_is_stored() -> None:
    assert [path.name for path in GOLDEN.glob("image-recipe-*")] == [f"image-recipe-{IMAGE_RECIPE_VERSION}.npz"]
