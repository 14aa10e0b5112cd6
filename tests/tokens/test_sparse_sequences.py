"""Integer sequences of token pyramids with sparse levels."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyramid_tokenizer.errors import TokenSequenceError
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.tokens.vocabulary import Vocabulary
from tests.tokens.pyramids import make_sparse, prune
from tests.tokens.test_vocabulary import FINGERPRINT, random_tokens, vocabularies

DEEP = Vocabulary(codebook_sizes=(4, 8, 8), strides=(4, 2, 1), fingerprint=FINGERPRINT)
# begin end row none | level 0, 1, 2: 4…6 | sparse 1, 2: 7, 8 | crop 0…3: 9…12 | ids 0: 13…16 | ids 1: 17…24 | ids 2: 25…32
HEAD = [0, 9, 9, 4, 13, 14, 2]  # one row of two cells
VALID = [*HEAD, 7, 3, 17, 18, 19, 20, 8, 3, *range(25, 29), 3, *range(29, 33), 1]
SPARSE_1, SPARSE_2 = 7, 13


def slow_flatten(vocabulary: Vocabulary, tokens: TokenPyramid) -> list[str]:
    """The grammar in words, for one image."""
    (h, w), stride = tokens.grids[0], vocabulary.strides[0]
    crops = h * stride - tokens.image_size[0], w * stride - tokens.image_size[1]
    words = ["<|img begin|>", *(f"<|img crop {c}|>" for c in crops)]
    words += [f"<|img i{number} {i:04d}|>" for number, i in enumerate(tokens.image_ids[0].tolist())]
    words.append("<|img level 0|>")
    for row in tokens.ids[0][0].tolist():
        words += [*(f"<|img l0 {i:04d}|>" for i in row), "<|img row|>"]
    for level in range(1, len(tokens)):
        coarse, fine = tokens.ids[level - 1][0].tolist(), tokens.ids[level][0].tolist()
        if min(map(min, fine)) >= 0:
            words += [f"<|img level {level}|>", *(f"<|img l{level} {i:04d}|>" for row in fine for i in row)]
            continue
        words.append(f"<|img sparse {level}|>")
        ratio = len(fine) // len(coarse)
        for y, x in np.ndindex(len(coarse), len(coarse[0])):
            children = [fine[y * ratio + j][x * ratio + i] for j in range(ratio) for i in range(ratio)]
            if coarse[y][x] >= 0:
                spelled = [f"<|img l{level} {i:04d}|>" for i in children]
                words += spelled if children[0] >= 0 else ["<|img none|>"]
    return [*words, "<|img end|>"]


@st.composite
def sparse_tokens(draw: st.DrawFn) -> tuple[Vocabulary, TokenPyramid]:
    vocabulary = draw(vocabularies())
    size = draw(st.tuples(st.integers(1, 30), st.integers(1, 30)))
    full = random_tokens(vocabulary, size, draw(st.integers(1, 4)), draw(st.integers(0, 9)))
    ids = prune(list(full.ids), torch.Generator().manual_seed(draw(st.integers(0, 2**40))))
    return vocabulary, dataclasses.replace(full, ids=ids)


@given(sparse_tokens())
def test_every_prefix_survives_the_sequence_and_is_spelled_as_the_grammar_says(case):
    vocabulary, tokens = case
    names = vocabulary.token_names()
    for n in range(1, len(tokens) + 1):
        sequence = vocabulary.flatten(tokens[:n])
        assert sequence.dtype == torch.int64
        assert sequence.shape[1] <= vocabulary.sequence_length(tokens.image_size, n)
        rows = []
        for row, single in zip(sequence.tolist(), tokens[:n].unbind(), strict=True):
            spelled = slow_flatten(vocabulary, single)
            rows.append(row[: len(spelled)])
            assert [names[i] for i in row] == spelled + ["<|img end|>"] * (sequence.shape[1] - len(spelled))
            assert vocabulary.unflatten(row) == single
            assert vocabulary.flatten(single)[0].tolist() == rows[-1]
            assert vocabulary.find(row) == [(0, len(spelled))]
        assert max(map(len, rows)) == sequence.shape[1]
        for read in (vocabulary.unflatten(sequence), vocabulary.unflatten(rows)):
            assert read == tokens[:n]
            assert all((a is None) == (b is None) for a, b in zip(read.present, tokens.present, strict=False))


def test_the_integers_of_a_sparse_image_are_these():
    tokens = DEEP.unflatten(VALID)
    assert tokens.image_size == (4, 8)
    assert [x.tolist() for x in tokens.ids] == [
        [[[0, 1]]],
        [[[-1, -1, 0, 1], [-1, -1, 2, 3]]],
        [[[-1] * 6 + [0, 1], [-1] * 6 + [2, 3], [-1] * 6 + [4, 5], [-1] * 6 + [6, 7]]],
    ]
    assert DEEP.flatten(tokens).tolist() == [VALID]
    assert [DEEP.describe(i) for i in (3, 4, 6, 7, 8, 9)] == [
        *("<|img none|>", "<|img level 0|>", "<|img level 2|>"),
        *("<|img sparse 1|>", "<|img sparse 2|>", "<|img crop 0|>"),
    ]
    root = DEEP.unflatten([*HEAD, 7, 3, 3, 8, 1])
    assert (len(root), root.num_tokens) == (3, 2)
    assert DEEP.flatten(root)[0].tolist() == [*HEAD, 7, 3, 3, 8, 1]


@given(st.data())
def test_a_sequence_with_integers_replaced_added_or_left_out_is_another_valid_one_or_refused(data):
    """Nothing is repaired silently: what is accepted flattens to what was given."""
    sequence = list(VALID)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(sequence) - 1))
        added = data.draw(st.lists(st.integers(-2, DEEP.size + 1), max_size=3))
        sequence[position : position + data.draw(st.integers(0, 2))] = added
    try:
        tokens = DEEP.unflatten(sequence)
    except TokenSequenceError:
        assert DEEP.find(sequence) != [(0, len(sequence))]
        return
    stop = sequence.index(DEEP.end) + 1
    assert DEEP.flatten(tokens)[0].tolist() == sequence[:stop]
    assert len(set(sequence[stop:])) <= 1


@given(st.lists(st.sampled_from([1, 3, 8, 17, 20, 25, 30]), max_size=14))
def test_levels_of_random_marks_and_ids_are_valid_or_refused(tail):
    for sequence in ([*HEAD, 7, *tail], VALID[: SPARSE_2 + 1] + tail):
        try:
            tokens = DEEP.unflatten(sequence)
        except TokenSequenceError:
            continue
        stop = sequence.index(DEEP.end) + 1
        assert DEEP.flatten(tokens)[0].tolist() == sequence[:stop]


def replaced(position: int, *tokens: int, count: int = 1) -> list[int]:
    return [*VALID[:position], *tokens, *VALID[position + count :]]


IDS_1, IDS_2 = "one of <|img l1 0000|> to <|img l1 0007|>", "one of <|img l2 0000|> to <|img l2 0007|>"


@pytest.mark.parametrize(
    ("sequence", "position", "expected", "got"),
    [
        (
            replaced(SPARSE_1, 8),
            7,
            "<|img end|> or <|img level 1|> or <|img sparse 1|> or",
            "8 <|img sparse 2|>",
        ),
        (VALID[:8], 8, f"<|img none|> or {IDS_1}", "the end of the sequence"),
        (replaced(8, 2), 8, f"<|img none|> or {IDS_1}", "2 <|img row|>"),
        (replaced(8, 16), 8, f"<|img none|> or {IDS_1}", "16 <|img l0 0003|>"),
        (replaced(9, 8, count=4), 9, f"<|img none|> or {IDS_1}", "8 <|img sparse 2|>"),
        (replaced(10, 3), 10, IDS_1, "3 <|img none|>"),
        (replaced(12, 8, count=2), 12, IDS_1, "8 <|img sparse 2|>"),
        (replaced(12, 25), 12, IDS_1, "25 <|img l2 0000|>"),
        (VALID[:11], 11, IDS_1, "the end of the sequence"),
        (replaced(SPARSE_2, 3, 8), 13, "<|img end|> or <|img sparse 2|>", "3 <|img none|>"),
        (replaced(SPARSE_2, 17, 8), 13, "<|img end|> or <|img sparse 2|>", "17 <|img l1 0000|>"),
        (replaced(SPARSE_2, 6), 13, "<|img end|> or <|img sparse 2|>", "6 <|img level 2|>"),
        (VALID[:13], 13, "<|img end|> or <|img sparse 2|>", "the end of the sequence"),
        ([*VALID[:15], 25, 26, 27, 3, 3, 1], 18, IDS_2, "3 <|img none|>"),
        (replaced(18, 33), 18, IDS_2, "33 (not in [0, 33))"),
        (VALID[:-5], len(VALID) - 5, f"<|img none|> or {IDS_2}", "the end of the sequence"),
        (replaced(len(VALID) - 1, 25), len(VALID) - 1, "<|img end|>", "25 <|img l2 0000|>"),
        ([*HEAD, 7, *range(17, 25), 1], 12, "<|img none|> once or more in a sparse level", "21 <|img l1 0004|>"),
        ([*HEAD, 5, *range(17, 25), 8, *[25] * 32, 1], 45, "<|img none|> once or more", "25 <|img l2 0000|>"),
        ([*VALID, 1, 3], len(VALID) + 1, "nothing but padding after the end", "3 <|img none|>"),
    ],
)
def test_each_breach_of_the_grammar_is_told_with_its_position(sequence, position, expected, got):
    with pytest.raises(TokenSequenceError) as caught:
        DEEP.unflatten(sequence)
    assert re.search(
        rf"expected {re.escape(expected)}.* at position {position}, got {re.escape(got)}:", str(caught.value)
    )
    with pytest.raises(TokenSequenceError, match=f" at position {position} of sequence 1, got"):
        DEEP.unflatten([VALID, sequence])


def test_a_sparse_level_that_is_full_below_a_sparse_one_is_no_full_level():
    """All cells of level 1 that are there may be split."""
    sequence = [*HEAD, 7, 3, 17, 18, 19, 20, 8, *[25] * 16, 1]
    assert DEEP.flatten(DEEP.unflatten(sequence))[0].tolist() == sequence


def test_a_batch_of_sparse_and_full_images_has_every_sequence_that_they_have_alone():
    tokens = DEEP.unflatten(VALID)
    full = random_tokens(DEEP, (4, 8), 2, 0)
    batch = TokenPyramid.cat([full, tokens, full])
    sequence = DEEP.flatten(batch)
    assert sequence.shape == (5, DEEP.sequence_length((4, 8)))
    assert sequence[[0, 1]].tolist() == sequence[[3, 4]].tolist() == DEEP.flatten(full).tolist()
    assert sequence[2].tolist() == VALID + [1] * (sequence.shape[1] - len(VALID))
    assert DEEP.unflatten(sequence) == batch
    for padding in (0, 33, -100):
        padded = torch.where(torch.arange(sequence.shape[1]) < len(VALID), sequence[2], padding)
        assert DEEP.unflatten(padded) == tokens
    single = batch.unbind()[0]
    assert single.is_sparse  # it has a mask, and all of its cells are present
    assert DEEP.flatten(single).tolist() == DEEP.flatten(full)[:1].tolist()


@pytest.mark.parametrize(
    ("other", "expected", "got"),
    [
        ([0, 10, *VALID[2:]], "crop (0, 0)", "crop (1, 0)"),
        ([0, 9, 9, 4, 13, 2, 14, 2, *VALID[7:]], "1x2 cells", "2x1 cells"),
        ([*VALID[:13], 1], "3 levels", "2 levels"),
    ],
)
def test_a_batch_must_decode_to_one_size_and_number_of_levels(other, expected, got):
    with pytest.raises(TokenSequenceError) as caught:
        DEEP.unflatten([VALID, VALID, other])
    message = str(caught.value)
    assert message.index(expected) < message.index("sequence 0") < message.index(got) < message.index("sequence 2")


def test_padding_is_checked_behind_each_image_of_a_batch():
    short = [*HEAD, 7, 3, 3, 8, 1]
    assert DEEP.unflatten([[*short, 50, 50], VALID]).token_counts.tolist() == [2, 14]
    for tail, place in (([50, 25], 1), ([25, 25], 0), ([0, 9], 0), ([1, 1, 1, 1, 1, 1, 50], 6)):
        with pytest.raises(TokenSequenceError, match=f"at position {len(short) + place} of sequence 1, got"):
            DEEP.unflatten([VALID, [*short, *tail], VALID])


def test_sparse_images_are_found_among_the_ids_of_a_text():
    base = 500
    image, broken = [i + base for i in VALID], [i + base for i in replaced(10, 3)]
    mixed = [3, 0, *image, 7, *broken, *image, 2]
    assert DEEP.find(mixed, offset=base) == [(2, 27), (53, 78)]


def test_a_vocabulary_of_one_level_has_no_markers_of_sparse_levels():
    one = Vocabulary(codebook_sizes=(4,), strides=(4,), fingerprint=FINGERPRINT)
    assert one.sparse_markers == ()
    assert (one.crop_offset, one.level_offsets, one.size) == (5, (9,), 13)


@pytest.mark.gpu
def test_sparse_sequences_stay_on_their_device():
    tokens = make_sparse()
    vocabulary = Vocabulary(codebook_sizes=(4, 17, 64), strides=(32, 16, 8), fingerprint=tokens.fingerprint)
    sequence = vocabulary.flatten(tokens.to("cuda"))
    assert sequence.device.type == "cuda"
    assert sequence.tolist() == vocabulary.flatten(tokens).tolist()
    read = vocabulary.unflatten(sequence)
    assert {x.device.type for x in (*read.ids, *read.present[1:])} == {"cuda"}
    assert read == tokens
