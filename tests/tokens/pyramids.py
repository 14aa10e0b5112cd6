"""Token pyramids for the tests of this folder: a small one, and any that some tokenizer could make."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st

from pyramid_tokenizer.tokens.pyramid import TokenPyramid

FIELDS = {
    "ids": (torch.tensor([[[3, 1]], [[0, 2]]]), torch.arange(16).reshape(2, 2, 4)),
    "codebook_sizes": (4, 17),
    "image_size": (30, 60),
    "fingerprint": "0f" * 32,
    "precision": "float32",
}


PRECISIONS = [None, "float32", "bfloat16", "float16", "float64"]


def make(**changes: object) -> TokenPyramid:
    return TokenPyramid(**{**FIELDS, **changes})


@st.composite
def pyramids(draw: st.DrawFn) -> TokenPyramid:
    """Any pyramid that some tokenizer could make: odd sizes, odd codebooks, residual stages."""
    ratios = draw(st.lists(st.integers(1, 3), max_size=3))
    stride = draw(st.integers(1, 4)) * math.prod(ratios)
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    h, w = -(-height // stride), -(-width // stride)
    scales = [math.prod(ratios[:level]) for level in range(len(ratios) + 1)]
    sizes = [draw(st.sampled_from([2, 3, 5, 64, 100, 256, 1000, 4097])) for _ in scales]
    batch_size = draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**40)))
    shapes = [(batch_size, h * scale, w * scale) for scale in scales]
    ids = [torch.randint(k, shape, generator=generator) for k, shape in zip(sizes, shapes, strict=True)]
    fingerprint = draw(st.binary(min_size=32, max_size=32)).hex()
    origin = {"fingerprint": fingerprint, "precision": draw(st.sampled_from(PRECISIONS))}
    return TokenPyramid(ids=ids, codebook_sizes=sizes, image_size=(height, width), **origin)


def same(a: TokenPyramid, b: TokenPyramid) -> bool:
    """Equality spelled out, so that the laws below do not lean on `==`."""
    plain = [(p.codebook_sizes, p.image_size, p.fingerprint, p.precision, [x.tolist() for x in p.ids]) for p in (a, b)]
    return plain[0] == plain[1]
