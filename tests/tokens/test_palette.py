"""The colours of classes and codes, as people see them who do not tell all colours apart."""

from __future__ import annotations

import numpy as np
import pytest

from pyramid_tokenizer.tokens.palette import PALETTE, class_colour

# Machado, Oliveira and Fernandes 2009, "A physiologically-based model for simulation of color vision deficiency", severity
# 1.0: matrices for linear red, green and blue.
EYES = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def cielab(linear: np.ndarray) -> np.ndarray:
    """(N, 3) lightness, a and b of (N, 3) linear red, green and blue, with the white of sRGB."""
    ratio = linear @ TO_XYZ.T / TO_XYZ.sum(1)
    x, y, z = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def distances(count: int, eyes: str) -> np.ndarray:
    """(N, N) CIELAB distances (Delta E 1976) of the first N colours as those eyes see them."""
    srgb = np.array([class_colour(index) for index in range(count)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    lab = cielab(np.clip(linear @ EYES[eyes].T, 0, 1))
    return np.linalg.norm(lab[:, None] - lab[None], axis=2)


def test_cielab_is_that_of_the_standard_and_every_eye_sees_greys_as_they_are() -> None:
    known = cielab(np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(known, [[100, 0, 0], [53.24, 80.09, 67.20]], atol=0.02)
    for matrix in EYES.values():
        np.testing.assert_allclose(matrix.sum(1), 1, atol=2e-6)


# measured, in this order: the first 8, the first 10 and all 24 colours 22.8, 15.6 and 7.9 apart at least
@pytest.mark.parametrize(
    ("count", "least"),
    [
        (8, {"normal": 34.9, "protanopia": 25.6, "deuteranopia": 22.7, "tritanopia": 26.0}),
        (10, {"normal": 27.2, "protanopia": 21.0, "deuteranopia": 19.1, "tritanopia": 15.6}),
        (len(PALETTE), {"normal": 15.3, "protanopia": 8.8, "deuteranopia": 7.8, "tritanopia": 9.9}),
    ],
)
def test_any_two_of_the_first_colours_are_apart_for_all_eyes(count: int, least: dict[str, float]) -> None:
    for eyes, value in least.items():
        assert distances(count, eyes)[np.triu_indices(count, k=1)].min() > value, eyes


@pytest.mark.parametrize(("eyes", "least"), [("protanopia", 23), ("deuteranopia", 12), ("tritanopia", 25)])
def test_neighbours_in_a_legend_of_24_classes_are_further_apart(eyes: str, least: float) -> None:
    assert np.diagonal(distances(len(PALETTE), eyes), offset=1).min() > least
