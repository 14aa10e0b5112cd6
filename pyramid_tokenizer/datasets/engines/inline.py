"""The engine of `workers=0`: the calling process encodes one shard after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from pyramid_tokenizer.datasets.engines.contract import Advance
from pyramid_tokenizer.datasets.shards import Shard, Stage, Work, encode_shard
from pyramid_tokenizer.tokenizer import PyramidTokenizer

THREADS = 1
"""Threads of torch's products in every process that encodes: sums of floats may depend on their number."""


class InlineEngine:
    """Encodes in the calling process; an `engines.contract.Engine`.

    Args:
        tok: The plan's tokenizer.
        device: Where it is to compute; elsewhere than it is, a copy of it does.
        readers: Threads that read images ahead.
    """

    def __init__(self, tok: PyramidTokenizer, *, device: str, readers: int):
        self._tok, self._device, self._readers = tok, device, readers

    def encode(self, work: Work, shards: Sequence[int], *, advance: Advance) -> Iterator[Shard]:
        """Each of these shards, in this order."""

        def tell(stage: Stage, numbers: Sequence[int]) -> None:
            if stage == "encoded":
                advance(len(numbers))

        tok = self._tok if str(self._tok.device) == self._device else work.load_tokenizer(self._device)
        with fixed_threads():
            for shard in shards:
                done = encode_shard(tok, work, shard, readers=self._readers, tell=tell)
                advance(len(done.record.errors))
                yield done


@contextmanager
def fixed_threads() -> Iterator[None]:
    """While it is entered, torch computes with `THREADS` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)
