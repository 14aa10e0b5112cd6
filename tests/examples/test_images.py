"""The fixed crops that teachers and student share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.mark.parametrize("size", [(213, 160), (160, 200), (33, 64)])
def test_a_crop_lies_inside_its_image_and_depends_on_its_name_and_number_alone(size: tuple[int, int]) -> None:
    from images import CROPS, crop_box

    boxes = [crop_box(size, "train/a.jpg", k) for k in range(CROPS)]
    assert boxes == [crop_box(size, "train/a.jpg", k) for k in range(CROPS)]
    assert len(set(boxes)) == CROPS
    assert boxes[1:] != [crop_box(size, "train/b.jpg", k) for k in range(1, CROPS)]
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= size[0] + 1e-6 and 0 <= top < bottom <= size[1] + 1e-6
        assert (right - left) * (bottom - top) >= 0.2 * size[0] * size[1]


def test_crop_zero_is_the_central_square() -> None:
    from images import crop_box

    assert crop_box((200, 160), "any", 0) == (20, 0, 180, 160)


def test_dense_cells_count_each_class_and_leave_out_ignored_pixels() -> None:
    from images import dense_cells

    labels = np.full((32, 32), 1, np.uint8)
    labels[:16, :16] = 0
    labels[16:, 16:] = 255
    labels[16:, 16:24] = 2
    shares = dense_cells(Image.fromarray(labels), (0, 0, 32, 32), 2, 3)
    expected = np.zeros((2, 2, 3), np.float32)
    expected[0, 0, 0] = expected[0, 1, 1] = expected[1, 0, 1] = 1
    expected[1, 1, 2] = 0.5
    assert np.array_equal(shares, expected)


def test_jitter_keeps_the_range_follows_its_seed_and_moves_whole_images_alike() -> None:
    from images import jitter

    images = torch.full((4, 3, 8, 8), 0.5) + torch.arange(4).view(4, 1, 1, 1) * 0.1
    moved = jitter(images, np.random.default_rng(3))
    assert torch.equal(moved, jitter(images, np.random.default_rng(3)))
    assert moved.min() >= 0 and moved.max() <= 1
    assert torch.equal(moved, moved[:, :, :1, :1].expand_as(moved))
    assert not torch.allclose(moved, images)
