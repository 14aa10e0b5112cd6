"""`VocabularyEmbeddings`: from a score per phrase to a score per class."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.text import TextEncoder, VocabularyEmbeddings


def words_of(owner: list[int]) -> VocabularyEmbeddings:
    names = tuple(f"class {i}" for i in range(max(owner) + 1))
    return VocabularyEmbeddings(names=names, embeddings=torch.zeros(len(owner), 2), owner=torch.tensor(owner))


@given(
    owner=st.lists(st.integers(-1, 3), max_size=6).map(lambda extra: [0, 1, 2, 3, *extra]),
    seed=st.integers(0, 100),
)
def test_a_class_has_the_highest_score_of_its_synonyms(owner: list[int], seed: int) -> None:
    words = words_of(owner)
    scores = torch.randn(2, 3, len(owner), generator=torch.Generator().manual_seed(seed))
    classes = [*range(4), *([-1] if -1 in owner else [])]
    expected = [scores[..., torch.tensor(owner) == index].amax(-1) for index in classes]
    assert words.has_background == (-1 in owner)
    assert torch.equal(words.class_scores(scores), torch.stack(expected, dim=-1))


def test_a_further_synonym_never_lowers_a_score(backbone: Any) -> None:
    encoder, image = TextEncoder(backbone), torch.randn(50, 1, 16)
    few, many = (encoder.encode_names([car, "dog"]) for car in ("car", "car|automobile|auto"))
    low, high = (words.class_scores((image * words.embeddings).sum(-1)) for words in (few, many))
    assert (high >= low).all()
    assert (high > low).any()
    assert torch.equal(high[:, 1], low[:, 1])


def test_the_background_is_last_and_one_column_however_many_words_it_has() -> None:
    words = words_of([0, 1, -1, -1])
    assert words.num_classes == 2
    assert words.class_scores(torch.tensor([0.1, 0.2, 0.4, 0.3])).tolist() == pytest.approx([0.1, 0.2, 0.4])


def test_classes_may_stand_along_any_dimension() -> None:
    words, maps = words_of([0, 0, 1, -1]), torch.randn(2, 4, 5, 6).bfloat16()
    scores = words.class_scores(maps, dim=1)
    assert (scores.shape, scores.dtype) == ((2, 3, 5, 6), torch.bfloat16)
    assert torch.equal(scores, words.class_scores(maps.movedim(1, -1)).movedim(-1, 1))


def test_one_phrase_a_class_changes_nothing() -> None:
    scores = torch.randn(3, 4)
    assert words_of([0, 1, 2, -1]).class_scores(scores) is scores


@pytest.mark.parametrize("scores", [torch.zeros(3, 3), torch.zeros(2, dtype=torch.int64), torch.tensor(1.0)])
def test_scores_of_other_phrases_are_refused(scores: Tensor) -> None:
    with pytest.raises(ConfigError, match="2 .*-1"):
        words_of([0, 1]).class_scores(scores)


@pytest.mark.parametrize(
    ("names", "owner", "message"),
    [
        (("a", "b"), torch.tensor([0, 0]), "2 classes"),
        (("a",), torch.tensor([0, 1]), "1 classes"),
        ((), torch.tensor([-1, -1]), "0 classes"),
        (("a",), torch.tensor([0]), r"\(2, 3\) .*\(1,\)"),
        (("a",), torch.tensor([0.0, 0.0]), "torch.float32"),
    ],
)
def test_embeddings_without_a_class_for_each_row_are_refused(
    names: tuple[str, ...], owner: Tensor, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        VocabularyEmbeddings(names=names, embeddings=torch.zeros(2, 3), owner=owner)
