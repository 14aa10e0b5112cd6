"""A segmenter without a head and one with each kind of head, over the toy tokenizer."""

import copy
import dataclasses

import pytest
import torch

from pyramid_tokenizer import Segmenter
from pyramid_tokenizer.config.models import SegmentationConfig
from pyramid_tokenizer.config.plain import to_dict
from pyramid_tokenizer.segmentation.head import build_head

NAMES = ["sky", "tree|bush|hedge", "car", "road|street", "dog"]
WORDS = ["wall", "floor"]
SIZE = (41, 57)


@pytest.fixture(scope="module")
def seg(toy_tokenizer):
    """Look-up alone."""
    return Segmenter(toy_tokenizer)


def with_head(tok, *, shared=True):
    """The tokenizer's copy with a head that is no longer fresh."""
    tok = copy.deepcopy(tok)
    tok.config = dataclasses.replace(
        tok.config, segmentation=SegmentationConfig(width=8, depth=1, shared_decoder=shared)
    )
    head = build_head(tok.trunk, embedding_dim=16, **to_dict(tok.config.segmentation))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.ndim:  # scale and bias stay
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return Segmenter(tok, head)


@pytest.fixture(scope="module", params=["shared trunk", "own trunk"])
def headed(request, toy_tokenizer):
    return with_head(toy_tokenizer, shared=request.param == "shared trunk")


@pytest.fixture(scope="module")
def images(smooth):
    return smooth(2, *SIZE, seed=3)
