"""Where else the tokens of a place occur, as cells and as a sheet."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pyramid_tokenizer.errors import TokenRangeError
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.visualize.highlight import OUTLINE, highlight_cells
from pyramid_tokenizer.visualize.same_tokens import same_tokens_sheet, tokens_at

STRIDES = (32, 16)


@pytest.fixture(scope="module")
def tokens() -> TokenPyramid:
    ids = (torch.tensor([[[3, 1]]]), torch.tensor([[[-1, -1, 2, 2], [-1, -1, 4, 2]]]))
    return TokenPyramid(ids=ids, codebook_sizes=(4, 8), image_size=(32, 60), fingerprint="0" * 64)


def test_every_cell_with_the_same_id_is_found_and_an_absent_token_is_not(tokens):
    found = tokens_at(tokens, 50, 20, strides=STRIDES)
    assert [(one.level, one.row, one.column, one.id, one.num_tokens) for one in found] == [
        (0, 0, 1, 1, 2),
        (1, 1, 3, 2, 4),
    ]
    assert found[1].cells == ((0, 2), (0, 3), (1, 3))
    assert [one.level for one in tokens_at(tokens, 5, 5, strides=STRIDES)] == [0]
    with pytest.raises(TokenRangeError):
        tokens_at(tokens, 60, 5, strides=STRIDES)


def test_cells_keep_their_pixels_and_neighbours_have_one_outline():
    image = Image.effect_noise((64, 48), 60).convert("RGB")
    drawn = np.asarray(highlight_cells(image, [(0, 1), (1, 1)], cell_px=16))
    assert np.array_equal(drawn[:32, 16:32], np.asarray(image)[:32, 16:32])
    yellow = (drawn == [int(OUTLINE[i : i + 2], 16) for i in (1, 3, 5)]).all(2)
    assert yellow[:34, 14:16].all() and yellow[32:34, 16:32].all()
    assert yellow.sum() == 2 * 34 * 2 + 2 * 16


def test_the_sheet_has_the_image_once_for_each_level(tokens):
    found = tokens_at(tokens, 50, 20, strides=STRIDES)
    image = Image.new("RGB", (60, 32), "red")
    sheet = same_tokens_sheet(image, found, ["a", "b"], strides=STRIDES)
    one = same_tokens_sheet(image, found[:1], ["a"], strides=STRIDES)
    assert sheet.width > one.width + 60 * 8
