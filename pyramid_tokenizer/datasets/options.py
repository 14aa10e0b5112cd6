"""`TokenizeOptions`: how a dataset is made."""

from __future__ import annotations

import numbers
import os
from dataclasses import dataclass, field
from typing import Any, Literal

from pyramid_tokenizer.checks.arguments import check_kind, check_whole, shown
from pyramid_tokenizer.checks.devices import check_device
from pyramid_tokenizer.config import BUDGET_LIMITS, Budget
from pyramid_tokenizer.errors import ConfigError

OnChange = Literal["refuse", "go_on"]
EngineName = Literal["local", "ray"]
SHARD_IMAGES = 1024
"""Images per shard: what a kill can lose, and large enough that the 16 kB of a dictionary of 4,096 ids do not count."""
_MOST_READERS, _RAY_READERS = 8, 4


@dataclass(frozen=True, slots=True)
class TokenizeOptions:
    """How a dataset is made, beside its source, model and columns. All but the last six decide the bytes of shards.

    Raises:
        ConfigError: A value is out of its range.
    """

    budget: Budget = field(default_factory=Budget)
    """How many tokens an image gets: by one of the limits of `config.Budget`, which `tokenize` takes by their own names
    (max_tokens=400), or as many as its levels have cells."""
    levels: int | None = None
    """How many levels, coarse to fine. None: all but the detail levels, and with a limit all of them."""
    size: int | None = None
    """Resize short sides to this many pixels; None keeps the native size."""
    window_px: int | None = None
    """Read larger images in overlapping windows of this side, as `encode` explains it; tokens are then others."""
    jpeg_draft: bool = False
    """Decode large JPEG files at a fraction of their size (`images.draft`): faster, and slightly other pixels."""
    batch_size: int | None = None
    """Images of one size that are encoded together. Ids depend on it by rounding in the backbone (of 268,800 ids at most 1),
    so it is recorded, and the last batch of a size is filled up. None: 1 on a CPU, where more is hardly faster, 8 on a GPU; a
    run that goes on keeps its own."""
    shard_images: int = SHARD_IMAGES
    """Images of the source per shard."""
    column: str | None = None
    """The column that holds the images, where the source has several."""
    workers: int | None = None
    """Processes that encode, each with one thread for products: 0 encodes in the calling process. None: one per core, or per
    GPU; with Ray, of the whole cluster."""
    device: str = "cpu"
    """"cpu", or GPUs: "cuda", "cuda:0,1". Processes take them in turn. With Ray "cpu" or "cuda": each actor then has a GPU, and
    Ray decides which."""
    engine: EngineName = "local"
    """Who encodes: "local", processes of this machine; "ray", actors on the machines of a Ray cluster (docs/clusters.md)."""
    on_change: OnChange = "refuse"
    """What happens if the source has lost or gained images since the dataset was begun: "refuse" raises DatasetError and says
    which; "go_on" keeps to the images of the plan: new ones are left out, and those that are gone are listed in
    errors.jsonl."""
    patience_seconds: float = 600.0
    """A process that neither reads nor encodes an image for this long is ended, and its shard begun again."""
    readers: int | None = None
    """Threads of each process that read images ahead. None: 1, or with GPUs as many as there are cores for; with Ray 4 each."""

    def __post_init__(self) -> None:
        check_whole(shard_images=self.shard_images)
        for name in ("levels", "size", "window_px", "batch_size", "readers"):
            if getattr(self, name) is not None:
                check_whole(**{name: getattr(self, name)})
        if self.workers is not None:
            check_whole(0, workers=self.workers)
        if self.on_change not in ("refuse", "go_on"):
            raise ConfigError(
                f'expected on_change "refuse" or "go_on", got {shown(self.on_change)}: name one of the two'
            )
        if self.engine not in ("local", "ray"):
            raise ConfigError(f'expected engine "local" or "ray", got {shown(self.engine)}: name one of the two')
        check_kind(self.device, str, name="device", fix='write e.g. "cpu" or "cuda:0,1"')
        if self.engine == "ray":
            self._check_ray()
        if self.jpeg_draft and self.size is None:
            raise ConfigError(
                "expected a size with jpeg_draft, got none: only images that are resized are decoded in part"
            )
        if not isinstance(self.patience_seconds, numbers.Real) or not self.patience_seconds > 0:
            raise ConfigError(f"expected patience_seconds above 0, got {shown(self.patience_seconds)}: correct it")

    @classmethod
    def of(cls, **options: Any) -> TokenizeOptions:
        """Options by the names that `tokenize` takes: a limit stands beside the others.

        Args:
            options: Fields of this class and of `config.Budget`.

        Raises:
            ConfigError: A value is out of its range, or there are several limits.

        Example:
            >>> TokenizeOptions.of(size=256, quality=0.5).budget.quality
            0.5
        """
        limits = {name: options.pop(name) for name in BUDGET_LIMITS if name in options}
        if limits:
            options["budget"] = Budget(**limits)
        return cls(**options)

    def _check_ray(self) -> None:
        if self.workers == 0:
            raise ConfigError(
                'expected workers of 1 or more with engine="ray", got 0, which encodes in the calling process: use engine="local"'
            )
        if self.device not in ("cpu", "cuda"):
            raise ConfigError(
                f'expected device "cpu" or "cuda" with engine="ray", got {shown(self.device)}: Ray gives each actor a GPU of its '
                "own; leave out the numbers"
            )

    @property
    def on_gpu(self) -> bool:
        """Whether `device` names GPUs."""
        return self.device.partition(":")[0] != "cpu"

    def devices(self) -> tuple[str, ...]:
        """The device of each process of this machine; of the calling one where there are none."""
        kind, _, numbers = self.device.partition(":")
        named = [f"{kind}:{number.strip()}" for number in numbers.split(",")] if numbers else [kind]
        for device in named:
            check_device(device)
        usual = len(named) if self.on_gpu else cores()
        workers = usual if self.workers is None else self.workers
        return tuple(named[number % len(named)] for number in range(max(1, workers)))

    def threads(self) -> int:
        """`readers`, or how many there are by default."""
        if self.readers is not None:
            return self.readers
        if not self.on_gpu:
            return 1
        # nothing is known here of the cluster's machines
        return _RAY_READERS if self.engine == "ray" else max(1, min(_MOST_READERS, cores() // len(self.devices())))


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
