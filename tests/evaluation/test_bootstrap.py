import math

import pytest
import torch

from pyramid_tokenizer.errors import ConfigError, DataError
from pyramid_tokenizer.evaluation.bootstrap import bootstrap_difference, bootstrap_interval, bootstrap_intervals
from pyramid_tokenizer.evaluation.confusion import SCORES, ConfusionMatrix


def images(count=30, num_classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    matrices = []
    for _ in range(count):
        wanted = torch.randint(num_classes, (6, 6), generator=generator)
        right = torch.rand(6, 6, generator=generator) < torch.rand(1, generator=generator)
        predicted = wanted.where(right, torch.randint(num_classes, (6, 6), generator=generator))
        matrix = ConfusionMatrix(num_classes)
        matrix.add(predicted, wanted)
        matrices.append(matrix)
    return matrices


@pytest.mark.parametrize("score", SCORES)
def test_the_interval_holds_the_score_of_all_images(score):
    matrices = images()
    low, high = bootstrap_interval(matrices, score)
    point = getattr(sum(matrices[1:], matrices[0]).scores(), score)
    assert 0 < low < point < high < 1


def test_the_seed_alone_decides():
    matrices = images()
    assert bootstrap_interval(matrices, seed=3) == bootstrap_interval(matrices, seed=3)
    assert bootstrap_interval(matrices, seed=3) != bootstrap_interval(matrices, seed=4)
    counts = [matrix.class_counts() for matrix in matrices]
    assert bootstrap_intervals(counts) == bootstrap_intervals(matrices)


def test_one_image_or_all_the_same_images_leave_no_width():
    one = images(1)
    point = one[0].scores().miou_present
    assert bootstrap_interval(one) == pytest.approx((point, point), rel=1e-12)
    assert bootstrap_interval(one * 5) == pytest.approx((point, point), rel=1e-12)


def test_the_width_shrinks_with_the_root_of_the_number_of_images():
    widths = [high - low for low, high in (bootstrap_interval(images(n), "pixel_accuracy") for n in (25, 400))]
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.25)


@pytest.mark.slow
def test_about_nineteen_of_twenty_sets_of_images_have_an_interval_that_holds_the_truth():
    many = images(500, seed=99)
    truth = sum(many[1:], many[0]).scores().pixel_accuracy
    held = 0
    for seed in range(30):
        low, high = bootstrap_interval(images(30, seed=seed), "pixel_accuracy", samples=200)
        held += low <= truth <= high
    assert 0.85 <= held / 30 <= 1


def test_a_draw_without_a_labelled_pixel_says_nothing():
    empty = ConfusionMatrix(4)
    low, high = bootstrap_interval([*images(1), empty], samples=100)
    assert low == pytest.approx(high)
    assert all(math.isnan(bound) for bound in bootstrap_interval([empty], samples=2))


def test_a_difference_is_that_of_both_methods_in_each_draw():
    first, second = images(seed=1), images(seed=2)
    low, high = bootstrap_difference(first, second)["pixel_accuracy"]
    points = [sum(own[1:], own[0]).scores().pixel_accuracy for own in (first, second)]
    assert low < points[0] - points[1] < high
    swapped = bootstrap_difference(second, first)["pixel_accuracy"]
    assert swapped == pytest.approx((-high, -low))
    # a method that is right wherever the other is, and once more in every image, is never behind
    better = [ConfusionMatrix.from_counts(own.counts + torch.eye(4, 5, dtype=torch.int64)) for own in first]
    assert bootstrap_difference(better, first)["pixel_accuracy"][0] > 0
    with pytest.raises(DataError, match="30 and 29"):
        bootstrap_difference(first, second[1:])


def test_what_cannot_be_drawn_from_is_refused():
    with pytest.raises(ConfigError, match="miou_present, .*'miou'"):
        bootstrap_interval(images(2), "miou")
    with pytest.raises(ConfigError, match="samples"):
        bootstrap_interval(images(2), samples=0)
    with pytest.raises(DataError, match="no image"):
        bootstrap_interval([])
    with pytest.raises(DataError, match=r"\[2, 3\]"):
        bootstrap_interval([ConfusionMatrix(2), ConfusionMatrix(3)])
