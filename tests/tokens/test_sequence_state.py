from __future__ import annotations

import random
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyramid_tokenizer.errors import TokenError, TokenSequenceError
from pyramid_tokenizer.tokens.sequence_state import SequenceState
from pyramid_tokenizer.tokens.vocabulary import Vocabulary
from tests.tokens.test_sparse_sequences import DEEP, HEAD, VALID, sparse_tokens
from tests.tokens.test_vocabulary import FINGERPRINT, random_tokens, vocabularies

sizes = st.tuples(st.integers(1, 30), st.integers(1, 30))


def sample(state: SequenceState, seed: int) -> list[int]:
    """A random legal sequence. Each range is as likely as another, so that marks come as often as ids."""
    draw, sequence = random.Random(seed), []
    while not state.finished:
        token = draw.choice(draw.choice(state.ranges))
        sequence.append(token)
        state.append(token)
    return sequence


@given(vocabularies(), st.integers(0, 2**40))
def test_every_random_legal_sequence_is_an_image(vocabulary, seed):
    sequence = sample(SequenceState(vocabulary), seed)
    assert vocabulary.flatten(vocabulary.unflatten(sequence))[0].tolist() == sequence


@given(vocabularies(), sizes, st.data())
def test_a_size_and_a_number_of_levels_can_be_demanded(vocabulary, size, data):
    levels = data.draw(st.integers(1, len(vocabulary.strides)))
    is_sparse = data.draw(st.booleans())
    state = SequenceState(vocabulary, image_size=size, levels=levels, sparse=is_sparse)
    tokens = vocabulary.unflatten(sample(state, data.draw(st.integers(0, 99))))
    assert (tokens.image_size, len(tokens)) == (size, levels)
    assert is_sparse or not tokens.is_sparse


@given(sparse_tokens())
def test_every_prefix_of_an_images_sequence_allows_what_follows(case):
    vocabulary, tokens = case
    for row in vocabulary.flatten(tokens).tolist():
        free, bound = (
            SequenceState(vocabulary),
            SequenceState(vocabulary, image_size=tokens.image_size, levels=len(tokens)),
        )
        for state in (free, bound):
            state.extend(row)  # with its padding
            assert (state.finished, state.position) == (True, len(row))


def test_the_next_integers_of_a_prefix_are_told_one_by_one():
    """begin end row none | levels 4…6 | sparse 7, 8 | crop 9…12 | ids 0: 13…16 | ids 1: 17…24 | ids 2: 25…32."""
    level_0, level_1, level_2 = range(13, 17), range(17, 25), range(25, 33)
    for length, expected in {
        0: [0],
        1: [9, 10, 11, 12],
        3: [4],
        4: [*level_0],  # at least one cell
        5: [2, *level_0],
        7: [1, 5, 7, *level_0],
        8: [3, *level_1],
        9: [3, *level_1],  # one is not split, so the other one may be
        10: [*level_1],
        13: [1, 8],  # below a sparse level, only a sparse one
        len(VALID): [1],
    }.items():
        assert DEEP.allowed_next(VALID[:length]).tolist() == expected, length
        assert DEEP.allowed_next(torch.tensor(VALID[:length], dtype=torch.int64)).tolist() == expected
    assert DEEP.allowed_next([*HEAD, 7, 17, 17, 17, 17]).tolist() == [3]  # all of them present would be a full level
    assert DEEP.allowed_next([*HEAD, 5, *[17] * 8]).tolist() == [1, 6, 8]
    assert DEEP.allowed_next([*HEAD, 7, 3, 3, 8]).tolist() == [1]
    assert DEEP.allowed_next([*HEAD, 5, *[17] * 8], levels=3, sparse=False).tolist() == [6]
    assert DEEP.allowed_next([0], image_size=(3, 5)).tolist() == [10]
    assert DEEP.allowed_next([*level_2][:0], levels=1).tolist() == [0]


@given(st.data())
def test_a_prefix_is_refused_where_the_reader_refuses_it(data):
    sequence = list(VALID)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(sequence) - 1))
        added = data.draw(st.lists(st.integers(-2, DEEP.size + 1), max_size=2))
        sequence[position : position + data.draw(st.integers(0, 2))] = added
    state, wrong = SequenceState(DEEP), None
    try:
        state.extend(sequence)
    except TokenSequenceError as error:
        wrong = str(error)
    if wrong is None and state.finished:
        assert DEEP.unflatten(sequence).num_tokens
    elif not state.finished:  # behind the end, the reader takes more kinds of padding
        got = "the end of the sequence" if wrong is None else ""
        assert wrong is None or f"at position {state.position}, got " in wrong
        with pytest.raises(TokenSequenceError, match=f"at position {state.position}, got {got}"):
            DEEP.unflatten(sequence)


@pytest.mark.parametrize(
    ("prefix", "position", "expected", "got"),
    [
        ([4], 0, "<|img begin|>", "4 <|img level 0|>"),
        ([*HEAD, 17], 7, "<|img end|> or <|img level 1|> or <|img sparse 1|> or one of <|img l0 0000|>", "17 <|img l1"),
        ([*HEAD, 7, 17, 3], 9, "one of <|img l1 0000|> to <|img l1 0007|>", "3 <|img none|>"),
        ([*VALID, 1, 33], len(VALID) + 1, "<|img end|>", "33 (not in [0, 33))"),
    ],
)
def test_what_a_model_got_wrong_is_told_with_its_position(prefix, position, expected, got):
    with pytest.raises(TokenSequenceError) as caught:
        DEEP.allowed_next(prefix)
    assert re.search(
        rf"expected {re.escape(expected)}.* at position {position}, got {re.escape(got)}", str(caught.value)
    )


def test_one_prefix_is_taken_and_a_size_that_can_be():
    with pytest.raises(TokenSequenceError, match="got 2 of them"):
        DEEP.allowed_next([[0], [0]])
    for wrong in ({"levels": 4}, {"levels": 0}, {"image_size": (0, 4)}, {"image_size": 4}):
        with pytest.raises(TokenError):
            DEEP.allowed_next([], **wrong)


def test_a_large_image_is_followed_integer_by_integer():
    vocabulary = Vocabulary(codebook_sizes=(512, 1024, 4096), strides=(32, 16, 8), fingerprint=FINGERPRINT)
    sequence = vocabulary.flatten(random_tokens(vocabulary, (256, 256), 1, 0))[0]
    assert vocabulary.allowed_next(sequence[:-1]).tolist() == [vocabulary.end]
