"""The tables of export.py."""

from __future__ import annotations

import numpy as np

from benchmarks import export


def test_the_tables_have_what_was_measured():
    compared = {
        "batch": 8,
        "images": 50,
        "ids": 272000,
        "ids_that_differ": 1,
        "largest_pixel": 6.6e-7,
        "largest_embedding": 2.8e-7,
        "labels_that_differ": 0,
    }
    result = {
        "compared": [compared],
        "images_per_second": {"8": {"encode, torch": 7.25}},
        "start_seconds": {"clock": 1.5, "processor": 0.4},
    }
    text = export.to_markdown(result)
    assert all(fact in text for fact in ("1 of 272,000", "6.6e-07", "2.8e-07", "7.2", "1.50 s", "0.40 s"))


def test_the_centre_of_an_image_is_cut_out():
    image = np.arange(3 * 4 * 8, dtype=np.float32).reshape(3, 4, 8)
    assert np.array_equal(export.centre(image, 4), image[:, :, 2:6])
