"""Where a data set keeps its images and labels: a description that finds the files and draws them in error messages."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pyramid_tokenizer.errors import DataError
from pyramid_tokenizer.images.folders import image_suffixes, list_folder, log_listing

logger = logging.getLogger(__name__)

ANY_FORMAT = ".*"
"""As a suffix: the ending of any image format that Pillow reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelFiles:
    """One way in which the label files of a data set may be stored."""

    folder: str
    """Their folder below the root, with / between parts; `{split}` stands for the split's name."""
    suffix: str
    """What follows an image's key in the file's name in any case, e.g. "_labelTrainIds.png", or `ANY_FORMAT`."""
    label_map: Mapping[int, int] | None = None
    """From a value in these files to a class, where it differs from the protocol's map; None takes the protocol's."""
    ignore_ids: tuple[int, ...] = ()
    """Values that do not count, in addition to the protocol's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where images and labels lie. Both files of a sample share a key: their path below their folder, without the suffix."""

    image_folder: str
    """Folder of the images below the root; `{split}` stands for the split's name."""
    image_suffixes: tuple[str, ...] = (".jpg",)
    """What may follow the key in an image's name in any case, or `ANY_FORMAT`; the first that exists is taken."""
    label_files: tuple[LabelFiles, ...]
    """Ways in which the labels may be stored; the first that has a file for every image of the split is taken."""
    split_file: str | None = None
    """File that lists the keys of a split, one a line; None makes every label file below the folder a sample."""
    default_split: str | None = None
    """Split that is used when none is named; None uses all label files."""
    class_files: tuple[str, ...] = ()
    """Names of files that may hold the class names; the first that exists is read."""

    def drawing(self, split: str | None) -> str:
        """Lines that show where the files are expected, for error messages.

        Args:
            split: Name of the split, or None.
        """
        name = split or "NAME"
        labels = " or ".join(f"{files.folder.format(split=name)}/*{_shown(files.suffix)}" for files in self.label_files)
        lines = [f"{self.image_folder.format(split=name)}/*{'|'.join(map(_shown, self.image_suffixes))}", labels]
        if self.split_file:
            listed = "names of the images, one a line, without suffix"
            optional = "" if split else "optional: "
            lines.append(f"{self.split_file.format(split=name)}   ({optional}{listed})")
        if self.class_files:
            lines.append(f"{' or '.join(self.class_files)}   (class names)")
        return "".join(f"\n  {line}" for line in lines)


class FilePair(NamedTuple):
    """The files of one sample."""

    key: str
    image: Path
    labels: Path


def find_pairs(root: Path, layout: Layout, split: str | None) -> tuple[LabelFiles, list[FilePair]]:
    """How the labels are stored, and the files of each sample, in the order of the split's list or sorted by key.

    Args:
        root: Folder of the data set.
        layout: Where its files are.
        split: Name of the split; None takes every label file.

    Raises:
        DataError: There is no such folder, or labels or images are missing; the message draws what was expected.
    """
    expected = f"expected files laid out as{layout.drawing(split)}"
    if not os.path.isdir(root):
        raise DataError(f"{expected}\ngot no folder {str(root)!r}: give the one that holds them")
    listed = _read_split(root, layout, split, expected)
    missing: list[Path] = []
    for files in layout.label_files:
        folder = root / files.folder.format(split=split)
        found = _keys(folder, files.suffix)
        keys = sorted(found) if listed is None else listed
        absent = [key for key in keys if key not in found]
        if keys and not absent:
            if listed is None:
                _log_unlabelled(root / layout.image_folder.format(split=split), layout, found)
            return files, [
                FilePair(key, image, found[key])
                for key, image in zip(keys, _find_images(root, layout, split, keys), strict=True)
            ]
        if found:
            missing += [folder / (key + _shown(files.suffix)) for key in absent]
    if missing:
        raise DataError(f"{expected}\ngot no {str(missing[0])!r}: download or prepare the labels of every listed image")
    raise DataError(f"{expected}\ngot no labels in {str(root)!r}{_hint(root, layout, split)}")


def _read_split(root: Path, layout: Layout, split: str | None, expected: str) -> list[str] | None:
    if layout.split_file is None or split is None:
        return None
    path = root / layout.split_file.format(split=split)
    if not os.path.isfile(path):
        there = sorted(other.stem for other in path.parent.glob(f"*{path.suffix}"))
        hint = f"use a split of {', '.join(there)}" if there else "give the folder that holds it"
        raise DataError(f"{expected}\ngot no {str(path)!r}: {hint}")
    keys = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not keys:
        raise DataError(f"{expected}\ngot an empty {str(path)!r}: write the names of the split's images into it")
    return keys


def _keys(folder: Path, suffix: str) -> dict[str, Path]:
    """Key -> file of all files below a folder that end with a suffix in any case; of files with one key the first counts."""
    if not os.path.isdir(folder):
        return {}
    endings = image_suffixes() if suffix == ANY_FORMAT else (suffix.lower(),)
    found: dict[str, Path] = {}
    listing = list_folder(folder, lambda name: name.lower().endswith(tuple(endings)))
    log_listing(folder, listing)
    for path in listing.files:
        length = len(path.suffix) if suffix == ANY_FORMAT else len(suffix)
        found.setdefault(path.relative_to(folder).as_posix()[:-length], path)
    return found


def _find_images(root: Path, layout: Layout, split: str | None, keys: Sequence[str]) -> Iterator[Path]:
    """The image of each key. The folder is listed only where a file of exactly the expected name is missing."""
    folder = root / layout.image_folder.format(split=split)
    fixed = [suffix for suffix in layout.image_suffixes if suffix != ANY_FORMAT]
    listed: list[dict[str, Path]] | None = None
    for key in keys:
        exact = (folder / (key + suffix) for suffix in fixed)
        path = next((path for path in exact if path.is_file()), None)
        if path is None:
            listed = [_keys(folder, suffix) for suffix in layout.image_suffixes] if listed is None else listed
            path = next((found[key] for found in listed if key in found), None)
        if path is None:
            names = " or ".join(key + _shown(suffix) for suffix in layout.image_suffixes)
            raise DataError(
                f"expected an image for every label file, got no {names} in {str(folder)!r}: add it, or list a split"
            )
        yield path


def _log_unlabelled(folder: Path, layout: Layout, labels: Collection[str]) -> None:
    """Logs how many images have no labels, and are left out, as a warning, and their names as debug."""
    images = {key: path for suffix in layout.image_suffixes for key, path in _keys(folder, suffix).items()}
    without = sorted(path for key, path in images.items() if key not in labels)
    if without:
        logger.warning(
            "%s: %d images have no label file and are left out, the first %s", folder, len(without), without[0].name
        )
    for path in without:
        logger.debug("%s is left out: no label file", path)


def _shown(suffix: str) -> str:
    return f"{suffix} (any image format)" if suffix == ANY_FORMAT else suffix


def _hint(root: Path, layout: Layout, split: str | None) -> str:
    folder = layout.label_files[0].folder.format(split=split)
    inner = next((path for path in sorted(root.iterdir()) if (path / folder).is_dir()), None)
    return f": did you mean {str(inner)!r}?" if inner else ": give the folder that holds them, or prepare the labels"
