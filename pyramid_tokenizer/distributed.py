"""Where this process stands among its peers, and sums across them; every call is a plain no-op in a single process.

For code below the training floor, such as codebook statistics summed over processes: it cannot ask accelerate, which
only `training` may import.
"""

from __future__ import annotations

from typing import Literal

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


def all_reduce(values: Tensor, *, op: Literal["sum", "mean"] = "sum") -> Tensor:
    """The sum or the mean of every process's tensor, the same in all of them.

    Every process must call it, with the same shape and dtype. No gradient flows through it.

    Args:
        values: Any shape; floating point for the mean. Left as it is.
        op: "sum", or "mean" over processes.

    Returns:
        A new tensor like `values`.

    Example:
        >>> import torch
        >>> all_reduce(torch.tensor([1.0, 2.0]), op="mean")
        tensor([1., 2.])
    """
    total = values.detach().clone()
    if is_active():
        dist.all_reduce(total, op=dist.ReduceOp.SUM)
    return total / world_size() if op == "mean" else total
