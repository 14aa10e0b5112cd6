"""What is said about a token pyramid as a whole: its line of text and its size in bits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from pyramid_tokenizer.tokens.splits import count_present, count_split_bits

if TYPE_CHECKING:
    from pyramid_tokenizer.tokens.pyramid import TokenPyramid


def level_counts(tokens: TokenPyramid) -> Tensor:
    """(L, B) int64 on the ids' device: how many tokens each image has on each level."""
    return count_present(tokens.present, [x.shape for x in tokens.ids], tokens.device)


def bits_per_pixel(tokens: TokenPyramid) -> float:
    """The size of the ids and split bits; `TokenPyramid.bits_per_pixel` has the rules."""
    height, width = tokens.image_size
    sizes = [math.log2(k) for k in tokens.codebook_sizes]
    image = sum(math.log2(k) for k in tokens.image_codebook_sizes)
    if not tokens.is_sparse:
        bits = sum(h * w * size for (h, w), size in zip(tokens.grids, sizes, strict=True))
        return (bits + image) / (height * width)
    counts = level_counts(tokens).cpu()  # (L, B)
    bits = sum(n * size for n, size in zip(counts.sum(1).tolist(), sizes, strict=True))
    splits = int(count_split_bits(counts, tokens.grids).sum())
    return (bits + splits + tokens.batch_size * image) / (tokens.batch_size * height * width)


def describe_pyramid(tokens: TokenPyramid) -> str:
    """Images, levels, rate and origin in one line."""
    height, width = tokens.image_size
    images = f"{tokens.batch_size} image{'s' if tokens.batch_size > 1 else ''} of {height}x{width} px"
    shares = [""] * len(tokens)
    if tokens.is_sparse:
        present = zip(level_counts(tokens).sum(1).tolist(), [x.numel() for x in tokens.ids], strict=True)
        shares = [f" ({100 * n / cells:.3g} % present)" if n < cells else "" for n, cells in present]
    parts = zip(tokens.grids, tokens.codebook_sizes, shares, strict=True)
    levels = ", ".join(f"{h}x{w} of {k}{share}" for (h, w), k, share in parts)
    plural = "s" if len(tokens) > 1 else ""
    image = "".join(f"{k}, " for k in tokens.image_codebook_sizes)
    levels = f"image tokens of {image}{levels}" if image else levels
    rate = f"{tokens.bits_per_pixel:.3g} bits per pixel"
    origin = f"fingerprint {tokens.fingerprint[:8]}, precision {tokens.precision}"
    return f"TokenPyramid({images}, {len(tokens)} level{plural}: {levels}, {rate}, {origin})"
