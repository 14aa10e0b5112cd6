"""Writes tokens_v2.bin, a small pyramid that every later release must still read: python tests/golden/make_tokens.py.

The ids are a formula, so the file depends on nothing but the format. A new version of the format gets a file of its
own; this one stays as it is.
"""

from __future__ import annotations

from pathlib import Path

import torch

from pyramid_tokenizer.tokens.pyramid import TokenPyramid

PATH = Path(__file__).with_name("tokens_v2.bin")


def golden_tokens() -> TokenPyramid:
    """Two images of 41x67 px in three levels, the last one a residual stage; codebooks that are not powers of two."""
    sizes = ((2, 3, 5), (4, 6, 300), (4, 6, 4097))  # h, w, K
    ids = tuple((torch.arange(2 * h * w) * 7919 % k).reshape(2, h, w) for h, w, k in sizes)
    origin = {"fingerprint": bytes(range(32)).hex(), "precision": "bfloat16"}
    return TokenPyramid(ids=ids, codebook_sizes=tuple(k for _, _, k in sizes), image_size=(41, 67), **origin)


if __name__ == "__main__":
    golden_tokens().save(PATH)
    print(f"wrote {PATH.name}: {PATH.stat().st_size} bytes")
