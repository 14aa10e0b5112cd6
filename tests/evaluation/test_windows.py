import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyramid_tokenizer.errors import ConfigError, DataError, ImageValueError
from pyramid_tokenizer.evaluation.windows import at_short_side, sliding_window


def pointwise(image):
    return torch.cat([image.sqrt(), image.square() - 0.3])  # (6, h, w)


def seen(image, window_px, stride_px):
    """The windows that a score function sees, as (height, width), and how often it sees each pixel."""
    sizes = []
    marks = torch.arange(image.shape[1] * image.shape[2], dtype=torch.float32).reshape(1, *image.shape[1:])
    times = torch.zeros(marks.numel())

    def score(window):
        sizes.append(tuple(window.shape[1:]))
        times[window[0].long().flatten()] += 1
        return window[:1]

    sliding_window(score, marks.expand(3, -1, -1), window_px=window_px, stride_px=stride_px)
    return sizes, times.reshape(image.shape[1:])


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 12), st.data())
def test_a_pointwise_score_is_the_same_with_and_without_windows_to_the_bit(height, width, window, data):
    stride = data.draw(st.integers(1, window))
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(height * 32 + width))
    assert torch.equal(sliding_window(pointwise, image, window_px=window, stride_px=stride), pointwise(image))


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 12), st.data())
def test_windows_cover_every_pixel_inside_the_image_and_all_have_one_size(height, width, window, data):
    stride = data.draw(st.integers(1, window))
    sizes, times = seen(torch.zeros(3, height, width), window, stride)
    assert set(sizes) == {(min(height, window), min(width, window))}
    assert int(times.min()) >= 1
    per_side = [-(-max(0, side - window) // stride) + 1 for side in (height, width)]
    assert len(sizes) == per_side[0] * per_side[1]


def test_an_image_smaller_than_the_window_takes_one_window():
    assert seen(torch.zeros(3, 5, 7), 8, 4)[0] == [(5, 7)]
    assert seen(torch.zeros(3, 8, 8), 8, 4)[0] == [(8, 8)]


def test_the_last_window_is_shifted_inside():
    times = seen(torch.zeros(3, 1, 10), 4, 4)[1]
    assert times[0].tolist() == [1, 1, 1, 1, 1, 1, 2, 2, 1, 1]


def test_scores_are_the_mean_over_the_windows_that_cover_a_pixel():
    numbers = iter([1.0, 2.0, 6.0])
    scores = sliding_window(
        lambda x: torch.full((1, *x.shape[1:]), next(numbers)), torch.zeros(3, 1, 4), window_px=2, stride_px=1
    )
    assert scores[0, 0].tolist() == [1.0, 1.5, 4.0, 6.0]


def test_low_precision_scores_are_averaged_in_float32_and_no_graph_is_kept():
    weight = torch.ones(1, requires_grad=True)
    scores = sliding_window(lambda x: (x * weight).bfloat16(), torch.rand(3, 9, 9), window_px=4, stride_px=2)
    assert (scores.dtype, scores.requires_grad) == (torch.float32, False)


@pytest.mark.parametrize(("window_px", "stride_px"), [(0, 0), (4, 0), (4, 5)])
def test_windows_that_leave_gaps_are_refused(window_px, stride_px):
    with pytest.raises(ConfigError, match=f"{window_px} .*{stride_px}"):
        sliding_window(pointwise, torch.zeros(3, 8, 8), window_px=window_px, stride_px=stride_px)


def test_scores_of_another_size_than_the_window_are_refused():
    image = torch.zeros(3, 8, 8)
    for wrong in (lambda x: x[:, ::2, ::2], lambda x: x.argmax(0), lambda x: x.long()):
        with pytest.raises(DataError, match=r"\(N, 4, 4\)"):
            sliding_window(wrong, image, window_px=4, stride_px=4)
    for wrong in (lambda x: x / 0, lambda x: x - torch.inf):
        with pytest.raises(DataError, match="finite"):
            sliding_window(wrong, image, window_px=4, stride_px=4)
    with pytest.raises(DataError, match=r"\(3, H, W\), got \(1, 3, 8, 8\)"):
        sliding_window(pointwise, image[None], window_px=4, stride_px=4)


def test_at_its_own_short_side_an_image_is_scored_as_it_is():
    image = torch.rand(3, 12, 20)
    assert torch.equal(at_short_side(pointwise, image, short_side_px=12), pointwise(image))


def test_the_short_side_is_what_the_score_function_sees_and_scores_come_back_at_the_images_size():
    sizes = []

    def score(image):
        sizes.append(tuple(image.shape))
        return torch.stack([torch.full(image.shape[1:], 0.25), image[0]])

    scores = at_short_side(score, torch.rand(3, 30, 20), short_side_px=10)
    assert sizes == [(3, 15, 10)]
    assert scores.shape == (2, 30, 20)
    assert torch.equal(scores[0], torch.full((30, 20), 0.25))


def test_windows_work_inside_the_short_side():
    image = torch.rand(3, 24, 16)

    def windows(x):
        return sliding_window(pointwise, x, window_px=5, stride_px=3)

    both = at_short_side(windows, image, short_side_px=8)
    assert torch.equal(both, at_short_side(pointwise, image, short_side_px=8))


def test_a_short_side_or_image_that_is_none_is_refused():
    with pytest.raises(ImageValueError, match="at least 1"):
        at_short_side(pointwise, torch.zeros(3, 8, 8), short_side_px=0)
    with pytest.raises(DataError, match=r"\(3, H, W\)"):
        at_short_side(pointwise, torch.zeros(8, 8), short_side_px=4)
