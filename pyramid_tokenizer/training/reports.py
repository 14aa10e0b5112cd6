"""Sheets of reconstructions and scalars for TensorBoard, which a run writes into the model's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from pyramid_tokenizer.errors import MissingExtraError
from pyramid_tokenizer.images.files import save_image
from pyramid_tokenizer.images.pixels import to_pil
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.visualize.sheets import contact_sheet

Log = Callable[[dict[str, Any]], None]
"""A function that is called with the figures of a step: stage, step, steps, loss, images_per_second and the stage's own."""


@runtime_checkable
class FitLog(Protocol):
    """A `Log` that is also told how far a gradient-free fit is."""

    def __call__(self, figures: dict[str, Any], /) -> None:
        """Takes the figures of a step."""
        ...

    def show_fit(self, stage: str, share: float) -> None:
        """Takes what `tok.fit(progress=...)` tells: the stage, and the share of the whole fit that is done."""
        ...


def write_sheet(tok: PyramidTokenizer, images: Tensor, path: Path) -> None:
    """Writes a sheet with a row for each image: the original, then the reconstruction from every prefix of levels.

    Args:
        tok: A tokenizer with fitted codebooks.
        images: Batch (B, 3, H, W) float in [0, 1].
        path: A .png or .jpg file; its folder is made where it is missing.
    """
    with torch.no_grad():
        tokens = tok.encode(images)
        columns = [images, *(tok.decode(tokens[:n]).cpu() for n in range(1, len(tokens) + 1))]
    titles = ["original", *("level 0" if n == 1 else f"levels 0-{n - 1}" for n in range(1, len(columns)))]
    rows = list(zip(*(to_pil(column) for column in columns), strict=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(contact_sheet(rows, column_titles=titles), path)


def tensorboard_log(folder: Path) -> Log:
    """A log that writes its figures as TensorBoard scalars "stage/figure".

    Args:
        folder: Folder of the event files.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError('expected tensorboard, got none: pip install "pyramid-tokenizer[train]"') from error
    writer = SummaryWriter(str(folder))

    def write(figures: dict[str, Any]) -> None:
        for name, value in figures.items():
            if name not in ("stage", "step", "steps"):
                writer.add_scalar(f"{figures['stage']}/{name}", value, figures["step"])
        writer.flush()

    return write
