import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyramid_tokenizer.errors import ConfigError, DataError, TokenRangeError
from pyramid_tokenizer.evaluation.confusion import ConfusionMatrix
from pyramid_tokenizer.evaluation.token_semantics import LevelSemantics, TokenSemantics, oracle_scores


def slow_counts(ids, labels, stride, size, num_classes):
    counts = np.zeros((size, num_classes), dtype=np.int64)
    for b, y, x in np.ndindex(*labels.shape):
        if labels[b, y, x] != -1:
            counts[ids[b, y // stride, x // stride], labels[b, y, x]] += 1
    return counts


def random_batch(seed, size=5, num_classes=3, stride=4, batch=2, height=10, width=7):
    rng = np.random.default_rng(seed)
    cells = (batch, -(-height // stride) + 1, -(-width // stride))  # one row of padding
    return rng.integers(0, size, cells), rng.integers(-1, num_classes, (batch, height, width))


def level_of(ids, labels, stride=4, size=5, num_classes=3):
    semantics = TokenSemantics((size,), strides=(stride,), num_classes=num_classes)
    semantics.add((torch.from_numpy(ids),), torch.from_numpy(labels))
    return semantics.levels[0]


@given(st.integers(0, 10**6), st.integers(1, 5))
def test_pixels_are_counted_under_the_code_that_covers_them(seed, stride):
    ids, labels = random_batch(seed, stride=stride)
    assert level_of(ids, labels, stride).counts.tolist() == slow_counts(ids, labels, stride, 5, 3).tolist()


def test_levels_and_batches_are_counted_each_for_itself():
    fine, labels = random_batch(0, size=9, stride=2)
    coarse, _ = random_batch(1, size=4, stride=4)
    both = TokenSemantics((4, 9), strides=(4, 2), num_classes=3)
    for b in range(2):
        both.add(
            (torch.from_numpy(coarse[b : b + 1]), torch.from_numpy(fine[b : b + 1])), torch.from_numpy(labels[b, None])
        )
    assert torch.equal(both.levels[0].counts, level_of(coarse, labels, 4, 4).counts)
    assert torch.equal(both.levels[1].counts, level_of(fine, labels, 2, 9).counts)


def test_a_level_that_was_read_does_not_change_later():
    ids, labels = random_batch(0)
    semantics = TokenSemantics((5,), strides=(4,), num_classes=3)
    semantics.add((torch.from_numpy(ids),), torch.from_numpy(labels))
    before = semantics.levels[0].counts.clone()
    first = semantics.levels[0]
    semantics.add((torch.from_numpy(ids),), torch.from_numpy(labels))
    assert torch.equal(first.counts, before)
    assert torch.equal(semantics.levels[0].counts, 2 * before)


def test_purity_is_the_share_of_the_commonest_class():
    level = LevelSemantics(counts=torch.tensor([[6, 2, 0], [0, 0, 0], [1, 1, 0], [0, 0, 10]]))
    assert level.purity[[0, 2, 3]].tolist() == [0.75, 0.5, 1.0]
    assert math.isnan(level.purity[1])
    assert level.mean_purity == (6 + 1 + 10) / 20
    assert level.majority_share == 0.5
    assert level.majority.tolist() == [0, -1, 0, 2]
    assert level.num_seen == 3


@given(st.integers(0, 10**6))
def test_purity_is_at_least_the_commonest_classs_share_and_the_oracles_accuracy_on_itself(seed):
    level = level_of(*random_batch(seed))
    assert level.mean_purity >= level.majority_share
    assert oracle_scores(level, level).pixel_accuracy == pytest.approx(level.mean_purity, rel=1e-12)


@given(st.integers(0, 10**6))
def test_the_oracle_is_the_score_of_masks_painted_with_the_majority_classes(seed):
    (fit_ids, fit_labels), (ids, labels) = random_batch(seed), random_batch(seed + 1, size=7)
    fit = level_of(fit_ids, fit_labels, size=7)  # codes 5 and 6 were never seen
    names = fit.majority.numpy()[ids]
    pixels_of = names.repeat(4, 1)[:, :10].repeat(4, 2)[:, :, :7]
    matrix = ConfusionMatrix(3, ignore=-1)
    matrix.add(torch.from_numpy(pixels_of), torch.from_numpy(labels))
    expected, got = matrix.scores(), oracle_scores(fit, level_of(ids, labels, size=7))
    np.testing.assert_array_equal(got.iou, expected.iou)
    assert got.miou_union == pytest.approx(expected.miou_union, nan_ok=True)


def test_codes_that_follow_the_classes_reach_a_perfect_oracle():
    labels = np.arange(3).repeat(4).reshape(1, 1, 12).repeat(4, 1)
    level = level_of(np.array([[[4, 0, 2]]]), labels)
    assert (level.mean_purity, oracle_scores(level, level).miou_union) == (1.0, 1.0)


def test_pixels_of_absent_tokens_do_not_count():
    ids, labels = random_batch(3)
    thinner = ids.copy()
    thinner[:, 1] = -1
    blank = labels.copy()
    blank[:, 4:8] = -1
    assert level_of(thinner, labels).counts.tolist() == level_of(ids, blank).counts.tolist()


def test_ids_and_labels_that_do_not_fit_are_refused_and_nothing_is_counted():
    semantics = TokenSemantics((5,), strides=(4,), num_classes=3)
    ids, labels = torch.zeros(1, 2, 2, dtype=torch.int64), torch.zeros(1, 8, 8, dtype=torch.int64)
    for wrong, says in (
        ((), "1 levels, got 0"),
        ((ids[:, :1],), r"8x8 px .*4, .*\(1, 1, 2\)"),
        ((ids.expand(2, -1, -1),), r"\(2, 2, 2\)"),
        ((ids.float(),), "torch.float32"),
        ((ids + 5,), r"\[0, 5\), .*got 5 to 5"),
        ((ids - 2,), "-2 to -2"),
    ):
        with pytest.raises(TokenRangeError, match=says):
            semantics.add(wrong, labels)
    for wrong, says in ((labels + 3, "0 to 2 .*got 3 to 3"), (labels[0], r"\(B, H, W\)")):
        with pytest.raises(DataError, match=says):
            semantics.add((ids,), wrong)
    assert int(semantics.levels[0].counts.sum()) == 0


def test_wrong_settings_are_refused():
    for sizes, strides, classes in (((4,), (), 2), ((4, 4), (4,), 2), ((), (), 2), ((4,), (0,), 2), ((4,), (4,), 0)):
        with pytest.raises(ConfigError, match="stride"):
            TokenSemantics(sizes, strides=strides, num_classes=classes)
    with pytest.raises(ConfigError, match="0 to 2, got 1"):
        TokenSemantics((4,), strides=(4,), num_classes=3, ignore=1)
    a, b = (LevelSemantics(counts=torch.zeros(2, n, dtype=torch.int64)) for n in (2, 3))
    with pytest.raises(DataError, match=r"\(2, 2\) and \(2, 3\)"):
        oracle_scores(a, b)
