"""Where this process stands among its peers, and what they tell each other; in a single process every call is a no-op.

For code below the training floor too, which cannot ask accelerate: only `training` may import it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


def is_active() -> bool:
    """True when torch.distributed is built in and a process group was started."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 … world_size − 1; 0 in a single process."""
    return dist.get_rank() if is_active() else 0


def world_size() -> int:
    """Processes that work together; 1 in a single process."""
    return dist.get_world_size() if is_active() else 1


def is_main() -> bool:
    """True in the one process that prints and writes files."""
    return rank() == 0


def any_true(flag: bool, *, device: torch.device) -> bool:
    """Whether the flag is set in any process; every process must call it, and all get the same answer.

    Args:
        flag: This process's.
        device: One that the process group can talk through.

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
    """Gives the main process's values to all others, in place; every process must call it, with tensors of the same shapes.

    Args:
        tensors: On a device that the process group can talk through.
    """
    if is_active():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)
