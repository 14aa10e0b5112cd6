"""The engine `local`: processes of this machine, started anew where one dies or hangs.

Processes are spawned, not forked: a fork copies locks that other threads hold, and then waits for them for ever.
"""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from pyramid_tokenizer.datasets.engines.contract import ATTEMPTS, Advance, failed_shards
from pyramid_tokenizer.datasets.engines.worker import DONE, FAILED, READY, TOLD, serve
from pyramid_tokenizer.datasets.shards import Shard, Work
from pyramid_tokenizer.errors import DatasetError, PyramidTokenizerError

PATIENCE_SECONDS = 600.0
"""A process that neither reads nor encodes an image for this long hangs, and is ended."""
_LOGGER = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Worker:
    """A process, and what is known of it."""

    process: BaseProcess
    connection: Connection
    device: str
    ready: bool = False
    shard: int | None = None
    reading: set[int] = field(default_factory=set)
    encoding: set[int] = field(default_factory=set)
    heard: float = field(default_factory=time.monotonic)


class LocalEngine:
    """Encodes in as many processes as there are devices; an `engines.contract.Engine`.

    Args:
        devices: The device of each process, e.g. ("cpu", "cpu").
        readers: Threads of each process that read images ahead.
        patience_seconds: A process that neither reads nor encodes an image for this long is ended.
    """

    def __init__(self, *, devices: Sequence[str], readers: int, patience_seconds: float = PATIENCE_SECONDS):
        self._devices, self._readers, self._patience = devices, readers, patience_seconds

    def encode(self, work: Work, shards: Sequence[int], *, advance: Advance) -> Iterator[Shard]:
        """Each of these shards, in the order in which they are finished."""
        pool = ProcessPool(
            work, self._devices[: len(shards)], readers=self._readers, patience_seconds=self._patience, advance=advance
        )
        with closing(pool):
            yield from pool.encode(shards)
            if pool.failed:
                raise failed_shards(work.plan, pool.failed)


