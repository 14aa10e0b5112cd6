"""Devices: which can be used here, which have float64, and float32 products that are exact on all of them."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from pyramid_tokenizer.errors import ConfigError

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""The precisions that models can have."""


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
    name = repr(str(device))
    try:
        wanted = torch.device(device)
        if wanted.type == "cpu":
            return
        torch.empty(0, device=wanted)
    # torch has RuntimeError, AssertionError, NotImplementedError and errors of each kind of device
    except Exception as error:
        reason = (str(error).split(". ")[0].splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ConfigError(
            f"expected a device of this machine, got {name} ({reason}): use {usable_devices()}"
        ) from error
    if wanted.type == "meta":
        raise ConfigError(
            f'expected a device that computes, got {name}, which holds shapes without numbers: use "cpu" or a GPU'
        )


def usable_devices() -> str:
    """The names of the devices that torch can use here, for messages: "cpu" and the GPUs that there are."""
    gpus = [f'"cuda:{index}"' for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return " or ".join(['"cpu"', *gpus, *(['"mps"'] if torch.backends.mps.is_available() else [])])


_UNITS = {torch.bfloat16: ("avx512_bf16", "amx_bf16"), torch.float16: ("avx512_fp16", "amx_fp16")}


def warn_of_slow_dtype(device: str | int | torch.device, dtype: torch.dtype, *, stacklevel: int = 2) -> None:
    """Warns of a half precision on an x86 CPU that has no units for it; `benchmarks/precision.py` measures what it costs.

    Args:
        device: Where a model is to run.
        dtype: The precision that it is to have.
        stacklevel: What `warnings.warn` would get in the place of this call.
    """
    units, found = _UNITS.get(dtype, ()), _cpu_capabilities()
    if torch.device(device).type != "cpu" or found.get("architecture") != "x86_64":
        return
    if units and not any(found.get(unit) for unit in units):
        name = str(dtype).removeprefix("torch.")
        warnings.warn(
            f"this CPU has no units for {name} ({' or '.join(units)}), so that it is slower than float32 and gives other "
            "ids: use float32",
            stacklevel=stacklevel + 1,
        )


def _cpu_capabilities() -> dict[str, Any]:
    """What torch knows of the CPU; {} for a torch that does not tell."""
    return getattr(torch.cpu, "get_capabilities", dict)()


@contextmanager
def exact_float32() -> Iterator[None]:
    """Float32 products and convolutions in full precision while this is open, whatever the caller allowed.

    GPUs may round the inputs of float32 products to TF32 (convolutions do so unless they are told not to), and some CPUs to
    bfloat16 (`torch.set_float32_matmul_precision`). Rounded features fall on other codes, so ids are decided inside this. The
    settings are the process's own: they come back when the last thread that is inside leaves.

    Example:
        >>> before = _read_settings()
        >>> with exact_float32():
        ...     print(set(_read_settings().values()) == {_EXACT_VALUE})
        True
        >>> _read_settings() == before
        True
    """
    if torch.compiler.is_compiling():  # a graph cannot change settings: it keeps those it is run with
        yield
        return
    _EXACT.enter()
    try:
        yield
    finally:
        _EXACT.leave()


class _Exact:
    """Counts who is inside `exact_float32`; the first one in saves the settings, and the last one out restores them."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._saved: dict[str, Any] = {}

    def enter(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._saved = _read_settings()
                _write_settings(dict.fromkeys(self._saved, _EXACT_VALUE))

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                _write_settings(self._saved)


_EXACT = _Exact()
# Since torch 2.9 every kind of product has a setting of its own; before, two switches of CUDA are what can be read and restored.
_BY_KIND = hasattr(torch.backends.cuda.matmul, "fp32_precision")
_EXACT_VALUE: Any = "ieee" if _BY_KIND else False


def _settings() -> dict[str, tuple[Any, str]]:
    """By name, the object and the attribute that hold a setting."""
    backends: Any = torch.backends
    if not _BY_KIND:
        return {"matmul": (backends.cuda.matmul, "allow_tf32"), "conv": (backends.cudnn, "allow_tf32")}
    kinds = {
        "cuda matmul": backends.cuda.matmul,
        "cudnn conv": backends.cudnn.conv,
        "cpu matmul": backends.mkldnn.matmul,
        "cpu conv": backends.mkldnn.conv,
    }
    return {name: (kind, "fp32_precision") for name, kind in kinds.items()}


def _read_settings() -> dict[str, Any]:
    return {name: getattr(kind, attribute) for name, (kind, attribute) in _settings().items()}


def _write_settings(values: dict[str, Any]) -> None:
    for name, (kind, attribute) in _settings().items():
        setattr(kind, attribute, values[name])


@functools.cache
def has_float64(device: torch.device) -> bool:
    """Whether a device has float64 numbers; Apple's GPUs ("mps") do not."""
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return False
    return True


def where_float64(x: Tensor) -> Tensor:
    """`x`, or its copy on the CPU where its own device has no float64 numbers."""
    return x if has_float64(x.device) else x.cpu()


class CheckedDevices(nn.Module):
    """A module that refuses devices by `check_device`, and then stays as it was."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As `torch.nn.Module.to`; ConfigError for a device that cannot be used here, and for what is none of its arguments."""
        given = kwargs.get("device", args[0] if args else None)
        if isinstance(given, (str, int, torch.device)):
            check_device(given)
        elif isinstance(given, torch.Tensor):
            check_device(given.device)
        for dtype in (x.dtype if isinstance(x, torch.Tensor) else x for x in (*args, *kwargs.values())):
            if isinstance(dtype, torch.dtype) and dtype not in DTYPES:
                names = ", ".join(map(str, DTYPES))
                raise ConfigError(f"expected a dtype among {names}, got {dtype}: name one of them")
        try:
            return super().to(*args, **kwargs)
        except TypeError as error:
            got = ", ".join(repr(x) if isinstance(x, str) else type(x).__name__ for x in (*args, *kwargs.values()))
            raise ConfigError(
                f'expected a device or a dtype, got {got}: write e.g. .to("cpu", torch.float32)'
            ) from error

    def cuda(self, device: int | torch.device | None = None) -> Self:
        """As `torch.nn.Module.cuda`; ConfigError where there is no such GPU."""
        check_device("cuda" if device is None else torch.device("cuda", device) if isinstance(device, int) else device)
        return super().cuda(device)
