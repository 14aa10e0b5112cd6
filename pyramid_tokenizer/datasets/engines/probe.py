"""A look at a machine before it encodes: it must see the images that the caller sees.

Where a disk is not mounted, every image is a file that cannot be read, and would be listed as such by a run that knows no better.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

import pyramid_tokenizer
from pyramid_tokenizer.datasets.schema import import_pyarrow
from pyramid_tokenizer.datasets.shards import Work, read_planned
from pyramid_tokenizer.errors import DatasetError, ImageError

_TRIES = 16
_TOLERANCE = 1 / 255
"""Resizing may round otherwise on another class of machine; other images differ by more."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a machine found."""

    folder: str
    """The current folder, from which relative paths of the source start."""
    versions: tuple[tuple[str, str], ...]
    """Of the libraries that decide a shard's bytes."""
    image: tuple[int, tuple[int, ...], float] | None
    """An image of the plan: its number, shape and mean; None where none of those that were tried can be read."""


def probe(work: Work) -> Probe:
    """What this machine finds, with the first image that it can read of some that are spread over the plan.

    Args:
        work: Source and plan.
    """
    image = None
    for number in np.unique(np.linspace(0, work.plan.images - 1, _TRIES).round().astype(int)).tolist():
        image = _look(work, number)
        if image is not None:
            break
    return Probe(os.getcwd(), _versions(), image)


def check_machine(work: Work, expected: Probe) -> None:
    """Enters the caller's folder where it exists, and compares what this machine finds with what the caller found.

    Args:
        work: Source and plan.
        expected: What the caller found.

    Raises:
        DatasetError: The image cannot be read here or is another one, or a version differs.
    """
    if os.path.isdir(expected.folder):
        os.chdir(expected.folder)
    for (name, version), (_, here) in zip(expected.versions, _versions(), strict=True):
        if here != version:
            raise DatasetError(
                f"expected {name} {version}, which the caller has, got {here}: install the same on every machine"
            )
    if expected.image is None:
        return
    number, shape, mean = expected.image
    found = _look(work, number)
    if found is None or found[1] != shape or abs(found[2] - mean) > _TOLERANCE:
        got = "none that can be read" if found is None else f"another one of {tuple(found[1])}"
        raise DatasetError(
            f"expected the image {work.keys[number]!r} of {tuple(shape)}, as the caller reads it, got {got}: every machine needs "
            "the source at the same path; mount it there, or leave the machine out"
        )


def _look(work: Work, number: int) -> tuple[int, tuple[int, ...], float] | None:
    try:
        pixels = read_planned(work, number)
    except ImageError:
        return None
    return number, tuple(pixels.shape), float(pixels.double().mean())


def _versions() -> tuple[tuple[str, str], ...]:
    return ("pyramid_tokenizer", pyramid_tokenizer.__version__), ("pyarrow", import_pyarrow().__version__)
