"""Ids of features that come window by window."""

import copy
from dataclasses import replace

import pytest
import torch

from pyramid_tokenizer.backbones.windows import JoinedMap, Windows
from pyramid_tokenizer.errors import BackboneError, CheckpointError, NotFittedError
from pyramid_tokenizer.quantizer.by_windows import WindowQuantizer
from tests.quantizer.cases import CASES, backbone_of, build, fitted, pictures

SIZE, WINDOW_PX = (192, 384), 192


def windows_of(layout):
    multiple = 48 if "3 and 8" in layout else 32
    return Windows.of(SIZE, window_px=WINDOW_PX, multiple_px=multiple)


def encode_by_windows(quantizer, windows, features, change=lambda number, part: part):
    """Ids of windows cut out of the maps of a whole image, each changed by its number."""
    maps = {"channels": [whole.shape[1] for whole in features.maps], "strides": features.strides}
    reader = WindowQuantizer(quantizer, windows, **maps)
    for number, (top, left) in enumerate(windows.corners):
        parts = [
            change(number, whole[..., top // s : (top + WINDOW_PX) // s, left // s : (left + WINDOW_PX) // s])
            for whole, s in zip(features.maps, features.strides, strict=True)
        ]
        reader.read([(top, left)], replace(features, maps=tuple(parts)))
    return reader.ids(features)


@pytest.mark.parametrize(
    "case",
    [case if number in (0, 1, 5) else pytest.param(case, marks=pytest.mark.slow) for number, case in enumerate(CASES)],
    ids="-".join,
)
def test_windows_of_one_map_have_its_ids(case):
    composition, kind, layout = case
    quantizer = fitted(composition, kind, layout)
    features = backbone_of(layout)(pictures(1, *SIZE), with_dense=True)
    for found, expected in zip(
        encode_by_windows(quantizer, windows_of(layout), features), quantizer.encode(features), strict=True
    ):
        assert torch.equal(found, expected)
        assert len(expected.unique()) > 1


def test_windows_that_differ_have_the_ids_of_their_joined_maps():
    layout, level = "finer than its map, as for a ViT", 1  # of the stride of its map: ramps are on the grids of levels
    quantizer, windows = fitted("none", "euclidean", layout), windows_of(layout)
    features = backbone_of(layout)(pictures(1, *SIZE), with_dense=True)

    def change(number, part):
        return part * (1 + number)

    joined = []
    for whole, stride in zip(features.maps, features.strides, strict=True):
        joined.append(JoinedMap(windows))
        for number, (top, left) in enumerate(windows.corners):
            part = whole[
                ..., top // stride : (top + WINDOW_PX) // stride, left // stride : (left + WINDOW_PX) // stride
            ]
            joined[-1].add([(top, left)], change(number, part))
    found = encode_by_windows(quantizer, windows, features, change)[level]
    expected = quantizer.encode(replace(features, maps=tuple(own.whole for own in joined)))[level]
    assert torch.equal(found, expected)
    assert not torch.equal(expected, quantizer.encode(features)[level])


def test_numbers_that_are_not_finite_are_refused():
    layout = "halving"
    features = backbone_of(layout)(pictures(1, *SIZE), with_dense=True)
    with pytest.raises(NotFittedError):
        encode_by_windows(build("recipe"), windows_of(layout), features)
    broken = features.maps[1].clone()
    broken[0, 0, 5] = float("nan")
    with pytest.raises(BackboneError, match="stride 16"):
        encode_by_windows(
            fitted("recipe"), windows_of(layout), replace(features, maps=(features.maps[0], broken, *features.maps[2:]))
        )
    quantizer = copy.deepcopy(fitted("recipe"))
    quantizer.level(2).codebook[0] = float("inf")
    with pytest.raises(CheckpointError, match="levels.2.codebook"):
        encode_by_windows(quantizer, windows_of(layout), features)
