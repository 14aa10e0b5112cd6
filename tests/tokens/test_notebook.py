"""What a notebook shows of tokens: maps in the colours of their ids, in one piece of HTML."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import torch
from PIL import Image

from pyramid_tokenizer.tokens import TokenPyramid
from pyramid_tokenizer.tokens.notebook import MOST_IMAGES
from pyramid_tokenizer.tokens.palette import ABSENT_COLOUR, PALETTE, class_colour, code_colours

KIND = {"codebook_sizes": (4, 50), "image_size": (16, 32), "fingerprint": "0" * 64}


def maps_of(html: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def test_a_code_has_its_own_colour_at_every_place_and_absent_cells_are_grey():
    ids = np.array([[0, 1, 23], [24, 25, -1]])
    colours = code_colours(ids)
    assert [tuple(c) for c in colours[0]] == [class_colour(0), class_colour(1), class_colour(23)]
    assert (colours[1, :2] == colours[0, :2]).all()  # 24 colours, then from the start
    assert tuple(colours[1, 2]) == ABSENT_COLOUR
    assert len({tuple(c) for c in code_colours(np.arange(len(PALETTE)))}) == len(PALETTE)


def test_a_notebook_shows_one_square_a_token_for_every_level():
    ids = (torch.tensor([[[3, 1]]]), torch.tensor([[[0, 5, -1, -1], [49, 4, -1, -1]]]))
    tokens = TokenPyramid(ids=ids, **KIND)
    html = tokens._repr_html_()
    coarse, fine = maps_of(html)
    assert (coarse == code_colours(ids[0][0].numpy())).all()
    assert (fine == code_colours(ids[1][0].numpy())).all()
    assert "1 x 2 tokens, 2 different of 4" in html and "4 tokens in 2 x 4 cells, 4 different of 50" in html
    assert not re.search(r'(?:src|href)="(?!data:)', html)  # nothing is loaded from elsewhere


def test_of_a_large_batch_the_first_images_are_shown_and_the_rest_is_counted():
    tokens = TokenPyramid(
        ids=(torch.zeros(MOST_IMAGES + 2, 1, 2, dtype=torch.int64),), **(KIND | {"codebook_sizes": (4,)})
    )
    html = tokens._repr_html_()
    assert len(maps_of(html)) == MOST_IMAGES and "and 2 more images" in html
