"""Score tables of all codes with all phrases, kept for the next call with the same words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pyramid_tokenizer.checks.finite import all_finite, require_finite
from pyramid_tokenizer.errors import CheckpointError
from pyramid_tokenizer.quantizer.pyramid import WEIGHTS_ADVICE, PyramidQuantizer

KEPT_TABLE_FLOATS = 2**26
"""Tables larger than this (256 MB) are not kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreTables:
    """Tables and all that they were computed from. Never changed once made, so that threads may share it."""

    state: Mapping[str, Tensor]
    """Copies of the quantizer's tensors."""
    words: Tensor
    """(P, D), the phrases' embeddings."""
    tables: tuple[Tensor, ...]
    """(K_l, P) per level: the score of every code with every phrase, weighted as the level counts."""

    @classmethod
    def make(cls, quantizer: PyramidQuantizer, words: Tensor) -> ScoreTables:
        """The tables of a quantizer for phrases with embeddings (P, D) on any device."""
        state = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
        rows = finite_rows(quantizer)
        tables = tuple(level @ words.to(level.device).T for level in rows)
        return cls(state=state, words=words.clone(), tables=tables)

    def fits(self, quantizer: PyramidQuantizer, words: Tensor) -> bool:
        """Whether the tables are those of this quantizer, as it is now, and of these phrases.

        Every tensor is compared by its values: a refit, new text embeddings and a move to another device are all noticed.
        Comparing the few megabytes of a quantizer is far cheaper than computing the tables.
        """
        now = quantizer.state_dict()
        return (
            _same(self.words, words)
            and now.keys() == self.state.keys()
            and all(_same(self.state[name], tensor) for name, tensor in now.items())
        )


def finite_rows(quantizer: PyramidQuantizer) -> tuple[Tensor, ...]:
    """The weighted text embeddings of all codes, (K_l, D) per level; CheckpointError where weights make them NaN."""
    rows = quantizer.weighted_text_embeddings()
    if not all_finite(rows):
        quantizer.require_finite_weights()
        named = {f"level {index}": level for index, level in enumerate(rows)}
        require_finite(named, stage="the text embeddings of the codes", advice=WEIGHTS_ADVICE, error=CheckpointError)
    return rows


def _same(one: Tensor, other: Tensor) -> bool:
    return one.device == other.device and one.dtype == other.dtype and torch.equal(one, other)
