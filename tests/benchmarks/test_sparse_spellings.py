import pytest
import torch

from benchmarks.sparse_spellings import EXAMPLE, with_null_ids


@pytest.mark.parametrize("spell", [EXAMPLE["sequences_of"], with_null_ids])
def test_both_spellings_choose_each_split_and_each_id_once(toy_tokenizer, smooth, spell):
    vocabulary = toy_tokenizer.vocabulary
    tokens = toy_tokenizer.encode(smooth(2, 64, 64, seed=3), quality=0.3)
    data = spell(vocabulary, tokens)
    splits, ids = [0, 0], [0, 0]
    for image in (0, 1):
        for integer, kind in zip(data.integers[image].tolist(), data.kinds[image].tolist(), strict=True):
            choice = data.choices[kind].tolist()
            if len(choice) > 1:
                assert integer in choice
                splits[image] += vocabulary.none in choice
                ids[image] += integer >= vocabulary.first_id
    assert ids == tokens.token_counts.tolist()
    counts = torch.stack([(level >= 0).flatten(1).sum(1) for level in tokens.ids])
    choices = counts[:-1]
    if spell is not with_null_ids:  # the marker of a full level says that all cells are split
        choices = choices * (counts[1:] < torch.tensor([[16], [64]]))
    assert splits == choices.sum(0).tolist()
    model = EXAMPLE["Generator"](vocabulary.size, data.integers.shape[1], dim=8, depth=1)
    assert EXAMPLE["bits_of"](model, data, torch.arange(2)).shape == (2,)
