"""`interleave` and `deinterleave`: each cell is followed by the finer cells below it."""

from __future__ import annotations

import pytest
import torch

from pyramid_tokenizer.errors import TokenMismatchError, TokenSequenceError
from pyramid_tokenizer.tokens import TokenPyramid, Vocabulary
from pyramid_tokenizer.tokens.interleaving import deinterleave, interleave

KIND = {"codebook_sizes": (4, 8, 16), "strides": (16, 8, 4), "image_codebook_sizes": (5, 3)}
VOCABULARY = Vocabulary(**KIND, fingerprint="0" * 64)


def pyramid(sparse: bool = False) -> TokenPyramid:
    ids = [torch.randint(k, (2, 2 * r, 3 * r)) for k, r in zip(VOCABULARY.codebook_sizes, (1, 2, 4), strict=True)]
    if sparse:
        ids[1][0, :2, 2:4] = -1
        ids[2][0, :4, 4:8] = -1  # below it
        ids[2][0, 4:6, :2] = -1  # an unsplit cell of level 1
        ids[2][1] = -1
    image = {"image_ids": torch.tensor([[4, 0], [1, 2]]), "image_codebook_sizes": (5, 3)}
    kind = {"codebook_sizes": VOCABULARY.codebook_sizes, "image_size": (30, 48), "fingerprint": "0" * 64}
    return TokenPyramid(ids=tuple(ids), **kind, **image)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_round_trip_gives_the_same_tokens(sparse, levels):
    tokens = pyramid(sparse)[:levels]
    sequences = interleave(VOCABULARY, tokens)
    assert [deinterleave(VOCABULARY, sequence) for sequence in sequences] == tokens.unbind()
    if not sparse:
        assert {len(s) for s in sequences} == {VOCABULARY.sequence_length((30, 48), levels=levels) - levels + 1}


def test_a_cell_comes_before_the_cells_below_it():
    tokens = pyramid()
    sequence = interleave(VOCABULARY, tokens)[0].tolist()
    coarse, middle, fine = (ids[0] + offset for ids, offset in zip(tokens.ids, VOCABULARY.level_offsets, strict=True))
    assert [VOCABULARY.describe(i) for i in sequence[3:5]] == ["<|img i0 0004|>", "<|img i1 0000|>"]
    assert sequence[6:8] == [int(coarse[0, 0]), int(middle[0, 0])]
    assert sequence[8:13] == [*fine[:2, :2].flatten().tolist(), int(middle[0, 1])]
    assert sequence[6 + 21] == int(coarse[0, 1])


def test_one_level_is_written_as_flatten_does():
    tokens = pyramid()[:1]
    assert torch.stack(interleave(VOCABULARY, tokens)).equal(VOCABULARY.flatten(tokens))


@pytest.mark.parametrize(
    "change",
    [lambda s: s[:-1], lambda s: [*s, 1], lambda s: s[:9] + s[10:], lambda s: s[:6] + s[69:], lambda s: s[:4] + s[5:]],
)
def test_broken_sequences_are_refused(change):
    sequence = interleave(VOCABULARY, pyramid())[0].tolist()
    with pytest.raises(TokenSequenceError, match="position"):
        deinterleave(VOCABULARY, torch.tensor(change(sequence)))


def test_tokens_of_another_tokenizer_are_refused():
    other = Vocabulary(**KIND, fingerprint="1" * 64)
    with pytest.raises(TokenMismatchError):
        interleave(other, pyramid())
