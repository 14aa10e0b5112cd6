"""`trusted_pyramid` makes a `TokenPyramid` of parts that are known to be right."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pyramid_tokenizer.tokens.pyramid import Precision, TokenPyramid, set_fields
from pyramid_tokenizer.tokens.splits import Presence


def trusted_pyramid(
    *,
    ids: Sequence[Tensor],
    present: Presence | None = None,
    codebook_sizes: tuple[int, ...],
    image_size: tuple[int, int],
    fingerprint: str,
    precision: Precision | None,
    image_ids: Tensor | None = None,
    image_codebook_sizes: tuple[int, ...] = (),
) -> TokenPyramid:
    """A pyramid of parts that an encoder of this package made: neither checked nor copied. See `TokenPyramid`.

    Args:
        ids: (B, h_l, w_l) int64 in [0, K_l), or -1 where absent, per level, coarse to fine, on one device; nobody else writes
            into them.
        present: (B, h_l, w_l) bool per level, a tree of splits that is True where `ids` are not -1, or None for a full level;
            None for a full pyramid. Level 0 is full.
        codebook_sizes: K_l per level.
        image_size: (H, W) in pixels, before padding, which fits the grids.
        fingerprint: Of the tokenizer.
        precision: Of its backbone; None where none took part.
        image_ids: (B, M) int64 in [0, K); None where there are no image tokens.
        image_codebook_sizes: K of each image token.
    """
    return set_fields(
        object.__new__(TokenPyramid),  # without __post_init__, which checks
        ids=tuple(ids),
        present=(None,) * len(ids) if present is None else tuple(present),
        codebook_sizes=codebook_sizes,
        image_size=image_size,
        fingerprint=fingerprint,
        precision=precision,
        image_ids=ids[0].new_empty(len(ids[0]), 0) if image_ids is None else image_ids,
        image_codebook_sizes=image_codebook_sizes,
    )
