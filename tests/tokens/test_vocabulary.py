from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pyramid_tokenizer.errors import ConfigError, TokenError, TokenMismatchError, TokenSequenceError
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.tokens.vocabulary import Vocabulary

FINGERPRINT = "0f" * 32
SMALL = Vocabulary(codebook_sizes=(4, 8), strides=(4, 2), fingerprint=FINGERPRINT)
# begin end row none | level 0, level 1 | sparse 1 | crop 0…3: 7…10 | ids 0: 11…14 | ids 1: 15…22
VALID = [0, 8, 7, 4, 11, 12, 2, 14, 13, 2, 5, *range(15, 23), *range(15, 23), 1]
AFTER_ROWS = 10


def random_tokens(vocabulary: Vocabulary, image_size: tuple[int, int], batch_size: int, seed: int) -> TokenPyramid:
    coarsest = vocabulary.strides[0]
    generator = torch.Generator().manual_seed(seed)
    ids = []
    for k, stride in zip(vocabulary.codebook_sizes, vocabulary.strides, strict=True):
        grid = [math.ceil(pixels / coarsest) * (coarsest // stride) for pixels in image_size]
        ids.append(torch.randint(k, (batch_size, *grid), generator=generator))
    sizes = vocabulary.image_codebook_sizes
    columns = [torch.randint(k, (batch_size,), generator=generator) for k in sizes]
    return TokenPyramid(
        ids=ids,
        codebook_sizes=vocabulary.codebook_sizes,
        image_size=image_size,
        fingerprint=vocabulary.fingerprint,
        image_ids=torch.stack(columns, 1) if columns else torch.empty(batch_size, 0, dtype=torch.int64),
        image_codebook_sizes=sizes,
    )


@st.composite
def vocabularies(draw: st.DrawFn) -> Vocabulary:
    ratios = draw(st.lists(st.integers(1, 3), max_size=3))
    finest = draw(st.integers(1, 4))
    strides = [finest * math.prod(ratios[level:]) for level in range(len(ratios) + 1)]
    sizes = [draw(st.sampled_from([2, 3, 5, 64, 100, 1000])) for _ in strides]
    image_sizes = draw(st.lists(st.sampled_from([2, 3, 64]), max_size=3))
    return Vocabulary(codebook_sizes=sizes, strides=strides, fingerprint=FINGERPRINT, image_codebook_sizes=image_sizes)


def slow_flatten(vocabulary: Vocabulary, tokens: TokenPyramid, image: int) -> list[str]:
    """The grammar in words, one image after the other."""
    (h, w), stride = tokens.grids[0], vocabulary.strides[0]
    crops = h * stride - tokens.image_size[0], w * stride - tokens.image_size[1]
    words = ["<|img begin|>", *(f"<|img crop {c}|>" for c in crops)]
    words += [f"<|img i{number} {i:04d}|>" for number, i in enumerate(tokens.image_ids[image].tolist())]
    for level, ids in enumerate(tokens.ids):
        words.append(f"<|img level {level}|>")
        for row in ids[image].tolist():
            words += [f"<|img l{level} {i:04d}|>" for i in row]
            words += ["<|img row|>"] if level == 0 else []
    return [*words, "<|img end|>"]


@given(
    vocabularies(), st.tuples(st.integers(1, 30), st.integers(1, 30)), st.integers(1, 3), st.integers(0, 9), st.data()
)
def test_every_prefix_survives_the_sequence_and_is_spelled_as_the_grammar_says(voc, image_size, batch, seed, data):
    tokens = random_tokens(voc, image_size, batch, seed)
    names = voc.token_names()
    for n in range(1, len(tokens) + 1):
        sequence = voc.flatten(tokens[:n])
        assert sequence.dtype == torch.int64
        assert sequence.shape == (batch, voc.sequence_length(image_size, n))
        for image in range(batch):
            assert [names[i] for i in sequence[image].tolist()] == slow_flatten(voc, tokens[:n], image)
        assert voc.unflatten(sequence) == tokens[:n]
        assert voc.unflatten(sequence[-1]) == tokens[:n].unbind()[-1]


@given(st.data())
def test_a_sequence_with_any_integer_replaced_is_another_valid_one_or_refused(data):
    """Nothing is repaired silently: what is accepted flattens to what was given."""
    position = data.draw(st.integers(0, len(VALID) - 1))
    token = data.draw(st.integers(-2, SMALL.size + 1))
    sequence = torch.tensor([*VALID[:position], token, *VALID[position + 1 :]])
    try:
        tokens = SMALL.unflatten(sequence)
    except TokenSequenceError:
        return
    assert SMALL.flatten(tokens)[0].tolist() == sequence.tolist()


def without_padding(sequence):
    """What is left without one of the marks of begin or end, repeated behind the first end."""
    stop = sequence.index(SMALL.end) + 1
    return sequence[:stop] if set(sequence[stop:]) in ({SMALL.begin}, {SMALL.end}) else sequence


@given(st.lists(st.integers(0, SMALL.size - 1), max_size=12))
def test_random_integers_never_raise_anything_else(tail):
    for sequence in (tail, VALID[:4] + tail, VALID[:AFTER_ROWS] + tail):
        try:
            tokens = SMALL.unflatten(torch.tensor(sequence, dtype=torch.int64))
        except TokenSequenceError:
            continue
        assert SMALL.flatten(tokens)[0].tolist() == without_padding(sequence)


def test_the_integers_are_laid_out_as_documented():
    assert (SMALL.begin, SMALL.end, SMALL.row, SMALL.none) == (0, 1, 2, 3)
    assert SMALL.level_markers == (4, 5)
    assert SMALL.sparse_markers == (6,)
    assert SMALL.crop_offset == 7
    assert SMALL.level_offsets == (11, 15)
    assert SMALL.size == 23
    assert SMALL.token_names() == (
        ["<|img begin|>", "<|img end|>", "<|img row|>", "<|img none|>"]
        + ["<|img level 0|>", "<|img level 1|>", "<|img sparse 1|>"]
        + [f"<|img crop {i}|>" for i in range(4)]
        + [f"<|img l0 {i:04d}|>" for i in range(4)]
        + [f"<|img l1 {i:04d}|>" for i in range(8)]
    )


@given(vocabularies())
def test_names_are_unique_and_agree_with_describe(vocabulary):
    names = vocabulary.token_names()
    assert len(set(names)) == len(names) == vocabulary.size
    assert names == [vocabulary.describe(i) for i in range(vocabulary.size)]


@pytest.mark.parametrize("token", [-1, 23])
def test_an_integer_outside_the_vocabulary_has_no_name(token):
    with pytest.raises(TokenSequenceError, match=rf"in \[0, 23\), got {token}"):
        SMALL.describe(token)


def test_the_valid_example_is_valid():
    tokens = SMALL.unflatten(torch.tensor(VALID))
    assert tokens.image_size == (7, 8)
    assert tokens.ids[0].tolist() == [[[0, 1], [3, 2]]]
    assert tokens.ids[1].tolist() == [[[0, 1, 2, 3], [4, 5, 6, 7]] * 2]
    assert tokens.fingerprint == FINGERPRINT
    assert SMALL.flatten(tokens).tolist() == [VALID]


def replaced(position: int, *tokens: int, count: int = 1) -> list[int]:
    return [*VALID[:position], *tokens, *VALID[position + count :]]


@pytest.mark.parametrize(
    ("sequence", "position", "expected", "got"),
    [
        ([], 0, "<|img begin|>", "the end of the sequence"),
        (replaced(0, 1), 0, "<|img begin|>", "1 <|img end|>"),
        (VALID[1:], 0, "<|img begin|>", "8 <|img crop 1|>"),
        (replaced(1, 11), 1, "one of <|img crop 0|> to <|img crop 3|>", "11 <|img l0 0000|>"),
        (replaced(2, 5), 2, "one of <|img crop 0|> to <|img crop 3|>", "5 <|img level 1|>"),
        (replaced(2, count=1), 2, "one of <|img crop 0|> to <|img crop 3|>", "4 <|img level 0|>"),
        (replaced(3, 5), 3, "<|img level 0|>", "5 <|img level 1|>"),
        (VALID[:3], 3, "<|img level 0|>", "the end of the sequence"),
        (replaced(4, count=6), 4, "one of <|img l0 0000|> to <|img l0 0003|>", "5 <|img level 1|>"),
        (replaced(4, 2, count=2), 4, "one of <|img l0 0000|> to <|img l0 0003|>", "2 <|img row|>"),
        (replaced(5, 15), 5, "<|img row|> or another id of level 0", "15 <|img l1 0000|>"),
        (VALID[:6], 6, "<|img row|> or another id of level 0", "the end of the sequence"),
        (replaced(8, count=1), 8, "one of <|img l0 0000|> to <|img l0 0003|>", "2 <|img row|>"),
        (replaced(8, 13, 13), 9, "<|img row|>", "13 <|img l0 0002|>"),
        (replaced(9, count=1), 9, "<|img row|>", "5 <|img level 1|>"),
        (
            replaced(10, 4),
            10,
            "<|img end|> or <|img level 1|> or <|img sparse 1|> or another row",
            "4 <|img level 0|>",
        ),
        (
            replaced(10, count=1),
            10,
            "<|img end|> or <|img level 1|> or <|img sparse 1|> or another row",
            "15 <|img l1 0000|>",
        ),
        (
            VALID[:10],
            10,
            "<|img end|> or <|img level 1|> or <|img sparse 1|> or another row",
            "the end of the sequence",
        ),
        (replaced(11, 14), 11, "one of <|img l1 0000|> to <|img l1 0007|>", "14 <|img l0 0003|>"),
        (replaced(15, 2), 15, "one of <|img l1 0000|> to <|img l1 0007|>", "2 <|img row|>"),
        (replaced(26, 23), 26, "one of <|img l1 0000|> to <|img l1 0007|>", "23 (not in [0, 23))"),
        (replaced(26, -1), 26, "one of <|img l1 0000|> to <|img l1 0007|>", "-1 (not in [0, 23))"),
        (replaced(26, count=1), 26, "one of <|img l1 0000|> to <|img l1 0007|>", "1 <|img end|>"),
        (replaced(27, 15, 1), 27, "<|img end|>", "15 <|img l1 0000|>"),
        (replaced(27, 5), 27, "<|img end|>", "5 <|img level 1|>"),
        (VALID[:-1], 27, "<|img end|>", "the end of the sequence"),
        ([*VALID, *VALID], 28, "nothing but padding after the end", "0 <|img begin|>"),
        ([*VALID[:10], 1, 5], 11, "nothing but padding after the end", "5 <|img level 1|>"),
        ([*VALID, 15, 15], 28, "nothing but padding after the end", "15 <|img l1 0000|>"),
        ([*VALID, -100, 50], 29, "nothing but padding after the end", "50 (not in [0, 23))"),
        ([*VALID, 1, 1, 0], 30, "nothing but padding after the end", "0 <|img begin|>"),
    ],
)
def test_each_breach_of_the_grammar_is_told_with_its_position(sequence, position, expected, got):
    message = f"expected {expected} at position {position}, got {got}:"
    with pytest.raises(TokenSequenceError, match=re.escape(message)):
        SMALL.unflatten(torch.tensor(sequence, dtype=torch.int64))


@pytest.mark.parametrize(
    ("second", "position", "expected", "got"),
    [
        (replaced(1, 7), 1, "<|img crop 1|>", "7 <|img crop 0|>"),  # another height
        (replaced(2, 8), 2, "<|img crop 0|>", "8 <|img crop 1|>"),
        (replaced(6, 11), 6, "<|img row|>", "11 <|img l0 0000|>"),
        (replaced(14, 11), 14, "one of <|img l1 0000|> to <|img l1 0007|>", "11 <|img l0 0000|>"),
        (replaced(27, 2), 27, "<|img end|>", "2 <|img row|>"),
    ],
)
def test_a_batch_must_decode_to_one_size(second, position, expected, got):
    message = f"expected {expected} at position {position} of sequence 2, as sequence 0 has it, got {got}:"
    with pytest.raises(TokenSequenceError, match=re.escape(message)):
        SMALL.unflatten(torch.tensor([VALID, VALID, second]))


def test_sequences_of_equal_length_but_other_grids_are_refused():
    """1x4 and 2x2 cells differ by one row marker; padding crops cannot hide that, so lengths or places differ."""
    voc = Vocabulary(codebook_sizes=(4,), strides=(4,), fingerprint=FINGERPRINT)
    sizes = [(h, w) for h, w in itertools.product(range(1, 10), repeat=2)]
    by_length: dict[int, list[Tensor]] = {}
    for size in sizes:
        sequence = voc.flatten(random_tokens(voc, size, 1, 0))
        by_length.setdefault(sequence.shape[1], []).append(sequence)
    pairs = [pair for same in by_length.values() for pair in itertools.combinations(same, 2)]
    assert len(pairs) > 50
    for pair in pairs:
        with pytest.raises(TokenSequenceError, match="one image size"):
            voc.unflatten(torch.cat(pair))


@pytest.mark.parametrize(
    "sequence",
    [torch.zeros(0, 5, dtype=torch.int64), torch.zeros(1, 1, 5, dtype=torch.int64), torch.tensor(3), 3, [[[3]], [[4]]]],
)
def test_a_sequence_of_another_shape_is_refused(sequence):
    with pytest.raises(TokenSequenceError, match=r"shape \(B, N\) or \(N,\)"):
        SMALL.unflatten(sequence)


@pytest.mark.parametrize(
    "sequence",
    [torch.tensor(VALID).float(), torch.tensor(VALID) > 3, None, [0.0, 6.0], ["0", "6"], [0, None], [VALID, 3.5], "06"],
)
def test_a_sequence_of_another_kind_is_refused(sequence):
    for read in (SMALL.unflatten, SMALL.find):
        with pytest.raises(TokenSequenceError, match=r"integers of shape .*, got .*(float|bool|str|None|object)"):
            read(sequence)


@pytest.mark.parametrize(
    "make", [list, np.array, lambda row: [torch.tensor(i) for i in row], lambda row: [np.int32(i) for i in row]]
)
def test_lists_and_arrays_are_sequences(make):
    expected = SMALL.unflatten(torch.tensor(VALID))
    assert SMALL.unflatten(make(VALID)) == expected
    assert SMALL.unflatten([make(VALID)] * 2) == TokenPyramid.cat([expected] * 2)


@pytest.mark.parametrize("padding", [0, 1, 23, -100, 2**40])
def test_padding_after_the_end_is_passed_over(padding):
    expected = SMALL.unflatten(VALID)
    padded = [*VALID, padding, padding, padding]
    assert SMALL.unflatten(padded) == expected
    assert SMALL.unflatten(torch.tensor([padded, padded])) == TokenPyramid.cat([expected] * 2)
    rows = [VALID, padded[:-1], padded]  # lists of other lengths
    assert SMALL.unflatten(rows) == SMALL.unflatten(rows[::-1]) == TokenPyramid.cat([expected] * 3)


def test_what_a_batch_has_after_the_end_is_told_with_its_row():
    rows = [[*VALID, 50, 50], [*VALID, 50, 11]]
    with pytest.raises(TokenSequenceError, match=r"at position 29 of sequence 1, got 11 <\|img l0 0000\|>"):
        SMALL.unflatten(rows)
    with pytest.raises(TokenSequenceError, match=r"at least 28 integers in every sequence.*got 27 in sequence 1"):
        SMALL.unflatten([VALID, VALID[:-1]])


def test_images_are_found_among_the_ids_of_a_text():
    base = 500
    image, coarse = [i + base for i in VALID], [i + base for i in [*VALID[:10], 1]]
    mixed = [3, 0, 1, *image, 7, *image, *coarse, base + SMALL.size, 2]
    expected = [(3, 31), (32, 60), (60, 71)]
    for sequence in (mixed, torch.tensor(mixed), np.array(mixed), torch.tensor([mixed])):
        assert SMALL.find(sequence, offset=base) == expected
    found = [SMALL.unflatten(torch.tensor(mixed[a:b]) - base) for a, b in expected]
    assert found == [SMALL.unflatten(VALID), SMALL.unflatten(VALID), SMALL.unflatten(VALID)[:1]]
    assert SMALL.find([30, *VALID, 40]) == [(1, 29)]
    assert SMALL.find([]) == SMALL.find([30, 40]) == []


@pytest.mark.parametrize(
    "broken", [VALID[:-1], VALID[1:], VALID[:3], [*VALID[:12], 77, *VALID[12:]], [0], [0, 1], replaced(1, 11)]
)
def test_images_that_are_not_whole_are_left_out_and_hide_no_other(broken):
    for text in ([], [30]):
        mixed = [*broken, *text, *VALID, *text, *broken]
        start = len(broken) + len(text)
        assert SMALL.find(mixed) == [(start, start + len(VALID))]


@pytest.mark.parametrize(
    ("sequence", "offset", "error"), [([VALID, VALID], 0, TokenSequenceError), (VALID, -1, ConfigError)]
)
def test_what_cannot_be_searched_is_refused(sequence, offset, error):
    with pytest.raises(error, match="got 2|got -1"):
        SMALL.find(sequence, offset=offset)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_any_integer_dtype_and_any_memory_layout_is_read(dtype):
    batch = torch.tensor([VALID, VALID], dtype=dtype)
    expected = SMALL.unflatten(torch.tensor([VALID, VALID]))
    assert SMALL.unflatten(batch) == expected
    assert SMALL.unflatten(batch.T.contiguous().T) == expected
    assert SMALL.unflatten(torch.stack([batch, batch], dim=2)[..., 0]) == expected


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        (Vocabulary(codebook_sizes=(4, 8), strides=(4, 2), fingerprint="11" * 32), "fingerprint 11111111, got"),
        (Vocabulary(codebook_sizes=(4, 9), strides=(4, 2), fingerprint=FINGERPRINT), r"codebooks \(4, 9\)"),
        (Vocabulary(codebook_sizes=(4,), strides=(4,), fingerprint=FINGERPRINT), r"codebooks \(4,\)"),
        (Vocabulary(codebook_sizes=(4, 8), strides=(4, 4), fingerprint=FINGERPRINT), "expected grids"),
        (Vocabulary(codebook_sizes=(4, 8), strides=(8, 4), fingerprint=FINGERPRINT), "expected grids"),
        (Vocabulary(codebook_sizes=(4, 8), strides=(2, 1), fingerprint=FINGERPRINT), "expected grids"),
    ],
)
def test_tokens_of_another_tokenizer_are_not_flattened(vocabulary, message):
    tokens = random_tokens(SMALL, (7, 8), 1, 0)
    with pytest.raises(TokenMismatchError, match=message):
        vocabulary.flatten(tokens)


