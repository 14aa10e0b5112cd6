"""The cases of relabel.py give equal scores, and the script runs on a made-up data pack."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import relabel
from benchmarks.speed import Spread
from pyramid_tokenizer.segmentation.segmenter import Segmenter

WORDS = ["sky", "grass", "zebra", "car", "tree"]


@pytest.fixture(scope="module")
def seg(toy_tokenizer):
    return Segmenter(toy_tokenizer)


@pytest.fixture(scope="module")
def ids(toy_tokenizer, smooth):
    return list(toy_tokenizer.encode(smooth(5)).ids)


def test_every_way_to_the_scores_gives_the_same(seg, ids, monkeypatch):
    monkeypatch.setattr(relabel, "PART_FLOATS", 2 * 64 * len(WORDS))  # two images
    parts = []
    monkeypatch.setattr(relabel, "use", lambda found: parts.append(list(found)))
    for space in relabel.spaces(seg, WORDS):
        parts.clear()
        found = {what: case() for what, case in relabel.core_cases(space, ids).items()}
        product = found["product, whole batch"]
        assert product.shape == (5 * 8 * 8, len(WORDS))
        assert [len(part) for part in parts[0]] == [2, 2, 1]
        assert torch.allclose(torch.cat(parts[1]), product, atol=1e-6)
        for scores in (found["indexing, whole batch"], torch.cat(parts[0])):
            assert torch.allclose(scores.permute(0, 2, 3, 1).flatten(0, 2), product, atol=1e-4)
        assert torch.allclose(found["indexing embeddings, then product"], product, atol=1e-4)


def test_scores_that_differ_stop_the_measurement():
    cases = {relabel.INDEXING: lambda: torch.zeros(1, 2, 1, 1), "product, whole batch": lambda: torch.ones(1, 2)}
    with pytest.raises(RuntimeError, match="expected indexed scores equal"):
        relabel.check_equal(cases)


def test_the_spaces_are_the_models_own_and_the_larger_ones(seg):
    found = list(relabel.spaces(seg, WORDS))
    assert [space.words.shape[1] for space in found] == [16, *relabel.SPACES]
    assert [tuple(rows.shape) for rows in found[1].text_embeddings] == [(8, 512), (16, 512), (64, 512)]


def test_ratios_are_those_within_a_round(seg, ids, monkeypatch):
    times = {
        "indexing, whole batch": [3.0, 4.0],
        relabel.BEFORE_UPSAMPLING: [1.0, 2.0],
        "product, whole batch": [10.0, 10.0],
    }
    monkeypatch.setattr(relabel, "take_turns", lambda cases, rounds: times)
    space = next(relabel.spaces(seg, WORDS))
    product = relabel.core(space, ids, 2)[-1]
    assert product.times == Spread(median=7.5, low=5.0, high=10.0)
    assert product.milliseconds == Spread(median=2000.0, low=2000.0, high=2000.0)


@pytest.fixture
def data(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    monkeypatch.setattr(relabel, "SIDE_PX", 32)
    monkeypatch.setattr(relabel, "BATCH", 4)
    return folder


def test_names_are_distinct_and_as_many_as_asked_for():
    assert len(set(relabel.class_names(150))) == 150
    with pytest.raises(ValueError, match="at most 180, got 181"):
        relabel.class_names(181)


def test_stored_images_repeat_in_batches_with_their_tokens(seg, data):
    stored = relabel.store(seg, data, 6)
    assert [len(batch) for batch in stored.images] == [4, 2]
    assert [tokens.batch_size for tokens in stored.tokens] == [4, 2]
    assert torch.equal(stored.images[1], stored.images[0][:2])
    assert seg.tok.encode(stored.images[1] / 255) == stored.tokens[1]


def test_the_script_says_what_both_ways_cost(toy_tokenizer, data, tmp_path, capsys):
    folder = toy_tokenizer.save_pretrained(tmp_path / "model")
    options = ["--images", str(data), "--model", str(folder), "--count", "6", "--words", "3", "--rounds", "2"]
    assert relabel.main(options) == 0
    shown = capsys.readouterr().out
    assert "segmenting 6 stored images from" in shown
    for what in (
        relabel.FROM_TOKENS,
        relabel.FROM_PIXELS,
        relabel.TOKENS_TO_PIXELS,
        "D = 16, the model's: product, whole batch",
    ):
        assert what in shown
    assert relabel.main([*options[:-4], "--words", "999"]) == 1
    assert "at most 180, got 999" in capsys.readouterr().err
