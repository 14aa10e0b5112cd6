"""Devices that can be used here: another one is refused by its name, before anything is moved."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import nn

from pyramid_tokenizer.errors import ConfigError


def check_device(device: str | int | torch.device) -> None:
    """Raises ConfigError for a device that this machine does not have, or that holds no numbers ("meta").

    Args:
        device: As `torch.Tensor.to` takes it.

    Example:
        >>> check_device("cpu")
        >>> try:
        ...     check_device("meta")
        ... except ConfigError as error:
        ...     print(error)
        expected a device that computes, got 'meta', which holds shapes without numbers: use "cpu" or a GPU
    """
    shown = repr(str(device))
    try:
        wanted = torch.device(device)
        if wanted.type == "cpu":
            return
        torch.empty(0, device=wanted)
    # torch has RuntimeError, AssertionError, NotImplementedError and errors of each kind of device
    except Exception as error:
        reason = (str(error).split(". ")[0].splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ConfigError(
            f"expected a device of this machine, got {shown} ({reason}): use {usable_devices()}"
        ) from error
    if wanted.type == "meta":
        raise ConfigError(
            f'expected a device that computes, got {shown}, which holds shapes without numbers: use "cpu" or a GPU'
        )


def usable_devices() -> str:
    """The names of the devices that torch can use here, for messages: "cpu" and the GPUs that there are."""
    gpus = [f'"cuda:{index}"' for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return " or ".join(['"cpu"', *gpus, *(['"mps"'] if torch.backends.mps.is_available() else [])])


class CheckedDevices(nn.Module):
    """A module that refuses devices by `check_device`, and then stays as it was."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As `torch.nn.Module.to`; ConfigError for a device that cannot be used here."""
        given = kwargs.get("device", args[0] if args else None)
        if isinstance(given, (str, int, torch.device)):
            check_device(given)
        return super().to(*args, **kwargs)

    def cuda(self, device: int | torch.device | None = None) -> Self:
        """As `torch.nn.Module.cuda`; ConfigError where there is no such GPU."""
        check_device("cuda" if device is None else torch.device("cuda", device) if isinstance(device, int) else device)
        return super().cuda(device)
