import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyramid_tokenizer.errors import ConfigError, DataError
from pyramid_tokenizer.evaluation.confusion import SCORES, ConfusionMatrix


def slow_scores(predicted, wanted, num_classes, ignore):
    """Every score by its definition, pixel by pixel, in plain python."""
    pairs = [(p, w) for p, w in zip(predicted, wanted, strict=True) if w != ignore]
    present = {w for _, w in pairs}
    seen = present | {p for p, _ in pairs if 0 <= p < num_classes}
    iou, accuracy = {}, {}
    for c in range(num_classes):
        both = sum(p == c and w == c for p, w in pairs)
        either = sum(c in (p, w) for p, w in pairs)
        iou[c] = both / either if either else math.nan
        accuracy[c] = both / sum(w == c for _, w in pairs) if c in present else math.nan

    def mean(values, classes):
        return sum(values[c] for c in classes) / len(classes) if classes else math.nan

    share = {c: sum(w == c for _, w in pairs) / len(pairs) for c in present}
    return {
        "miou_present": mean(iou, present),
        "miou_union": mean(iou, seen),
        "fwiou": sum(share[c] * iou[c] for c in present) if pairs else math.nan,
        "pixel_accuracy": sum(p == w for p, w in pairs) / len(pairs) if pairs else math.nan,
        "mean_class_accuracy": mean(accuracy, present),
        "iou": tuple(iou[c] for c in range(num_classes)),
    }


def matrix_of(predicted, wanted, num_classes=3, ignore=255):
    matrix = ConfusionMatrix(num_classes, ignore=ignore)
    matrix.add(torch.tensor(predicted), torch.tensor(wanted))
    return matrix


pixels = st.lists(
    st.tuples(st.sampled_from([-1, 0, 1, 2, 3, 255]), st.sampled_from([0, 1, 2, 3, 255])), min_size=1, max_size=24
)


@given(pixels)
def test_every_score_is_the_one_counted_pixel_by_pixel(pairs):
    predicted, wanted = zip(*pairs, strict=True)
    scores = matrix_of([predicted], [wanted], num_classes=4).scores()
    for name, value in slow_scores(predicted, wanted, 4, 255).items():
        np.testing.assert_allclose(getattr(scores, name), value, rtol=1e-12, err_msg=name)


@given(pixels, st.integers(0, 24))
def test_a_stream_in_any_parts_counts_the_same_as_one_batch(pairs, cut):
    maps = torch.tensor(pairs).T[:, None]  # (2, 1, pixels)
    parts = [matrix_of(*part.tolist(), num_classes=4) for part in (maps[..., :cut], maps[..., cut:]) if part.numel()]
    merged = sum(parts[1:], parts[0])
    whole = ConfusionMatrix(4)
    whole.add(maps[0, None], maps[1, None])  # (B, H, W)
    assert torch.equal(merged.counts, whole.counts)
    assert whole.counts.dtype == torch.int64


def test_a_predicted_class_that_is_never_there_halves_mmsegs_miou_and_not_detectron2s():
    scores = matrix_of([[0, 0, 0, 1]], [[0, 0, 0, 0]], num_classes=3).scores()
    assert scores.miou_present == 0.75
    assert scores.miou_union == 0.375
    assert scores.iou[:2] == (0.75, 0.0)
    assert math.isnan(scores.iou[2])


def test_a_class_predicted_on_ignored_pixels_only_counts_nowhere():
    scores = matrix_of([[0, 1]], [[0, 255]], num_classes=2).scores()
    assert (scores.miou_present, scores.miou_union, scores.pixel_accuracy) == (1.0, 1.0, 1.0)


def test_none_is_a_miss_of_the_wanted_class_and_a_false_positive_of_no_other():
    none, other = matrix_of([[0, -1, 1]], [[0, 0, 1]]), matrix_of([[0, 1, 1]], [[0, 0, 1]])
    assert none.scores().iou[:2] == (0.5, 1.0)
    assert other.scores().iou[:2] == (0.5, 0.5)
    assert none.none_share == pytest.approx(1 / 3)


def test_a_prediction_of_the_ignore_id_is_none():
    assert torch.equal(matrix_of([[255]], [[1]]).counts, matrix_of([[-1]], [[1]]).counts)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_any_integer_dtype_counts_the_same(dtype):
    predicted, wanted = torch.tensor([[0, 1, 2]]), torch.tensor([[0, 2, 255]])
    matrix = ConfusionMatrix(3)
    matrix.add(predicted.to(dtype), wanted.to(torch.uint8))
    assert matrix.counts.tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]


def test_nothing_counted_is_nan_and_not_zero():
    scores = matrix_of([[0]], [[255]]).scores()
    assert all(math.isnan(getattr(scores, name)) for name in SCORES)
    assert math.isnan(ConfusionMatrix(2).none_share)


@pytest.mark.parametrize(
    ("predicted", "wanted", "says"),
    [
        ([[0]], [[3]], "0 to 2, or 255 .*got 3 wanted in 'a.png'"),
        ([[0]], [[-1]], "-1 wanted in 'a.png'"),
        ([[7]], [[0]], "7 predicted in 'a.png'"),
        ([[-2]], [[0]], "-2 predicted"),
        ([[0, 1]], [[0]], r"\(1, 2\) predicted and \(1, 1\) wanted in 'a.png'"),
        ([0], [0], r"\(H, W\) or \(B, H, W\)"),
        ([[0.0]], [[0]], "torch.float32 predicted in 'a.png'"),
        ([[True]], [[0]], "torch.bool predicted"),
    ],
)
def test_labels_that_belong_to_no_class_are_refused_with_the_files_name_and_nothing_is_counted(predicted, wanted, says):
    matrix = ConfusionMatrix(3)
    with pytest.raises(DataError, match=says):
        matrix.add(torch.tensor(predicted), torch.tensor(wanted), name="a.png")
    assert matrix.num_pixels == 0


def test_an_ignore_id_that_is_a_class_is_refused():
    with pytest.raises(ConfigError, match="846, got 255.*65535"):
        ConfusionMatrix(847)
    with pytest.raises(ConfigError, match="num_classes"):
        ConfusionMatrix(0)


def test_matrices_of_two_class_lists_do_not_add_up():
    with pytest.raises(DataError, match="2 and 3"):
        ConfusionMatrix(2) + ConfusionMatrix(3)
    with pytest.raises(TypeError):
        ConfusionMatrix(2) + 1  # type: ignore[operator]


def test_adding_two_matrices_changes_neither():
    a, b = matrix_of([[0]], [[0]]), matrix_of([[1]], [[1]])
    assert (a + b).num_pixels == 2
    assert repr(a) == "ConfusionMatrix(3 classes, 1 pixels)"
    assert (a.num_pixels, b.num_pixels) == (1, 1)


def test_counts_made_elsewhere_are_copied_and_checked():
    counts = torch.tensor([[1, 0, 2], [0, 3, 0]])
    matrix = ConfusionMatrix.from_counts(counts)
    matrix.add(torch.tensor([[0]]), torch.tensor([[0]]))
    assert counts[0, 0] == 1
    for wrong in (counts[:, :2], counts.float(), -counts, counts[0]):
        with pytest.raises(DataError, match=r"\(N, N \+ 1\)"):
            ConfusionMatrix.from_counts(wrong)
