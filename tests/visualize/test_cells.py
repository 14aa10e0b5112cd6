"""`overlay_tokens`: every cell in the colour of its finest token, with its borders."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pyramid_tokenizer.errors import ImageValueError, TokenError
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.visualize.cells import depth_colours, overlay_tokens


@pytest.fixture
def tokens(toy_tokenizer) -> TokenPyramid:
    """Three levels at strides 32, 16 and 8 of an image of 40 x 60 px: the upper left cell is split, and its first child."""
    ids = [np.full((1, h, w), -1) for h, w in ((2, 2), (4, 4), (8, 8))]
    ids[0][:], ids[1][:, :2, :2], ids[2][:, :2, :2] = 0, 0, 0
    return toy_tokenizer.tokens(ids, image_size=(40, 60))


def test_each_cell_has_the_colour_of_its_finest_token(tokens):
    drawn = np.asarray(overlay_tokens(Image.new("RGB", (60, 40)), tokens, strides=(32, 16, 8), alpha=1, legend=False))
    expected = np.zeros((40, 60), int)
    expected[:32, :32], expected[:16, :16] = 1, 2
    assert (drawn == np.array(depth_colours(3))[expected]).all()


def test_borders_are_those_of_cells_that_are_not_split(tokens):
    drawn = np.asarray(overlay_tokens(Image.new("RGB", (60, 40)), tokens, strides=(32, 16, 8), alpha=0, legend=False))
    lines = drawn.any(-1)
    assert lines[12].nonzero()[0].tolist() == [0, 8, 16, 32]
    assert lines[20].nonzero()[0].tolist() == [0, 16, 32]
    assert lines[36].nonzero()[0].tolist() == [0, 32]
    assert lines[:, 4].nonzero()[0].tolist() == [0, 8, 16, 32]


def test_the_photo_is_seen_in_grey_and_the_legend_tells_the_shares(tokens):
    photo = Image.new("RGB", (60, 40), (200, 100, 0))
    drawn = overlay_tokens(photo, tokens, strides=(32, 16, 8))
    assert drawn.height > 40
    grey = np.asarray(photo.convert("L"))[0, 0]
    expected = np.round(0.4 * np.array(depth_colours(3)[0]) + 0.6 * grey)
    assert np.abs(np.asarray(drawn)[39, 59] - expected).max() <= 1


def test_colours_go_from_blue_to_yellow_and_get_lighter():
    for count in (1, 2, 3, 4, 6):
        colours = depth_colours(count)
        assert len(set(colours)) == count
        lightness = [0.3 * red + 0.59 * green + 0.11 * blue for red, green, blue in colours]
        assert lightness == sorted(lightness)
        assert colours[0] == depth_colours(1)[0]


def test_what_does_not_belong_together_is_refused(tokens):
    photo = Image.new("RGB", (60, 40))
    with pytest.raises(ImageValueError, match=r"\(40, 60\), got \(60, 40\)"):
        overlay_tokens(photo.transpose(Image.Transpose.ROTATE_90), tokens, strides=(32, 16, 8))
    with pytest.raises(ImageValueError, match="alpha"):
        overlay_tokens(photo, tokens, strides=(32, 16, 8), alpha=1.5)
    for strides in ((32, 16), (16, 8, 4)):
        with pytest.raises(TokenError, match="strides"):
            overlay_tokens(photo, tokens, strides=strides)
    with pytest.raises(TokenError, match="2 images"):
        overlay_tokens(photo, TokenPyramid.cat([tokens, tokens]), strides=(32, 16, 8))
