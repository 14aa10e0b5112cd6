"""Ids of features that come row by row are those of whole features, for every composition, kind of codebook and layout."""

import copy
import functools
from dataclasses import replace

import pytest
import torch

from pyramid_tokenizer.errors import BackboneError, CheckpointError, NotFittedError
from pyramid_tokenizer.quantizer import by_products
from pyramid_tokenizer.quantizer.by_rows import RowQuantizer
from tests.quantizer.cases import CASES, backbone_of, build, fitted, pictures


@functools.cache
def tall_features(layout):
    return backbone_of(layout)(pictures(1, height=480, width=96), with_dense=True)


def encode_by_rows(quantizer, features, *, rows=7, levels=None):
    channels = [whole.shape[1] for whole in features.maps]
    reader = RowQuantizer(quantizer, channels=channels, strides=features.strides, levels=levels)
    for index, whole in enumerate(features.maps):
        parts = whole.split(rows, dim=2)
        for number, part in enumerate(parts, start=1):
            reader.read(index, part, number == len(parts))
    return reader.ids(features)


@pytest.mark.parametrize(
    "case",
    [case if number in (0, 1, 5) else pytest.param(case, marks=pytest.mark.slow) for number, case in enumerate(CASES)],
    ids="-".join,
)
def test_ids_are_those_of_whole_features(case, monkeypatch):
    composition, kind, layout = case
    quantizer, features = fitted(composition, kind, layout), tall_features(layout)
    monkeypatch.setattr(by_products, "BAND_PIXELS", 1)
    for found, expected in zip(encode_by_rows(quantizer, features), quantizer.encode(features), strict=True):
        assert torch.equal(found, expected)
        assert len(expected.unique()) > 1


def test_a_level_without_dense_features_reads_the_embedding(monkeypatch):
    monkeypatch.setattr(by_products, "BAND_PIXELS", 1)
    quantizer, layout = fitted("recipe"), "halving"
    features = tall_features(layout)
    features = replace(features, dense=None)
    for found, expected in zip(encode_by_rows(quantizer, features), quantizer.encode(features), strict=True):
        assert torch.equal(found, expected)


def test_numbers_that_are_not_finite_are_refused():
    quantizer, features = copy.deepcopy(fitted("recipe")), tall_features("halving")
    with pytest.raises(NotFittedError):
        encode_by_rows(build("recipe"), features)
    broken = features.maps[1].clone()
    broken[0, 0, 5] = float("nan")
    with pytest.raises(BackboneError, match="stride 16"):
        encode_by_rows(quantizer, replace(features, maps=(features.maps[0], broken, *features.maps[2:])))
    quantizer.level(2).codebook[0] = float("inf")
    with pytest.raises(CheckpointError, match="levels.2.codebook"):
        encode_by_rows(quantizer, features)
