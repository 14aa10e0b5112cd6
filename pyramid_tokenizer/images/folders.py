"""What a folder holds: one rule for every command, source and labelled set.

A file counts if its ending, in any case, is one that is asked for, such as those of all image formats that Pillow reads. A link
that leads nowhere counts too, so that reading it is an error that names it. Passed over are names that begin with a dot, such as
the ._photo.jpg that macOS leaves beside photo.jpg, other endings, links to folders, and what is no regular file.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

logger = logging.getLogger(__name__)

HIDDEN = "name that begins with a dot"
OTHER_ENDING = "other ending"
LINKED_FOLDER = "link to a folder"
NO_REGULAR_FILE = "no regular file"

# Pillow only recognises these or hands them to another program; it cannot read their pixels by itself.
_NOT_READ = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
# Files of this format are opened by the reader of JPEG.
_READ_BY_OTHERS = frozenset({"MPO"})


@dataclass(frozen=True, slots=True)
class FolderListing:
    """The files below a folder, and what was passed over."""

    files: list[Path]
    """The files that count, sorted by path."""
    passed_over: dict[Path, str] = field(default_factory=dict)
    """Path -> reason, sorted by path; a folder whose name begins with a dot stands for all that it holds."""
    unlisted: dict[Path, OSError] = field(default_factory=dict)
    """Folders that cannot be listed, for example for want of rights, with the error."""

    def summary(self) -> str:
        """How much was passed over and why, as `count_reasons` formats it."""
        return count_reasons(self.passed_over)


def count_reasons(passed_over: dict[Path, str]) -> str:
    """Formats how many paths were passed over for each reason; empty for none.

    Example:
        >>> count_reasons({Path("._a.jpg"): HIDDEN, Path("notes.txt"): OTHER_ENDING})
        '2 passed over (name that begins with a dot: 1, other ending: 1)'
    """
    counts = ", ".join(f"{reason}: {count}" for reason, count in sorted(Counter(passed_over.values()).items()))
    return f"{len(passed_over)} passed over ({counts})" if passed_over else ""


def image_suffixes() -> frozenset[str]:
    """The endings of all formats that Pillow reads, in small letters with a dot; those of its plugins count once registered.

    Example:
        >>> {".jpg", ".jfif", ".tiff", ".mpo"} <= image_suffixes(), ".pdf" in image_suffixes()
        (True, False)
    """
    endings = Image.registered_extensions().items()  # loads all of Pillow's readers when it is first called
    return frozenset(
        ending for ending, kind in endings if (kind in Image.OPEN or kind in _READ_BY_OTHERS) and kind not in _NOT_READ
    )


def is_file_or_broken_link(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a regular file, or a link that leads nowhere."""
    return os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path))


def list_folder(folder: str | Path, accepts: Callable[[str], bool] | None = None) -> FolderListing:
    """The files below a folder that count, and what was passed over; links to folders are not followed.

    Args:
        folder: The folder; its own name may begin with a dot.
        accepts: Whether a file of that name counts; None takes the endings of all image formats that Pillow reads.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.JPG", "a.png", "._a.png", "notes.txt"):
        ...         Path(folder, name).touch()
        ...     listing = list_folder(folder)
        >>> [path.name for path in listing.files], {path.name: reason for path, reason in listing.passed_over.items()}
        (['a.png', 'b.JPG'], {'._a.png': 'name that begins with a dot', 'notes.txt': 'other ending'})
    """
    suffixes = image_suffixes() if accepts is None else frozenset()
    files, passed_over, unlisted = [], {}, {}

    def note(error: OSError) -> None:
        unlisted[Path(error.filename)] = error

    for parent, name, is_folder in _walk(Path(folder), note):
        path = parent / name
        if name.startswith("."):
            passed_over[path] = HIDDEN
        elif is_folder:
            if os.path.islink(path):
                passed_over[path] = LINKED_FOLDER
        elif not (accepts(name) if accepts is not None else path.suffix.lower() in suffixes):
            passed_over[path] = OTHER_ENDING
        elif is_file_or_broken_link(path):
            files.append(path)
        else:
            passed_over[path] = NO_REGULAR_FILE
    return FolderListing(sorted(files), dict(sorted(passed_over.items())), unlisted)


def log_listing(folder: str | Path, listing: FolderListing) -> None:
    """Logs folders that cannot be listed as warnings, the count of what was passed over as info, and its names as debug."""
    for path, error in listing.unlisted.items():
        logger.warning("%s cannot be listed: %s", path, error.strerror)
    if listing.passed_over:
        logger.info("%s: %s", folder, listing.summary())
    for path, reason in listing.passed_over.items():
        logger.debug("%s is passed over: %s", path, reason)


def _walk(folder: Path, onerror: Callable[[OSError], None]) -> Iterator[tuple[Path, str, bool]]:
    """Folder, name, and whether it is a folder, of everything below a folder that is not below a hidden one."""
    for parent, folders, names in os.walk(folder, onerror=onerror):
        yield from ((Path(parent), name, True) for name in folders)
        yield from ((Path(parent), name, False) for name in names)
        folders[:] = [name for name in folders if not name.startswith(".")]
