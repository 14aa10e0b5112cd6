"""Token pyramids as bytes and as files."""

from __future__ import annotations

import hashlib
import runpy
from pathlib import Path

import pytest
from hypothesis import given

from pyramid_tokenizer.errors import (
    TokenFileError,
)
from pyramid_tokenizer.tokens import format as token_format
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from tests.tokens.pyramids import make, pyramids, same

GOLDEN = Path(__file__).parents[1] / "golden"


@given(pyramids())
def test_bytes_round_trip_exactly_and_every_prefix_too(tokens):
    for n in range(1, len(tokens) + 1):
        back = TokenPyramid.from_bytes(tokens[:n].to_bytes())
        assert same(back, tokens[:n])
        assert back == tokens[:n]
        assert back.to_bytes() == tokens[:n].to_bytes()


def test_a_saved_file_holds_exactly_the_bytes_and_loads_again(tmp_path):
    path = tmp_path / "photo.tokens"
    make()[:1].save(path)
    make().save(str(path))
    assert path.read_bytes() == make().to_bytes()
    assert TokenPyramid.load(path) == TokenPyramid.load(str(path)) == make()
    assert [p.name for p in tmp_path.iterdir()] == ["photo.tokens"]


def test_loading_names_the_file_that_is_missing_or_damaged(tmp_path):
    with pytest.raises(TokenFileError, match=r"nothing\.tokens.*No such file"):
        TokenPyramid.load(tmp_path / "nothing.tokens")
    path = tmp_path / "damaged.tokens"
    data = bytearray(make().to_bytes())
    data[80] ^= 1
    path.write_bytes(data)
    with pytest.raises(TokenFileError, match=r"damaged\.tokens: expected checksum"):
        TokenPyramid.load(path)
    path.write_bytes(data[:-3])
    with pytest.raises(TokenFileError, match=r"damaged\.tokens: .*truncated"):
        TokenPyramid.load(path)


def test_well_sealed_bytes_with_an_impossible_id_are_still_a_file_error():
    data = bytearray(make().to_bytes()[:-16])
    data[-1] |= 0xF0  # the last id of 5 bits: 15 becomes 31, codebook 17
    with pytest.raises(TokenFileError, match=r"content.*level 1 in \[0, 17\), got 31"):
        TokenPyramid.from_bytes(bytes(data) + hashlib.sha256(data).digest()[:16])


@pytest.mark.parametrize("data", ["photo.tokens", None, 7, [80, 89]])
def test_from_bytes_of_something_else_points_to_load(data):
    with pytest.raises(TokenFileError, match=r"expected bytes, got .*TokenPyramid\.load"):
        TokenPyramid.from_bytes(data)


@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        ("tokens_v4.bin", "7d58e6d83dd22e76f831834af70adde85f2c18dfb6f35e3c664366a1436c7a6f"),
        ("tokens_v4_sparse.bin", "75c6dcdcead5258d5423cf0a51a00e3cef4c42283520f647cad17f0084c07ea4"),
    ],
)
def test_the_golden_files_of_version_4_still_load_and_are_still_written(name, sha256):
    golden = (GOLDEN / name).read_bytes()
    made = runpy.run_path(str(GOLDEN / "make_tokens.py"))["GOLDEN"][name]()
    assert hashlib.sha256(golden).hexdigest() == sha256
    assert same(TokenPyramid.from_bytes(golden), made)
    if token_format.VERSION == 4:
        assert made.to_bytes() == golden
