"""The processes of a distributed training: which one this is, and what they tell each other.

In a single process every function returns at once. It asks torch.distributed and not accelerate, so that code without an
Accelerator can use it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


def is_active() -> bool:
    """True where torch.distributed is available and a process group was started."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, from 0 to world_size() - 1; 0 in a single process."""
    return dist.get_rank() if is_active() else 0


def world_size() -> int:
    """Number of processes that train together; 1 in a single process."""
    return dist.get_world_size() if is_active() else 1


def is_main() -> bool:
    """True in the main process, the only one that prints and writes files."""
    return rank() == 0


def any_true(flag: bool, *, device: torch.device) -> bool:
    """Whether the flag is set in any process. Every process must call it, and all get the same answer.

    Args:
        flag: The flag of this process.
        device: A device that the process group can send tensors from.

    Example:
        >>> any_true(False, device=torch.device("cpu"))
        False
    """
    if not is_active():
        return flag
    count = torch.tensor(float(flag), device=device)
    dist.all_reduce(count)
    return bool(count > 0)


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Copies the main process's values into the tensors of all others. Every process must call it with the same shapes.

    Args:
        tensors: Tensors on a device that the process group can send from; they are changed in place.
    """
    if is_active():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)
