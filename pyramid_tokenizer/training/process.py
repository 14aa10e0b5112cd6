"""What a run takes from its process (device, precision, peers, randomness), and how it gives it back as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, is_initialized
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from pyramid_tokenizer.config.training import TrainConfig
from pyramid_tokenizer.errors import ConfigError

LONGEST_FIT = timedelta(hours=6)
"""The other processes wait this long for the main one to fit the codebooks."""


@contextmanager
def accelerated(config: TrainConfig) -> Iterator[Accelerator]:
    """An Accelerator for one run; afterwards the process is as it was.

    Accelerate keeps one state for the whole process, so that without this a second run of another precision would fail. A
    state that the caller's own Accelerator made is used and left alone. Torch's global generators, which a run reseeds at
    every step, get the caller's state back.

    Args:
        config: `mixed_precision` is what matters here.

    Raises:
        ConfigError: The caller has made an Accelerator of another precision.
    """
    callers = is_initialized()
    if callers and AcceleratorState().mixed_precision != config.mixed_precision:
        raise ConfigError(
            f"expected mixed_precision {AcceleratorState().mixed_precision!r}, which this process's own Accelerator has, got "
            f"{config.mixed_precision!r}: train with the same one, or in another process"
        )
    try:
        accelerator = _make_accelerator(config)
        with own_randomness(accelerator.device):
            yield accelerator
    finally:
        if not callers:
            AcceleratorState._reset_state()


def _make_accelerator(config: TrainConfig) -> Accelerator:
    # a prefix of levels leaves the finer ones' parameters without a gradient
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    patience = InitProcessGroupKwargs(timeout=LONGEST_FIT)
    # without a GPU, accelerate takes torchrun's processes for single ones that all write the same files
    several_on_cpu = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available()
    return Accelerator(mixed_precision=config.mixed_precision, cpu=several_on_cpu, kwargs_handlers=[unused, patience])


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """While it is entered, torch's global generators of the CPU and of `device` may be used; then they are as before.

    Example:
        >>> before = torch.random.get_rng_state()
        >>> with own_randomness(torch.device("cpu")):
        ...     reseed(7, torch.device("cpu"))
        ...     number = torch.rand(())
        >>> bool((torch.random.get_rng_state() == before).all())
        True
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def reseed(seed: int, device: torch.device) -> None:
    """Seeds torch's global generators of the CPU and of `device`; those of other devices are not touched.

    Args:
        seed: Any whole number from 0 to 2**63 - 1.
        device: Where the run computes.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