@pytest.mark.parametrize(
    ("sizes", "strides", "message"),
    [
        ((), (), "a stride and a codebook size of 2 or more per level"),
        ((4, 8), (4,), "a stride and a codebook size of 2 or more per level"),
        ((4, 1), (4, 2), "a stride and a codebook size of 2 or more per level"),
        ((4, 8), (2, 4), "each a multiple of the next"),
        ((4, 8), (6, 4), "each a multiple of the next"),
        ((4, 8), (4, 0), "each a multiple of the next"),
    ],
)
def test_impossible_levels_are_refused(sizes, strides, message):
    with pytest.raises(ConfigError, match=message):
        Vocabulary(codebook_sizes=sizes, strides=strides, fingerprint=FINGERPRINT)


@pytest.mark.parametrize(("size", "levels"), [((0, 4), None), ((4, -1), 1), ((4, 4), 0), ((4, 4), 3)])
def test_the_length_of_an_impossible_sequence_is_refused(size, levels):
    with pytest.raises(TokenError, match="1 to 2 levels"):
        SMALL.sequence_length(size, levels)


def test_all_sequences_of_a_language_begin_and_end_alike_and_stay_in_the_vocabulary():
    sequence = SMALL.flatten(random_tokens(SMALL, (9, 30), 50, 1))
    assert sequence[:, 0].unique().tolist() == [SMALL.begin]
    assert sequence[:, -1].unique().tolist() == [SMALL.end]
    assert int(sequence.min()) >= 0
    assert int(sequence.max()) < SMALL.size


@pytest.mark.gpu
def test_sequences_stay_on_their_device():
    tokens = random_tokens(SMALL, (9, 30), 5, 1)
    sequence = SMALL.flatten(tokens.to("cuda"))
    assert sequence.device.type == "cuda"
    assert sequence.tolist() == SMALL.flatten(tokens).tolist()
    assert SMALL.unflatten(sequence).device.type == "cuda"
    assert SMALL.unflatten(sequence) == tokens
