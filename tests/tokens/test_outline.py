"""`read_outline`: what a token file holds, as `TokenPyramid` tells it."""

from pathlib import Path

import numpy as np
import pytest

from pyramid_tokenizer.errors import TokenFileError
from pyramid_tokenizer.tokens.format import TokenHeader, pack
from pyramid_tokenizer.tokens.outline import read_outline
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.tokens.summary import level_counts

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("name", ["tokens_v4.bin", "tokens_v4_sparse.bin"])
def test_it_counts_what_the_pyramid_counts(name):
    tokens, outline = TokenPyramid.load(GOLDEN / name), read_outline(GOLDEN / name)
    assert outline.counts.tolist() == level_counts(tokens).tolist()
    assert outline.is_sparse == tokens.is_sparse
    for levels in range(1, len(tokens) + 1):
        assert outline.bits_per_pixel(levels) == pytest.approx(tokens[:levels].bits_per_pixel)


def test_ids_outside_their_codebook_and_grids_of_no_image_are_refused_with_the_name_of_the_file(tmp_path):
    facts = {"codebook_sizes": (5,), "grids": ((1, 2),), "batch_size": 1, "fingerprint": "0" * 64, "precision": None}
    for name, size, ids in (("id", (8, 16), [[[1, 6]]]), ("grid", (16, 8), [[[1, 2]]])):
        path = tmp_path / name
        path.write_bytes(pack(TokenHeader(**facts, image_size=size), [np.array(ids)]))
        with pytest.raises(TokenFileError, match=str(path)):
            read_outline(path)
