"""The folder `out/.training`: a run's settings and the result of each of its parts, so that the same call resumes it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pyramid_tokenizer import hub
from pyramid_tokenizer.config.models import SegmentationConfig
from pyramid_tokenizer.config.plain import to_dict
from pyramid_tokenizer.config.training import TrainConfig
from pyramid_tokenizer.errors import CheckpointError, PyramidTokenizerError
from pyramid_tokenizer.files import load_json, write_text
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.training import distributed

STATE_SUFFIX = ".pt"
MACHINE_SETTINGS = ("workers", "log_every", "save_every", "sheet_every", "tensorboard")
"""Settings that may differ in a resumed run, because results do not depend on them."""


def check_settings(
    path: Path, tok: PyramidTokenizer, num_images: int, config: TrainConfig, *, head: SegmentationConfig | None = None
) -> None:
    """Writes the settings of a new run to a file, or checks that a resumed run has the same.

    Args:
        path: The file of settings.
        tok: The tokenizer as it was given to the run.
        num_images: Number of images in the source.
        config: Settings of the run.
        head: Shape of the segmentation head that the run trains; None where it trains none.

    Raises:
        CheckpointError: The file holds other settings or is damaged.
    """
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in MACHINE_SETTINGS}
    settings |= {"tokenizer": to_dict(tok.config), "images": num_images}
    settings |= {} if head is None else {"head": to_dict(head)}
    settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
    if not path.exists():
        if distributed.is_main():
            write_text(path, json.dumps(settings, indent=2) + "\n")
        return
    try:
        stored = load_json(path.read_text(encoding="utf-8"))
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


@contextmanager
def same_settings(path: Path, tok: PyramidTokenizer, num_images: int, config: TrainConfig) -> Iterator[None]:
    """`check_settings`, for the first part of a run: where an error refuses its data, the settings of a new run are not kept.

    Nothing is stored that could be resumed then, and other settings may be what helps.

    Args:
        path: The file of settings.
        tok: The tokenizer as it was given to the run.
        num_images: Number of images in the source.
        config: Settings of the run.
    """
    new = not path.exists()
    check_settings(path, tok, num_images, config)
    try:
        yield
    except PyramidTokenizerError:
        if new and distributed.is_main():
            path.unlink(missing_ok=True)
        raise


def once(path: Path, tok: PyramidTokenizer, work: Callable[[], None]) -> None:
    """Does one part of a run and stores the tokenizer's tensors; where they are stored already, loads them instead.

    The state from which that part could be resumed, a file beside `path`, is then removed.

    Args:
        path: File of the tensors.
        tok: The tokenizer; changed in place.
        work: What this part of the run does.

    Raises:
        CheckpointError: The stored tensors are damaged or belong to another architecture.
    """
    if path.exists():
        tok.load_own(hub.read_weights(path, tok.own_tensors()))
        return
    work()
    if distributed.is_main():
        hub.write_weights(path, tok.own_tensors())
        path.with_suffix(STATE_SUFFIX).unlink(missing_ok=True)
