"""Overlapping windows of an image, and maps joined from theirs."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyramid_tokenizer.backbones.windows import JoinedMap, Windows


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    window=st.integers(4, 20),
    multiple=st.sampled_from([1, 14, 32]),
)
def test_windows_of_one_size_cover_the_image_and_overlap_by_a_fourth(height, width, window, multiple):
    image, side = (height * multiple, width * multiple), window * multiple
    windows = Windows.of(image, window_px=side, multiple_px=multiple)
    assert windows.size == (min(image[0], side), min(image[1], side))
    for firsts, extent, whole in zip((windows.tops, windows.lefts), windows.size, image, strict=True):
        assert (firsts[0], firsts[-1] + extent) == (0, whole)
        assert all(first % multiple == 0 for first in firsts)
        assert all(0 < right - left <= extent * 3 / 4 for left, right in itertools.pairwise(firsts))
        most = window * 3 // 4 * multiple  # from one window to the next
        assert len(firsts) == 1 + -(-(whole - extent) // most)


def joined_slowly(windows, maps, stride):
    """The mean over windows of what they give for a cell, each weighted by the cell's distance to the window's border."""
    height, width = (
        firsts[-1] + extent for firsts, extent in zip((windows.tops, windows.lefts), windows.size, strict=True)
    )
    found = torch.zeros(1, maps.shape[1], height // stride, width // stride)
    for y, x in itertools.product(range(found.shape[2]), range(found.shape[3])):
        total = 0.0
        for (top, left), own in zip(windows.corners, maps, strict=True):
            row, column = y - top // stride, x - left // stride
            if 0 <= row < own.shape[1] and 0 <= column < own.shape[2]:
                weight = min(row + 0.5, own.shape[1] - row - 0.5) * min(column + 0.5, own.shape[2] - column - 0.5)
                found[0, :, y, x] += weight * own[:, row, column]
                total += weight
        found[0, :, y, x] /= total
    return found


def test_a_joined_map_is_the_mean_weighted_by_the_distance_to_the_borders():
    windows = Windows.of((80, 136), window_px=64, multiple_px=8)
    maps = torch.rand(len(windows.corners), 2, 8, 8)
    joined = JoinedMap(windows)
    joined.add(windows.corners[:2], maps[:2])
    joined.add(windows.corners[2:], maps[2:])
    assert len(windows.corners) == 6
    assert torch.allclose(joined.whole, joined_slowly(windows, maps, 8))


def test_parts_of_one_map_are_joined_to_it():
    windows, whole = Windows.of((96, 416), window_px=128, multiple_px=32), torch.rand(1, 3, 6, 26)
    joined = JoinedMap(windows)
    for top, left in windows.corners:
        joined.add([(top, left)], whole[:, :, top // 16 : top // 16 + 6, left // 16 : left // 16 + 8])
    assert torch.allclose(joined.whole, whole)


def test_a_map_of_no_window_is_refused():
    with pytest.raises(ValueError, match="windows"):
        JoinedMap(Windows.of((64, 64), window_px=32, multiple_px=8)).whole  # noqa: B018


def test_the_stem_of_a_vit_is_the_same_in_windows_and_what_attends_to_all_patches_is_not(load):
    backbone, image = load("vit", stem=True), torch.rand(1, 3, 48, 104)
    windows, whole = Windows.of((48, 104), window_px=64, multiple_px=8), backbone(image, with_dense=True)
    maps = [JoinedMap(windows) for _ in whole.maps]
    for top, left in windows.corners:
        for joined, own in zip(maps, backbone(image[..., left : left + 64], with_dense=True).maps, strict=True):
            joined.add([(top, left)], own)
    assert windows.lefts == (0, 40)
    assert torch.allclose(maps[-1].whole, whole.maps[-1], atol=1e-5)
    assert all(
        not torch.allclose(own.whole, other, atol=1e-2) for own, other in zip(maps[:-1], whole.maps[:-1], strict=True)
    )
