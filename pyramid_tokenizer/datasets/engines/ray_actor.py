"""What runs on the machines of a Ray cluster: an actor that watches over a process that encodes.

The actor hands its shards to a process of its own, as the engine `local` does: the same code computes the same bytes, and an
image that ends or stops the process is found, named and tried again there. Ray itself notices the end of an actor, but not that
it hangs.
"""

from __future__ import annotations

import pickle
import socket
from functools import partial
from typing import Any, Literal, TypeAlias

from pyramid_tokenizer.datasets.engines.local import ProcessPool
from pyramid_tokenizer.datasets.engines.probe import Probe, check_machine
from pyramid_tokenizer.datasets.schema import import_pyarrow
from pyramid_tokenizer.datasets.shards import Shard, Work
from pyramid_tokenizer.errors import PyramidTokenizerError

SHARD, OUTCOME = "shard", "outcome"
"""Columns of what an actor gets and gives: numbers of shards, and pickled outcomes."""
Outcome: TypeAlias = (
    tuple[Literal["done"], Shard]
    | tuple[Literal["failed"], tuple[int, str]]
    | tuple[Literal["error"], PyramidTokenizerError]
)
"""A finished shard; a shard that cannot be encoded and why; or an error that every attempt meets."""


class EncodeShards:
    """Encodes shards; what `ray.data.Dataset.map_batches` calls, an instance in each actor.

    Args:
        shared: Reference to a pickled `datasets.shards.Work` among Ray's objects.
        expected: What the caller found on its machine.
        device: Where the tokenizer computes; "cuda" is the GPU that Ray gave the actor.
        readers: Threads that read images ahead.
        patience_seconds: The process is ended that neither reads nor encodes an image for this long.
    """

    def __init__(self, shared: Any, expected: Probe, device: str, readers: int, patience_seconds: float):
        import ray

        self._work: Work = pickle.loads(ray.get(shared))
        self._expected = expected
        self._pool: ProcessPool | None = None
        self._make_pool = partial(
            ProcessPool, devices=[device], readers=readers, patience_seconds=patience_seconds, advance=_ignore
        )

    def __call__(self, batch: Any) -> Any:
        """An outcome for each number of a shard.

        Args:
            batch: A `pyarrow.Table` with the column `SHARD`.
        """
        pa = import_pyarrow()
        outcomes = [pickle.dumps(self._encode(shard)) for shard in batch[SHARD].to_pylist()]
        return pa.table({OUTCOME: pa.array(outcomes, pa.large_binary())})

    def _encode(self, shard: int) -> Outcome:
        where = f"on the machine {socket.gethostname()!r}"
        try:
            if self._pool is None:
                check_machine(self._work, self._expected)
                self._pool = self._make_pool(self._work)
            for done in self._pool.encode([shard]):
                return "done", done
        except PyramidTokenizerError as error:
            return "error", type(error)(f"{error} ({where})")
        return "failed", (shard, f"{self._pool.failed[shard]} {where}")


def _ignore(images: int) -> None:
    """The caller counts the images of whole shards."""
