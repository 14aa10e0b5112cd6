"""A cache of its own for all that copies images."""

import pytest


@pytest.fixture(autouse=True)
def cache(image_cache):
    """Every test of this folder has one."""
    return image_cache
