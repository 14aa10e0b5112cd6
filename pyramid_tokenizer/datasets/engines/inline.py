"""The engine of `workers=0`: the calling process encodes one shard after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch

from pyramid_tokenizer.datasets.shards import Shard, Stage, Work, encode_shard
from pyramid_tokenizer.tokenizer import PyramidTokenizer

THREADS = 1
"""Threads of torch's products in every process that encodes: sums of floats may depend on their number."""


def encode_here(
    work: Work, shards: Iterable[int], *, tok: PyramidTokenizer, readers: int, advance: Callable[[int], None]
) -> Iterator[Shard]:
    """Encodes shards in the calling process.

    Args:
        work: Source and plan.
        shards: Numbers of the shards.
        tok: The plan's tokenizer, where it is to compute.
        readers: Threads that read images ahead.
        advance: Called with the number of images that are done since the last call.
    """

    def tell(stage: Stage, numbers: Sequence[int]) -> None:
        if stage == "encoded":
            advance(len(numbers))

    with fixed_threads():
        for shard in shards:
            done = encode_shard(tok, work, shard, readers=readers, tell=tell)
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
