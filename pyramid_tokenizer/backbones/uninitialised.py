"""Models that are built only to be loaded: no weights are drawn, since the file's replace them, nor more than it can hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pyramid_tokenizer.errors import CheckpointError

_DRAWS: frozenset[Any] = frozenset(
    {Tensor.normal_, Tensor.uniform_, Tensor.erfinv_}
    | {nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_, nn.init.orthogonal_}
    | {nn.init.kaiming_normal_, nn.init.kaiming_uniform_, nn.init.xavier_normal_, nn.init.xavier_uniform_}
)
_MAKES: frozenset[Any] = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn})
"""What makes the tensors of layers: with them, the 134 models of open_clip make 1.00 to 1.01 numbers for each parameter."""


class Uninitialised(TorchFunctionMode):
    """While it is open, random numbers that would fill a tensor are not drawn, in this thread; the tensor stays as it is.

    Parameters then hold whatever was in their memory: every one of them must be loaded, which strict loading makes sure of. What
    modules compute without random numbers, such as masks and tables of positions, is as ever. The state of torch's random
    generators does not change.

    Args:
        most_numbers: How many numbers the layers may have in all; None for any. The tensor that would have more is not made, and
            CheckpointError is raised in its place: a model that its file cannot fill would cost memory and minutes first.

    Example:
        >>> import torch
        >>> state = torch.get_rng_state()
        >>> with Uninitialised():
        ...     layer = nn.Linear(4, 3)
        >>> layer.weight.shape, torch.equal(torch.get_rng_state(), state)
        (torch.Size([3, 4]), True)
    """

    def __init__(self, most_numbers: int | None = None):
        super().__init__()
        self._most = self._left = most_numbers

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls `func`, or gives the tensor back that it would fill."""
        kwargs = kwargs or {}
        if func in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        if self._left is not None and func in _MAKES:
            self._left -= func(*args, **{**kwargs, "device": "meta"}).numel()
            if self._left < 0:
                raise CheckpointError(
                    f"expected layers of at most {self._most} numbers by the size of the weights, got a description of more: the "
                    "two do not belong together or one was altered"
                )
        return func(*args, **kwargs)
