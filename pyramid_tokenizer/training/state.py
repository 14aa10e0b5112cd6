"""What a run resumes from: one file, written beside and renamed, read without unpickling code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from pyramid_tokenizer.errors import CheckpointError


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors, numbers and strings; the previous file stays whole until the new one is."""
    part = path.with_name(path.name + ".part")
    try:
        torch.save(state, part)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise CheckpointError(
            f"expected to write {path}, got {error}: free some space; the last state is intact"
        ) from error


def load_state(path: Path) -> dict[str, Any] | None:
    """What `save_state` wrote, on the CPU; None where there is no file.

    Raises:
        CheckpointError: The file is damaged.
    """
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different class for every kind of damage
        raise CheckpointError(
            f"expected a training state in {path}, got a damaged file ({error}): delete it to start anew"
        ) from error
