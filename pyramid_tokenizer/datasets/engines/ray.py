"""The engine `ray`: actors on all machines of a Ray cluster, fed by Ray Data.

Each row of the Ray Data set is the number of a shard, and what comes back is the shard's bytes. So the images that are encoded
together are those of the plan, whichever blocks Ray makes and in whatever order it works: batches that Ray cut out of a stream
of images would depend on both.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from pyramid_tokenizer.datasets.engines.contract import Advance, failed_shards
from pyramid_tokenizer.datasets.engines.local import PATIENCE_SECONDS
from pyramid_tokenizer.datasets.engines.probe import probe
from pyramid_tokenizer.datasets.engines.ray_actor import OUTCOME, SHARD, EncodeShards, Outcome
from pyramid_tokenizer.datasets.shards import Shard, Work
from pyramid_tokenizer.errors import DatasetError, MissingExtraError

_REPORTS = "RAY_USAGE_STATS_ENABLED"
_LOGGER = logging.getLogger(__name__)


class RayEngine:
    """Encodes in actors of a Ray cluster; an `engines.contract.Engine`.

    Args:
        actors: Number of actors; None takes one per CPU, or per GPU, that the cluster has at the start.
        on_gpu: Whether each actor takes a GPU.
        readers: Threads of each actor that read images ahead.
        patience_seconds: An actor ends its process, and starts a new one, if that neither reads nor encodes an image for this
            long.
    """

    def __init__(
        self,
        *,
        actors: int | None = None,
        on_gpu: bool = False,
        readers: int = 1,
        patience_seconds: float = PATIENCE_SECONDS,
    ):
        self._actors, self._on_gpu, self._readers, self._patience = actors, on_gpu, readers, patience_seconds

    @property
    def resources(self) -> dict[str, float]:
        """What Ray reserves for each actor."""
        return {"num_cpus": 1, "num_gpus": 1 if self._on_gpu else 0}

    def encode(self, work: Work, shards: Sequence[int], *, advance: Advance) -> Iterator[Shard]:
        """Each of these shards, in the order in which they are finished; Ray is left as it was found."""
        ray = import_ray()
        failed: dict[int, str] = {}
        left = set(shards)
        with _connected(ray), _quiet(ray), _errors_told(ray), closing(self._outcomes(ray, work, shards)) as outcomes:
            for outcome in outcomes:
                if outcome[0] == "error":
                    raise outcome[1]
                if outcome[0] == "failed":
                    shard, failed[shard] = outcome[1]
                    left.discard(shard)
                else:
                    left.discard(outcome[1].record.shard)
                    advance(len(work.plan.rows_of(outcome[1].record.shard)))
                    yield outcome[1]
        if failed:
            raise failed_shards(work.plan, failed)
        if left:
            raise DatasetError(
                f"expected {len(shards)} shards of Ray, got none for {len(left)} of them, the first {min(left)}: repeat the call"
            )

    def _outcomes(self, ray: Any, work: Work, shards: Sequence[int]) -> Generator[Outcome]:
        device = "cuda" if self._on_gpu else "cpu"
        pool = ray.data.ActorPoolStrategy(
            size=min(len(shards), self._actors or self._slots(ray)),
            max_tasks_in_flight_per_actor=1,  # no actor keeps a shard waiting while another one is idle
        )
        shared = ray.put(pickle.dumps(work))  # once on each machine, however many actors it has
        outcomes = ray.data.from_items(
            [{SHARD: shard} for shard in shards], override_num_blocks=len(shards)
        ).map_batches(
            EncodeShards,
            batch_size=1,
            batch_format="pyarrow",
            compute=pool,
            fn_constructor_args=(shared, probe(work), device, self._readers, self._patience),
            **self.resources,
        )
        with closing(iter(outcomes.iter_batches(batch_size=None, batch_format="pyarrow"))) as tables:
            for table in tables:
                for outcome in table[OUTCOME]:
                    yield pickle.loads(outcome.as_py())

    def _slots(self, ray: Any) -> int:
        """How many actors the cluster has room for."""
        kind = "GPU" if self._on_gpu else "CPU"
        found = int(ray.cluster_resources().get(kind, 0))
        if not found:
            raise DatasetError(
                f"expected a Ray cluster with a {kind}, got one without: run `ray start` on machines that have one"
            )
        return found


def import_ray() -> Any:
    """The module `ray`, with `ray.data`; MissingExtraError where it is not installed."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError(
            'expected Ray for engine="ray", got none: pip install "pyramid-tokenizer[ray]"'
        ) from error
    return ray


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    """While it is entered, this process is connected to a Ray cluster: the caller's, one that runs, or one of its own.

    Raises:
        DatasetError: The cluster that $RAY_ADDRESS names does not answer.
    """
    if ray.is_initialized():
        yield
        return
    try:
        if not _join(ray):
            _LOGGER.warning("Ray is started on this machine alone: no cluster runs here, and RAY_ADDRESS names none")
            _start(ray)
        yield
    finally:
        ray.shutdown()


def _join(ray: Any) -> bool:
    """Connects to the cluster that $RAY_ADDRESS names, or else to the one of this machine; False where there is none."""
    address = os.environ.get("RAY_ADDRESS", "auto")
    if address == "local":
        return False
    try:
        ray.init(address=address, logging_level=logging.WARNING)
    except ConnectionError as error:
        if address != "auto":
            raise DatasetError(
                f"expected a Ray cluster at RAY_ADDRESS, {address!r}, got {error}: start one, or unset the variable"
            ) from error
        return False
    return True


def _start(ray: Any) -> None:
    """Starts Ray on this machine, without the reports to its makers that are its default."""
    reports = os.environ.get(_REPORTS)
    os.environ[_REPORTS] = "0"
    try:
        ray.init(address="local", include_dashboard=False, logging_level=logging.WARNING)
    finally:
        if reports is None:
            del os.environ[_REPORTS]
        else:
            os.environ[_REPORTS] = reports


@contextmanager
def _errors_told(ray: Any) -> Iterator[None]:
    """Turns Ray's own errors into a DatasetError that says how to go on."""
    try:
        yield
    except ray.exceptions.RayError as error:
        raise DatasetError(
            f"expected Ray to encode all shards, got {type(error).__name__}: {error}. All shards that are whole stay; see to the "
            "cluster (`ray status`) and repeat the call"
        ) from error


@contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """While it is entered, Ray Data draws no bars of its own and logs warnings alone."""
    context = ray.data.DataContext.get_current()
    levels = {
        "ray.data": logging.WARNING,
        "ray.data._internal.progress": logging.ERROR,
    }  # it warns that there are no bars
    loggers = {logging.getLogger(name): level for name, level in levels.items()}
    before = context.enable_progress_bars, {logger: logger.level for logger in loggers}
    try:
        context.enable_progress_bars = False
        for logger, level in loggers.items():
            logger.setLevel(level)
        yield
    finally:
        context.enable_progress_bars = before[0]
        for logger, level in before[1].items():
            logger.setLevel(level)
