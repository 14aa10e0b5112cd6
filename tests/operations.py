"""Counts what torch computes, to tell whether something copies tensors or waits for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from torch.utils._python_dispatch import TorchDispatchMode

WAITS = "_local_scalar_dense"
"""The operation by which Python takes a number out of a tensor; on a GPU it waits for the device."""


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def operations() -> Iterator[Counter[str]]:
    """Counts torch's operations by name within the block."""
    with _Operations() as mode:
        yield mode.counts