class ProcessPool:
    """Processes that encode shards.

    A shard whose process dies, hangs or fails for a reason of the machine is begun again, up to `ATTEMPTS` times.

    Args:
        work: Source and plan.
        devices: The device of each process.
        readers: Threads of each process that read images ahead.
        patience_seconds: A process that neither reads nor encodes an image for this long is ended.
        advance: Told how many images are done.
    """

    def __init__(self, work: Work, devices: Sequence[str], *, readers: int, patience_seconds: float, advance: Advance):
        self.failed: dict[int, str] = {}
        """Shards that cannot be encoded, and what happened at the last attempt."""
        self._work, self._pickled = work, pickle.dumps(work)
        self._waiting: deque[int] = deque()
        self._readers, self._advance, self._patience = readers, advance, patience_seconds
        self._deaths: Counter[int] = Counter()
        self._done_of: Counter[int] = Counter()  # images of the shards in work
        self._failed_in_a_row = self._early_deaths = 0
        self._workers = [self._start(device) for device in devices]
        self._unused: list[str] = []  # devices of processes that ended when no shard was waiting

    def encode(self, shards: Iterable[int]) -> Iterator[Shard]:
        """Each of these shards that can be encoded; `failed` has the others. May be called again for more of them.

        Args:
            shards: Numbers of the shards.

        Raises:
            DatasetError: Processes do not start, or one shard after the other fails.
            PyramidTokenizerError: A worker's own.
        """
        self._waiting.extend(shards)
        self._workers += [self._start(self._unused.pop()) for _ in self._waiting if self._unused]
        for worker in self._workers:
            if worker.ready and worker.shard is None:
                self._give(worker)
        while self._waiting or any(worker.shard is not None for worker in self._workers):
            by_pipe = {worker.connection: worker for worker in self._workers}
            # the pipe of a dead process is readable too, and then tells its end
            for pipe in wait(list(by_pipe), timeout=min(1.0, self._patience / 4)):
                yield from self._hear(by_pipe[pipe])  # type: ignore[index]
            for worker in list(self._workers):
                idle = worker.ready and worker.shard is None
                if not idle and time.monotonic() - worker.heard > self._patience:
                    worker.process.kill()
                    self._lose(worker, f"did nothing for {self._patience:g} s and was ended")

    def close(self) -> None:
        """Ends all processes at once."""
        for worker in self._workers:
            worker.connection.close()
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.process.close()
        self._workers = []

    def _start(self, device: str) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (theirs, self._pickled, device, self._readers)
        process = context.Process(target=serve, args=arguments, name="pyramid-tokenizer worker", daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours, device)

    def _hear(self, worker: _Worker) -> Iterator[Shard]:
        try:
            kind, *values = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join()
            self._lose(worker, _how_it_ended(worker.process.exitcode))
            return
        worker.heard = time.monotonic()
        if kind == TOLD:
            self._note(worker, *values)
        elif kind == READY:
            self._check(*values)
            worker.ready = True
            self._give(worker)
        elif kind == DONE:
            (shard,) = values
            self._failed_in_a_row = 0
            worker.shard = None
            self._done_of.pop(shard.record.shard, None)
            self._advance(len(shard.record.errors))
            self._give(worker)
            yield shard
        elif kind == FAILED:
            self._fail(worker, *values)

    def _note(self, worker: _Worker, stage: str, numbers: list[int]) -> None:
        changed = worker.reading if stage in ("reading", "read") else worker.encoding
        (changed.update if stage in ("reading", "encoding") else changed.difference_update)(numbers)
        if stage == "encoded" and worker.shard is not None:
            self._done_of[worker.shard] += len(numbers)
            self._advance(len(numbers))

    def _give(self, worker: _Worker) -> None:
        """Gives an idle process its next shard."""
        if not self._waiting:
            return
        worker.shard, worker.heard = self._waiting.popleft(), time.monotonic()
        with suppress(OSError):  # it has died: its pipe says so at the next turn
            worker.connection.send(worker.shard)

    def _check(self, fingerprint: str, precision: str) -> None:
        plan = self._work.plan
        if (fingerprint, precision) != (plan.fingerprint, plan.precision):
            raise DatasetError(
                f"expected the tokenizer {plan.fingerprint[:12]} in {plan.precision} in every process, got {fingerprint[:12]} in "
                f"{precision}: the model was changed while the run began; repeat the call"
            )

    def _fail(self, worker: _Worker, error: Exception, trace: str) -> None:
        if isinstance(error, PyramidTokenizerError):
            raise error  # the same for every attempt
        _LOGGER.warning("a worker failed: %s", trace)
        self._lose(worker, f"failed with {type(error).__name__}: {error}")

    def _lose(self, worker: _Worker, how: str) -> None:
        """Replaces a process that is gone, and puts its shard back."""
        self._workers.remove(worker)
        worker.connection.close()
        worker.process.kill()
        worker.process.join()
        shard = worker.shard
        if shard is None:
            self._lose_early(how)
        else:
            self._advance(-self._done_of.pop(shard, 0))
            self._deaths[shard] += 1
            _LOGGER.warning("shard %d is begun again: its process %s", shard, how)
            if self._deaths[shard] >= ATTEMPTS:
                self.failed[shard] = f"its process {how} {self._in_hand(worker)}"
                self._failed_in_a_row += 1
                if self._failed_in_a_row > max(ATTEMPTS, len(self._workers)):
                    raise failed_shards(self._work.plan, self.failed)  # every shard meets the same
            else:
                self._waiting.appendleft(shard)
        if self._waiting or shard is None:
            self._workers.append(self._start(worker.device))
        else:
            self._unused.append(worker.device)

    def _lose_early(self, how: str) -> None:
        self._early_deaths += 1
        if self._early_deaths >= ATTEMPTS:
            raise DatasetError(
                f"expected worker processes that start, got one that {how} before it had a shard: a script must call tokenize "
                'below `if __name__ == "__main__":`, a machine must have memory for a model in each process (fewer workers), and '
                "workers=0 encodes in the calling process, which shows what is wrong"
            )

    def _in_hand(self, worker: _Worker) -> str:
        parts = []
        for numbers, what in ((worker.encoding, "encoded"), (worker.reading, "read")):
            if numbers:
                parts.append(
                    f"while it {what} {', '.join(repr(self._work.keys[number]) for number in sorted(numbers))}"
                )
        return " or ".join(parts) or "between two images"


def _how_it_ended(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"was killed by signal {-exit_code}"
    return f"ended with exit code {exit_code}"
