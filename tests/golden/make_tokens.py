"""Writes tokens_v4.bin and tokens_v4_sparse.bin, small pyramids that every later release must still read.

Run it by: python tests/golden/make_tokens.py. The ids are a formula, so the files depend on nothing but the format. A new
version of the format gets files of its own; these stay as they are.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from pyramid_tokenizer.tokens.pyramid import TokenPyramid

FOLDER = Path(__file__).parent


def golden_tokens() -> TokenPyramid:
    """Two images of 41x67 px in three levels, the last one a residual stage; codebooks that are not powers of two."""
    sizes = ((2, 3, 5), (4, 6, 300), (4, 6, 4097))  # h, w, K
    ids = tuple((torch.arange(2 * h * w) * 7919 % k).reshape(2, h, w) for h, w, k in sizes)
    origin = {"fingerprint": bytes(range(32)).hex(), "precision": "bfloat16"}
    image = {"image_ids": torch.tensor([[4, 299, 1], [0, 17, 0]]), "image_codebook_sizes": (5, 300, 2)}
    return TokenPyramid(ids=ids, codebook_sizes=tuple(k for _, _, k in sizes), image_size=(41, 67), **image, **origin)


def golden_sparse_tokens() -> TokenPyramid:
    """The same two images; in the first one no cell is split in the middle column, in the second one every other cell is."""
    full = golden_tokens()
    coarse, middle, fine = (x.clone() for x in full.ids)
    middle[0, :, 2:4] = -1
    middle[1, :2, 2:4], middle[1, 2:, :2], middle[1, 2:, 4:] = -1, -1, -1
    fine[(middle < 0) | (middle % 2 == 0)] = -1
    return dataclasses.replace(full, ids=(coarse, middle, fine))


GOLDEN = {"tokens_v4.bin": golden_tokens, "tokens_v4_sparse.bin": golden_sparse_tokens}

if __name__ == "__main__":
    for name, make in GOLDEN.items():
        make().save(FOLDER / name)
        print(f"wrote {name}: {(FOLDER / name).stat().st_size} bytes")
