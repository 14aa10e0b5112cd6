"""The file that a stage resumes from: written whole or not at all, and read without running code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pyramid_tokenizer.errors import CheckpointError
from pyramid_tokenizer.files import replacing


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes a training state, whole or not at all; if that fails, the previous file stays as it was.

    Args:
        path: The file.
        state: Nested dicts and lists of tensors, numbers and strings, which `torch.load` reads without running code.

    Raises:
        CheckpointError: The file cannot be written, e.g. the disk is full.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "state.pt"
        >>> save_state(path, {"step": 3, "weight": torch.ones(2)})
        >>> load_state(path)
        {'step': 3, 'weight': tensor([1., 1.])}
    """
    try:
        with replacing(path) as part:
            torch.save(state, part)
    except (OSError, RuntimeError) as error:  # torch's own writer turns a full disk into a RuntimeError
        raise CheckpointError(
            f"expected to write {path}, got {error}: free some space; the last state is intact"
        ) from error


def load_state(path: Path) -> dict[str, Any] | None:
    """The state that `save_state` wrote, with its tensors on the CPU; None where there is no file.

    Args:
        path: The file.

    Raises:
        CheckpointError: The file is damaged or holds something else.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # torch raises another class for every kind of damage, and advises to run the file's code
        raise CheckpointError(
            f"expected a training state in {path}, got a damaged file ({type(error).__name__}): delete it to start anew"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"expected a training state in {path}, got a {type(state).__name__}: delete it")
    return state
