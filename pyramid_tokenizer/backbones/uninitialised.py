"""Models that are built only to be loaded: their weights are not drawn first, since the file's replace them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAWS: frozenset[Any] = frozenset(
    {Tensor.normal_, Tensor.uniform_, Tensor.erfinv_}
    | {nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_, nn.init.orthogonal_}
    | {nn.init.kaiming_normal_, nn.init.kaiming_uniform_, nn.init.xavier_normal_, nn.init.xavier_uniform_}
)


class Uninitialised(TorchFunctionMode):
    """While it is open, random numbers that would fill a tensor are not drawn, in this thread; the tensor stays as it is.

    Parameters then hold whatever was in their memory: every one of them must be loaded, which strict loading makes sure of. What
    modules compute without random numbers, such as masks and tables of positions, is as ever. The state of torch's random
    generators does not change.

    Example:
        >>> import torch
        >>> state = torch.get_rng_state()
        >>> with Uninitialised():
        ...     layer = nn.Linear(4, 3)
        >>> layer.weight.shape, torch.equal(torch.get_rng_state(), state)
        (torch.Size([3, 4]), True)
    """

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
        return func(*args, **kwargs)
