"""How many crops a fit draws: enough for the codebooks, of however few images."""

import itertools
import math
import warnings

import pytest

from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.training import TrainConfig
from pyramid_tokenizer.training.fit_crops import crops_for, fit_batches

TINY = {"codebook_sizes": (4096, 4096, 4096), "strides": (32, 16, 8), "refit": True}


@pytest.mark.parametrize(("sizes", "cells"), [*itertools.product([(7, 8), (100, 8), (8, 1000)], [1, 2, 5])])
def test_the_crops_are_the_fewest_that_give_every_level_its_cells(sizes, cells):
    crops = crops_for(sizes, (32, 8), crop_px=64, cells_per_code=cells)
    enough = [
        all(n * (64 // s) ** 2 >= cells * k for k, s in zip(sizes, (32, 8), strict=True)) for n in (crops - 1, crops)
    ]
    assert enough == [False, True]


@pytest.mark.parametrize("num_images", [1, 8, 63])
def test_few_images_give_two_cells_per_code_and_it_is_told(num_images):
    with pytest.warns(
        UserWarning, match=f"512 overlapping crops of {num_images} image.* {512 // num_images} of each.*frozen"
    ):
        assert fit_batches(TrainConfig(), num_images=num_images, **TINY) * 32 == 512


@pytest.mark.parametrize(("num_images", "crops"), [(64, 512), (100, 800), (500, 4000), (10**6, 4800)])
def test_more_images_give_eight_crops_each_up_to_the_limit_and_nothing_is_told(num_images, crops):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit_batches(TrainConfig(), num_images=num_images, **TINY) == crops // 32


@pytest.mark.parametrize(("fit_images", "works"), [(256, True), (255, False), (1, False)])
def test_a_limit_that_leaves_codes_without_a_cell_is_refused_with_the_least_that_works(fit_images, works):
    config = TrainConfig(fit_images=fit_images)
    if works:
        assert fit_batches(config, num_images=10**6, **TINY) * 32 == math.ceil(4096 / 16)
        return
    with pytest.raises(ConfigError, match=rf"--fit-images\) of at least 256, .* got {fit_images}"):
        fit_batches(config, num_images=10**6, **TINY)
