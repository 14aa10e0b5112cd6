"""What `tokenize` and an engine owe each other, whichever engine it is.

An engine takes a `datasets.shards.Work` and numbers of shards, and hands over each finished shard, in any order, once. It
never writes: the one process that holds the dataset's lock does, so that no process that outlives its run can disturb the
next one, and so that a run goes on from the same records whichever engine begins and ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeAlias

from pyramid_tokenizer.datasets.manifest import Plan
from pyramid_tokenizer.datasets.shards import Shard, Work
from pyramid_tokenizer.errors import DatasetError

ATTEMPTS = 3
"""A shard is begun at most this often; then it counts as one that cannot be encoded."""
Advance: TypeAlias = Callable[[int], None]
"""Called with the number of images that are done since the last call; negative where a shard is begun again."""


class Engine(Protocol):
    """Encodes shards of a dataset."""

    def encode(self, work: Work, shards: Sequence[int], *, advance: Advance) -> Iterator[Shard]:
        """Each of these shards once, in any order, when it is finished.

        Whatever the engine started ends with the iterator, also where that is closed early. A shard that cannot be encoded is
        told by an error after all others are finished, so that as much as possible is there when the call is repeated.

        Args:
            work: Source and plan.
            shards: Numbers of the shards, at least one.
            advance: Told how many images are done.

        Raises:
            DatasetError: A shard cannot be encoded, or the engine cannot work.
            PyramidTokenizerError: One that every attempt meets, such as DataError for a column that cannot be read.
        """
        ...


def failed_shards(plan: Plan, failed: Mapping[int, str]) -> DatasetError:
    """The error for shards that cannot be encoded.

    Args:
        plan: The dataset's plan.
        failed: Number of a shard -> what happened at the last attempt; at least one.
    """
    shard, reason = min(failed.items())
    rows = plan.rows_of(shard)
    others = f"; {len(failed) - 1} other shards failed too" if len(failed) > 1 else ""
    return DatasetError(
        f"expected shard {shard} (images {rows.start} to {rows.stop - 1} of the source), got {ATTEMPTS} failures, the last: "
        f"{reason}. All shards that are whole stay. If an image is to blame, take it out of the source and repeat the call "
        f'with on_change="go_on" (--go-on-if-changed); if memory is short, take fewer workers{others}'
    )
