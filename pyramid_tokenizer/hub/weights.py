"""Tensors as safetensors files, read strictly: exactly the names, shapes and kinds of dtype that are expected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from pyramid_tokenizer.errors import CheckpointError
from pyramid_tokenizer.files import refuse_lfs_pointer, write_bytes

_NAMES_SHOWN = 5


def read_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which must hold exactly those that are expected.

    Args:
        path: The file.
        expected: Names, each with a tensor of the wanted shape and dtype whose values are not read, e.g. a `state_dict()`.

    Returns:
        Names and tensors on the CPU, in the order and the dtypes of `expected`. The file may hold another dtype of the same
        kind: half-precision weights come back as float32 where float32 is expected.

    Raises:
        CheckpointError: The file is missing or cannot be read; a name is missing or was not expected; a shape or a kind of
            dtype is wrong; a value is NaN, infinite, or does not fit the expected dtype.
    """
    stored = load_weights(path)
    problems = {
        "missing": [name for name in expected if name not in stored],
        "unexpected": [name for name in stored if name not in expected],
    }
    loaded = {}
    for name in expected.keys() & stored.keys():
        problem = _mismatch(stored[name], expected[name])
        if problem:
            problems.setdefault(problem, []).append(name)
        loaded[name] = stored[name].to(expected[name].dtype)
    found = [f"{problem}: {_first(names)}" for problem, names in problems.items() if names]
    if found:
        raise CheckpointError(
            f"expected the {len(expected)} tensors of this config in {path}, got {'; '.join(found)}: "
            "the file and its config.json do not belong together or one was altered"
        )
    return {name: loaded[name] for name in expected}


def load_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU, whatever they are.

    Raises:
        CheckpointError: The file is missing or cannot be read.
    """
    refuse_lfs_pointer(path, error=CheckpointError)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"expected a readable safetensors file, got {path}: {error}: restore it or save the model again"
        ) from error


def _mismatch(stored: Tensor, expected: Tensor) -> str | None:
    """What is wrong with a stored tensor; None where nothing is."""
    if stored.shape != expected.shape:
        return "wrong shape"
    if _kind(stored) != _kind(expected):
        return "wrong dtype"
    cast = stored.to(expected.dtype)
    if _kind(stored) == "float":
        # checked after the cast: what fits float32 can be infinite in float16
        return None if bool(torch.isfinite(cast).all()) else "NaN or infinite values"
    return None if torch.equal(cast.to(stored.dtype), stored) else "values that do not fit the dtype"


def _kind(tensor: Tensor) -> str:
    if tensor.dtype == torch.bool:
        return "bool"
    if tensor.is_complex():
        return "complex"
    return "float" if tensor.is_floating_point() else "int"


def _first(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = len(ordered) - _NAMES_SHOWN
    return ", ".join(ordered[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors as a safetensors file, whole or not at all; the same tensors give the same bytes.

    Args:
        path: The file's final name; a file that was there stays as it was if the new one cannot be written.
        tensors: Names and tensors on any device. Those that share memory are stored each on its own.

    Raises:
        OSError: The file cannot be written.
    """
    whole = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    # not safetensors' own save_file: it leaves files that only their owner can read
    write_bytes(path, [to_safetensors(whole)])
