"""`out/.training`: what a run was started with, and what each of its steps made, so that the same call goes on from there."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from pyramid_tokenizer import hub
from pyramid_tokenizer.config.plain import to_dict
from pyramid_tokenizer.config.training import TrainConfig
from pyramid_tokenizer.errors import CheckpointError
from pyramid_tokenizer.files import write_text
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.training import distributed

STATE_SUFFIX = ".pt"
MACHINE_SETTINGS = ("workers", "log_every", "save_every", "sheet_every", "tensorboard")
"""What a resumed run may change: its results do not depend on it."""


def check_settings(path: Path, tok: PyramidTokenizer, num_images: int, config: TrainConfig) -> None:
    """Writes down what the run was started with; refuses to resume it with anything else.

    Args:
        path: The file.
        tok: As it was given to the run.
        num_images: Of the source.
        config: The run's settings.

    Raises:
        CheckpointError: The file holds other settings, or is damaged.
    """
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in MACHINE_SETTINGS}
    settings |= {"tokenizer": to_dict(tok.config), "images": num_images}
    settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
    if not path.exists():
        if distributed.is_main():
            write_text(path, json.dumps(settings, indent=2) + "\n")
        return
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name in settings | stored if settings.get(name) != stored.get(name)]
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"expected the run's settings in {path}, got {error}: delete {path.parent} to start anew"
        ) from error
    if changed:
        was, now = ({name: given.get(name) for name in changed} for given in (stored, settings))
        raise CheckpointError(
            f"expected to resume with {was}, got {now}: use the same settings, another directory, or delete "
            f"{path.parent} to start anew"
        )


def once(path: Path, tok: PyramidTokenizer, work: Callable[[], None]) -> None:
    """Does the work and keeps the tokenizer's tensors; a resumed run takes them from there instead.

    The work's own state, which lies beside `path`, has then done its service.

    Args:
        path: Where the tensors are kept.
        tok: Changed in place.
        work: What the step does.

    Raises:
        CheckpointError: The kept tensors are damaged or those of another architecture.
    """
    if path.exists():
        tok.load_own(hub.read_weights(path, tok.own_tensors()))
        return
    work()
    if distributed.is_main():
        hub.write_weights(path, tok.own_tensors())
        path.with_suffix(STATE_SUFFIX).unlink(missing_ok=True)
