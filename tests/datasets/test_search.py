"""`search`: exact, whatever the block, by words and by examples, from embeddings that are kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyramid_tokenizer.datasets import TokenDataset
from pyramid_tokenizer.datasets.search import best_rows
from pyramid_tokenizer.errors import ConfigError, ImageError, TokenMismatchError


def scores_of(ds, tok, wanted):
    return torch.stack([(tok.embedding(row.tokens) @ wanted)[0] for row in ds])


def test_words_find_the_rows_that_similarity_ranks_first(ds, toy_tokenizer):
    found = ds.search("a red flower", top=5, model=toy_tokenizer)
    expected = torch.cat([toy_tokenizer.similarity(row.tokens, ["a red flower"]) for row in ds]).flatten()
    order = expected.argsort(descending=True, stable=True)[:5].tolist()
    assert [match.row for match in found] == order
    assert [match.key for match in found] == [ds[row].key for row in order]
    assert [match.score for match in found] == pytest.approx(expected[order].tolist(), abs=1e-5)


def test_an_example_finds_itself_first_as_a_file_and_as_tokens(ds, toy_tokenizer, shared_photos):
    row = ds[7]
    for example in (shared_photos / row.key, row.tokens):
        first = ds.search(example, top=1, model=toy_tokenizer)[0]
        assert (first.row, first.score) == (7, pytest.approx(1, abs=1e-5))


def test_embeddings_are_computed_once_and_again_for_a_prefix_of_levels(ds, written, toy_tokenizer, monkeypatch):
    told = []
    prefix = TokenDataset(written, levels=1, cache_dir=ds.cache_folder.parent)
    prefix.search("sky", model=toy_tokenizer, progress=lambda done, total: told.append((done, total)))
    assert told == [(11, 11)]
    (match,) = prefix.search("sky", top=1, model=toy_tokenizer, progress=lambda *_: pytest.fail("computed"))
    wanted = toy_tokenizer.text.encode(["sky"], templates="plain")[0]
    assert match.row == int(scores_of(prefix, toy_tokenizer, wanted).argmax())


@pytest.mark.parametrize("block", [1, 7, 100])
def test_the_best_are_exact_in_any_block_and_the_first_of_equal_ones_win(monkeypatch, block):
    monkeypatch.setattr("pyramid_tokenizer.datasets.search.BLOCK_ROWS", block)
    rows = np.random.default_rng(0).integers(-2, 3, (60, 3)).astype(np.float32)  # many are equal
    wanted = np.float32([1, 2, -1])
    found, scores = best_rows(rows, wanted, top=9)
    expected = np.lexsort((np.arange(60), -(rows @ wanted)))[:9]
    assert found.tolist() == expected.tolist()
    assert scores.tolist() == (rows @ wanted)[expected].tolist()
    assert len(best_rows(rows, wanted, top=99)[0]) == 60


def test_other_tokenizers_several_examples_and_no_words_are_refused(ds, toy_tokenizer, detailed_tokenizer):
    with pytest.raises(TokenMismatchError):
        ds.search("sky", model=detailed_tokenizer)
    for query, error in ((" ", ConfigError), (torch.rand(2, 3, 32, 32), ConfigError), (3, ImageError)):
        with pytest.raises(error):
            ds.search(query, model=toy_tokenizer)
    with pytest.raises(ConfigError, match="top"):
        ds.search("sky", top=0, model=toy_tokenizer)
