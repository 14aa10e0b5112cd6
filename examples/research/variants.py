"""The rows of the ablation table: what each changes in a tokenizer's config, and nothing else."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import twins
from pyramid_tokenizer.config.models import Composition, TokenizerConfig

FSQ_ENTRIES = range(8, 4, -1)
"""Entries per dimension of a grid: five or more, as Mentzer et al. advise ("Finite Scalar Quantization", arXiv 2309.15505)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One row: what it changes in the base config, and how else its training differs."""

    what: str
    change: Callable[[TokenizerConfig], TokenizerConfig] = lambda config: config
    norm: str = ""
    """Norm of a backbone of `backbones.py` to stand on; "" for the base's own backbone."""
    refine: bool = False
    """Whether gradients refine adapters and codebooks (stage 1, as many steps as the decoder's) before the decoder trains."""


def with_level(config: TokenizerConfig, index: int, **changes: Any) -> TokenizerConfig:
    """The config with some fields of one level changed."""
    each: list[dict[str, Any]] = [{} for _ in config.quantizer.levels]
    each[index] = changes
    return twins.with_levels(config, each)


def with_composition(config: TokenizerConfig, composition: Composition) -> TokenizerConfig:
    """The config with levels that build on each other in another way."""
    quantizer = dataclasses.replace(config.quantizer, composition=composition)
    return dataclasses.replace(config, quantizer=quantizer, fingerprint="")


def nearest_grid(codebook_size: int) -> tuple[int, ...]:
    """Entries per dimension of the grid whose number of points comes nearest to a codebook's; most for the first dimension.

    Dimensions come in order of what they explain.
    """
    shapes = (s for dims in range(1, 8) for s in itertools.combinations_with_replacement(FSQ_ENTRIES, dims))
    return min(shapes, key=lambda shape: abs(math.log2(math.prod(shape) / codebook_size)))


def with_fsq(config: TokenizerConfig) -> TokenizerConfig:
    """Fixed grids of nearly the same bits in place of every level's learned codebook."""
    grids = [nearest_grid(level.codebook_size) for level in config.quantizer.levels]
    changes = [
        {"fsq": grid, "codebook_size": math.prod(grid), "dim": len(grid), "distance": "euclidean"} for grid in grids
    ]
    return twins.with_levels(config, changes)


def with_two_stages(config: TokenizerConfig, index: int) -> TokenizerConfig:
    """One level as two residual stages on its grid, of half the bits each; as many decoder blocks on that grid as before."""
    levels, decoder = list(config.quantizer.levels), config.decoder
    bits, depth = int(math.log2(levels[index].codebook_size)), decoder.depths[index]
    levels[index : index + 1] = [
        dataclasses.replace(levels[index], codebook_size=2**b) for b in (bits - bits // 2, bits // 2)
    ]
    widths, depths = list(decoder.widths), list(decoder.depths)
    widths[index : index + 1] = [widths[index]] * 2
    depths[index : index + 1] = [depth - depth // 2, depth // 2]
    return dataclasses.replace(
        config,
        quantizer=dataclasses.replace(config.quantizer, levels=tuple(levels)),
        decoder=dataclasses.replace(decoder, widths=tuple(widths), depths=tuple(depths)),
        fingerprint="",
    )


def with_finest_codes(config: TokenizerConfig, factor: float) -> TokenizerConfig:
    """The config with that many times the codes at the finest level: another rate."""
    return with_level(config, -1, codebook_size=int(factor * config.quantizer.levels[-1].codebook_size))


VARIANTS = {
    "base": Variant(what="the model's own levels"),
    "last-layer": Variant(what="every level reads the backbone's last map alone", change=twins.last_layer),
    "bottom-up": Variant(
        what="a level sees the finer one's codes, as in the paper", change=lambda c: with_composition(c, "bottom_up")
    ),
    "no-composition": Variant(what="levels do not see each other", change=lambda c: with_composition(c, "none")),
    "fsq": Variant(what="finite scalar quantisation at every level, nearly the same bits", change=with_fsq),
    "cosine": Variant(
        what="unit-norm codes at the coarsest level", change=lambda c: with_level(c, 0, distance="cosine")
    ),
    "middle-in-two": Variant(
        what="the middle level as two residual stages of half its bits", change=lambda c: with_two_stages(c, 1)
    ),
    "finest-in-two": Variant(
        what="the finest level as two residual stages of half its bits", change=lambda c: with_two_stages(c, 2)
    ),
    "refined": Variant(what="adapters and codebooks refined by gradients before the decoder trains", refine=True),
    "dim-4": Variant(what="4 dimensions at the finest level", change=lambda c: with_level(c, -1, dim=4)),
    "dim-16": Variant(what="16 dimensions at the finest level", change=lambda c: with_level(c, -1, dim=16)),
    "half-codes": Variant(
        what="half the codes at the finest level: a lower rate", change=lambda c: with_finest_codes(c, 0.5)
    ),
    "double-codes": Variant(
        what="twice the codes at the finest level: a higher rate", change=lambda c: with_finest_codes(c, 2)
    ),
    "batch-norm": Variant(what="on a small backbone of its own, with batch norm", norm="batch"),
    "layer-norm": Variant(what="on the same backbone with layer norm, trained alike", norm="layer"),
}
