"""Token pyramids for the tests of this folder: small ones, and any that some tokenizer could make."""

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


def make_sparse(**changes: object) -> TokenPyramid:
    """Two images of 30x60 px in three levels: one with a split of its right cell, then of one child of it; one that is full."""
    ids = torch.arange(16).reshape(2, 2, 4), torch.arange(64).reshape(2, 4, 8)
    ids[0][0, :, :2], ids[1][0] = -1, -1
    ids[1][0, :2, 6:] = 63
    fields = {"ids": (FIELDS["ids"][0], *ids), "codebook_sizes": (4, 17, 64)}
    return make(**{**fields, **changes})


def prune(ids: list[torch.Tensor], generator: torch.Generator) -> list[torch.Tensor]:
    """The ids without random families of children: in some images all of them, in some none."""
    share = torch.tensor([0.0, 0.4, 0.8, 1.0])[torch.randint(4, (len(ids[0]),), generator=generator)]
    pruned = [ids[0]]
    for fine in ids[1:]:
        coarse = pruned[-1]
        split = torch.rand(coarse.shape, generator=generator) < share[:, None, None]
        ratio = fine.shape[1] // coarse.shape[1]
        present = (split & (coarse >= 0)).kron(torch.ones(1, ratio, ratio))
        pruned.append(torch.where(present > 0, fine, -1))
    return pruned


@st.composite
def pyramids(draw: st.DrawFn) -> TokenPyramid:
    """Any pyramid that some tokenizer could make: odd sizes, odd codebooks, residual stages, full or sparse levels."""
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
    first = draw(st.integers(1, len(ids)))  # sparse level, if there is one
    ids = ids[: first - 1] + prune(ids[first - 1 :], generator)
    fingerprint = draw(st.binary(min_size=32, max_size=32)).hex()
    origin = {"fingerprint": fingerprint, "precision": draw(st.sampled_from(PRECISIONS))}
    image_sizes = draw(st.lists(st.sampled_from([2, 3, 256, 1000]), max_size=3))
    image_ids = torch.stack([torch.randint(k, (batch_size,), generator=generator) for k in (*image_sizes, 2)], 1)[
        :, :-1
    ]
    image = {"image_ids": image_ids, "image_codebook_sizes": image_sizes}
    return TokenPyramid(ids=ids, codebook_sizes=sizes, image_size=(height, width), **image, **origin)


def same(a: TokenPyramid, b: TokenPyramid) -> bool:
    """Equality spelled out, so that the laws below do not lean on `==`; the masks of both must agree with their ids."""
    for tokens in (a, b):
        for ids, mask in zip(tokens.ids, tokens.present, strict=True):
            assert torch.equal(ids >= 0, torch.ones_like(ids, dtype=torch.bool) if mask is None else mask)
    plain = [
        {name: getattr(p, name) for name in ("codebook_sizes", "image_size", "fingerprint", "precision")}
        | {"image": p.image_codebook_sizes, "ids": [x.tolist() for x in (*p.ids, p.image_ids)]}
        for p in (a, b)
    ]
    return plain[0] == plain[1]
