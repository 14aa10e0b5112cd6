"""Token maps, prefixes, what single tokens add, and the words of codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pyramid_tokenizer.errors import ConfigError, TokenError, TokenRangeError
from pyramid_tokenizer.images.pixels import to_pil
from pyramid_tokenizer.tokens.palette import code_colours
from pyramid_tokenizer.visualize import (
    NearestWords,
    contribution,
    contribution_sheet,
    map_sheet,
    prefix_strip,
    token_maps,
)
from pyramid_tokenizer.visualize.contributions import cells_at, strongest_cells

STRIDES = (32, 16, 8)


@pytest.fixture(scope="module")
def image(smooth):
    return smooth(1, 40, 60, seed=4)[0]


@pytest.fixture(scope="module")
def tokens(toy_tokenizer, image):
    return toy_tokenizer.encode(image)


def test_every_cell_of_a_map_has_the_colour_of_its_id(tokens):
    for ids, stride, drawn in zip(tokens.numpy(), STRIDES, token_maps(tokens, strides=STRIDES), strict=True):
        assert drawn.size == (60, 40)
        pixels, colours = np.asarray(drawn), code_colours(ids[0])
        for row, column in np.ndindex(40 // stride, 60 // stride):  # a corner, clear of lines and numbers
            assert (pixels[(row + 1) * stride - 2, (column + 1) * stride - 2] == colours[row, column]).all()


def test_a_sheet_needs_the_strides_of_the_tokens_and_one_image(tokens):
    with pytest.raises(TokenError):
        token_maps(tokens, strides=(16, 8, 4))
    with pytest.raises(TokenError):
        map_sheet(type(tokens).cat([tokens, tokens]), Image.new("RGB", (60, 40)), strides=STRIDES)


def test_a_token_is_left_out_as_an_absent_one_is(toy_tokenizer, tokens):
    found = contribution(toy_tokenizer, tokens, 2, 1, 3)
    assert found.id == int(tokens.ids[2][0, 1, 3])
    assert torch.equal(found.with_it, toy_tokenizer.decode(tokens)[0])
    codes = toy_tokenizer.codes(tokens)
    mask = torch.ones(1, 8, 8, dtype=torch.bool)
    mask[0, 1, 3] = False
    linear = toy_tokenizer.quantizer.linear_reconstruction(
        (*codes[:2], torch.where(mask[:, None], codes[2], 0.0)), (None, None, mask)
    )
    full = toy_tokenizer.quantizer.linear_reconstruction(codes)
    changed = (linear != full).any(1)[0].nonzero()
    assert changed.min(0).values.tolist() == [8, 24] and changed.max(0).values.tolist() == [15, 31]
    assert found.difference.abs().max() > 0
    change = found.difference.abs().amax(0)
    assert change[8:16, 24:32].max() == change.max()


def test_of_level_0_a_token_is_replaced_by_the_mean_of_its_level(toy_tokenizer, tokens):
    found = contribution(toy_tokenizer, tokens[:1], 0, 0, 1)
    assert found.difference.abs().max() > 0


@pytest.mark.parametrize("place", [(3, 0, 0), (1, 4, 0), (0, 0, -1)])
def test_a_cell_that_does_not_exist_is_refused(toy_tokenizer, tokens, place):
    with pytest.raises(TokenRangeError):
        contribution(toy_tokenizer, tokens, *place)


def test_an_absent_token_contributes_nothing_that_could_be_shown(toy_tokenizer, image):
    sparse = toy_tokenizer.encode(image, max_tokens=8)
    row, column = (sparse.ids[2][0] < 0).nonzero()[0].tolist()
    with pytest.raises(TokenRangeError, match=rf"row {row} and column {column} of level 2"):
        contribution(toy_tokenizer, sparse, 2, row, column)
    assert len(cells_at(sparse, column * 8, row * 8, strides=STRIDES)) < 3


def test_the_tokens_at_a_pixel_are_those_whose_cells_hold_it(tokens):
    assert cells_at(tokens, 59, 17, strides=STRIDES) == [(0, 1), (1, 3), (2, 7)]
    with pytest.raises(TokenRangeError, match="60 x 40"):
        cells_at(tokens, 60, 0, strides=STRIDES)


def test_the_strongest_token_is_found_where_pixels_were_changed_the_most(toy_tokenizer, tokens):
    cells = strongest_cells(toy_tokenizer, tokens)
    energy = toy_tokenizer.quantizer.level(2).pixels_of(toy_tokenizer.codes(tokens)[2])[0].square().sum(0)
    blocks = energy.unflatten(0, (8, -1)).unflatten(2, (8, -1)).sum((1, 3))[:5, :7]
    assert cells[2] == divmod(int(blocks.argmax()), 7)


def test_the_sheets_hold_what_they_say(toy_tokenizer, tokens, image):
    chosen = [contribution(toy_tokenizer, tokens, level, 0, 0) for level in range(3)]
    assert contribution_sheet(chosen, STRIDES, ["a", "b", "c"]).height > 3 * 40
    strip = np.asarray(prefix_strip(toy_tokenizer, tokens, image))
    level_0 = np.asarray(to_pil(toy_tokenizer.decode(tokens[:1]))[0].resize((300, 200), Image.Resampling.NEAREST))
    starts = np.argwhere((strip[: len(strip) - 199, : strip.shape[1] - 299] == level_0[0, 0]).all(2))
    assert any(np.array_equal(strip[y : y + 200, x : x + 300], level_0) for y, x in starts)


def test_words_are_compared_without_what_all_codes_and_all_words_share(toy_tokenizer):
    words = NearestWords.of(toy_tokenizer, ["dog", "sky", "grass"])
    codes = toy_tokenizer.quantizer.level(0).text_embeddings()
    rows = toy_tokenizer.text.encode(["dog", "sky", "grass"], templates="photo")
    a, b = codes - codes.mean(0), rows - rows.mean(0)
    expected = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1)
    assert torch.allclose(words.similarities[0], expected, atol=1e-5)
    assert words.nearest(0, 2, 1)[0][0] == ("dog", "sky", "grass")[int(expected[2].argmax())]
    assert words.similarities[2] is None and words.nearest(2, 0) == []  # fitted to pixels alone
    with pytest.raises(ConfigError):
        NearestWords.of(toy_tokenizer, ["dog"])
