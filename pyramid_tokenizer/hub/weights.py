"""Tensors as safetensors files, read and written strictly: exactly the names, shapes and kinds expected."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from pyramid_tokenizer.errors import CheckpointError
from pyramid_tokenizer.files import write_bytes

_NAMES_SHOWN = 5


def read_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which must be exactly those expected.

    Args:
        path: The file.
        expected: Name -> a tensor of the wanted shape and dtype (its values are not read), e.g. a `state_dict()`.

    Returns:
        Name -> tensor on the CPU, in the order and the dtypes of `expected`. The file may hold another dtype of the same
        kind: half-precision weights come back as float32 where float32 is expected.

    Raises:
        CheckpointError: A missing or unreadable file; a missing or extra name; a wrong shape or kind of dtype; a value that
            is NaN, infinite, or does not fit the expected dtype.
    """
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"expected a readable safetensors file, got {path}: {error}: restore it or save the model again"
        ) from error
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


def _mismatch(stored: Tensor, expected: Tensor) -> str | None:
    """What is wrong with a stored tensor, or None."""
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


def write_weights(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Writes tensors as a safetensors file; the same tensors and metadata give the same bytes.

    Tensors are copied to the CPU and made contiguous; those that share memory are stored each on its own. A file that was
    there stays whole until the new one is, e.g. when the disk is full.

    Raises:
        OSError: The file cannot be written.
    """
    whole = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    payload = memoryview(to_safetensors(whole, dict(metadata) if metadata else None))
    header_end = 8 + int.from_bytes(payload[:8], "little")
    header = json.loads(bytes(payload[8:header_end]))
    if "__metadata__" in header:  # safetensors writes it in the random order of a Rust HashMap
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data, whose offsets count from the header's end
    # not safetensors' own save_file: it leaves files that only their owner can read
    write_bytes(path, [len(text).to_bytes(8, "little"), text, payload[header_end:]])
