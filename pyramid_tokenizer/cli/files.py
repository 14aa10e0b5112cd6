"""Finds the files that a command reads, and decides where its results are written."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from pyramid_tokenizer.errors import DataError, ImageFileError, PyramidTokenizerError, TokenFileError

if TYPE_CHECKING:
    from pyramid_tokenizer.images import FolderListing

TOKEN_SUFFIX = ".tokens"
"""The suffix of token files; `pyramid_tokenizer.tokens.format` specifies their bytes."""

# A name that ends with one of these is a file; any other dot may be part of the name of a folder.
_FILE_SUFFIXES = frozenset(
    {".avif", ".bin", ".bmp", ".gif", ".jpeg", ".jpg", ".json", ".npy", ".npz", ".png", ".pt", ".tif", ".tiff", ".txt"}
    | {".webp", ".zip", TOKEN_SUFFIX}
)

_LINKED_TWICE = "another name of a file that is read"


class OutputError(PyramidTokenizerError):
    """A result that cannot be written under its name; other results of the run can."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file to read."""

    path: Path
    """The path of the file."""
    name: PurePath
    """Its path relative to the folder that was given, or its bare name if the file itself was given."""


class Sources(list[Source]):
    """The files that a command reads, and what it does not read of the folders that were given."""

    def __init__(self, sources: Iterable[Source] = ()) -> None:
        super().__init__(sources)
        self.passed_over: dict[Path, str] = {}
        """Path -> reason, see `images.folders`."""
        self.unlisted: dict[Path, OSError] = {}
        """Folders that cannot be listed, with the error."""


def find_images(arguments: Sequence[str]) -> Sources:
    """Finds the image files of files, folders and glob patterns; a file that is named itself may have any suffix.

    Which files of a folder count is described in `images.folders`.

    Raises:
        ImageFileError: An argument matches nothing.
        DataError: A folder has no images.
    """
    from pyramid_tokenizer.images import list_folder

    expected = "an image file, a folder of images or a glob pattern"
    return _find(arguments, list_folder, ImageFileError, expected, DataError)


def find_tokens(arguments: Sequence[str]) -> Sources:
    """Finds the token files of files, folders (all `*.tokens` below them) and glob patterns.

    Raises:
        TokenFileError: An argument matches nothing.
    """
    from pyramid_tokenizer.images import list_folder

    def list_tokens(folder: Path) -> FolderListing:
        return list_folder(folder, lambda name: name.lower().endswith(TOKEN_SUFFIX))

    expected = f"a token file, a folder of *{TOKEN_SUFFIX} files or a glob pattern"
    return _find(arguments, list_tokens, TokenFileError, expected, TokenFileError)


def _find(
    arguments: Sequence[str],
    list_folder: Callable[[Path], FolderListing],
    error: type[PyramidTokenizerError],
    expected: str,
    error_if_empty: type[PyramidTokenizerError],
) -> Sources:
    rest = Sources()
    found: dict[Path, Source] = {}  # a file that is given twice is read once
    for argument in arguments:
        paths = _existing(argument)
        if not paths:
            raise error(f"expected {expected}, got {argument!r}, which does not exist: check the path")
        sources: list[Source] = []
        for path in paths:
            if path.is_dir():
                listing = list_folder(path)
                sources += [Source(file, file.relative_to(path)) for file in listing.files]
                rest.passed_over |= listing.passed_over
                rest.unlisted |= listing.unlisted
            else:
                sources.append(Source(path, PurePath(path.name)))
        if not sources:
            raise error_if_empty(
                f"expected {expected}, got {argument!r}, in which no file counts: {_reasons(rest)}check the path"
            )
        for source in sources:
            first = found.setdefault(
                Path(os.path.realpath(source.path)), source
            )  # `resolve` fails on a circle of links
            if first is not source and os.path.islink(first.path) != os.path.islink(source.path):
                rest.passed_over[source.path] = _LINKED_TWICE
    rest.extend(found.values())
    return rest


def _reasons(rest: Sources) -> str:
    from pyramid_tokenizer.images.folders import count_reasons

    unlisted = [f"{path} cannot be listed ({error.strerror})" for path, error in rest.unlisted.items()]
    return "".join(f"{reason}; " for reason in [*unlisted, count_reasons(rest.passed_over)] if reason)


def _existing(argument: str) -> list[Path]:
    if not argument:  # as a shell gives for a variable that is not set; Path takes it for the current folder
        return []
    path = Path(argument).expanduser()
    if os.path.exists(path):  # checked first, because a real name may contain [ or *
        return [path]
    return [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]


def plan_outputs(sources: Sequence[Source], *, out: Path, suffix: str, force: bool) -> list[Path]:
    """Decides where the result of each source is written, before any work is done.

    `out` is a file if it ends with `suffix` and there is one source. Otherwise it is a folder in which each result has the
    relative path of its source, with `suffix` instead of the source's own. Where two results would have the same name, as for
    cat.jpg and cat.png, both keep the suffix of their source: cat.jpg.tokens and cat.png.tokens. Where names then differ in
    case alone, the later ones are numbered: CAT.jpg.tokens and cat.jpg-2.tokens.

    Raises:
        PyramidTokenizerError: `out` is a file where a folder is needed, two sources of different folders have the same name,
            or a result exists already and `force` is off.

    Example:
        >>> sources = [Source(Path(name), PurePath(name)) for name in ("cat.jpg", "cat.png", "dog.jpg")]
        >>> [path.name for path in plan_outputs(sources, out=Path("no such"), suffix=".tokens", force=False)]
        ['cat.jpg.tokens', 'cat.png.tokens', 'dog.tokens']
    """
    out = out.expanduser()
    if out.suffix.lower() == suffix and not out.is_dir() and len(sources) == 1:
        paths = [out]
    else:
        _check_folder(out, suffix, len(sources))
        paths = [out / name for name in _distinct_names(sources, suffix)]
    if not force:
        check_absent(paths)
    return paths


def check_absent(paths: Iterable[Path]) -> None:
    """Raises OutputError if one of the files exists already."""
    there = [path for path in paths if os.path.lexists(path)]  # unlike Path.exists, it takes names that are too long
    if there:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise OutputError(
            f"expected to write new files, got {str(there[0])!r}{more}, which exist already: "
            "choose another --out, or replace them with --force"
        )


def number_paths(path: Path, count: int) -> list[Path]:
    """Returns `path` for one image, and numbered paths (photo-0.png, photo-1.png, ...) for several images of one file.

    Example:
        >>> [path.name for path in number_paths(Path("photo.png"), 2)]
        ['photo-0.png', 'photo-1.png']
    """
    if count == 1:
        return [path]
    digits = len(str(count - 1))
    return [path.with_name(f"{path.stem}-{i:0{digits}}{path.suffix}") for i in range(count)]


def _check_folder(out: Path, suffix: str, count: int) -> None:
    if out.is_dir():
        return
    if out.exists() or out.suffix.lower() in _FILE_SUFFIXES:
        expected = f"a folder, or a name with {suffix}," if count == 1 else f"a folder for {count} files"
        raise PyramidTokenizerError(
            f"expected {expected} as --out, got {str(out)!r}: give a folder, which is created if it is missing"
        )


def _distinct_names(sources: Sequence[Source], suffix: str) -> list[PurePath]:
    names = [source.name.with_suffix(suffix) for source in sources]
    longer = [source.name.with_name(source.name.name + suffix) for source in sources]
    clashing = True
    while (
        clashing
    ):  # a.jpg and a.png become a.jpg.tokens and a.png.tokens, which a file a.jpg.png may clash with in turn
        count = Counter(map(_key, names))
        clashing = [i for i, name in enumerate(names) if count[_key(name)] > 1 and name != longer[i]]
        for i in clashing:
            names[i] = longer[i]
    _check_equal_names(sources, names)
    taken = set(map(_key, names)) if len(set(map(_key, names))) < len(names) else set()
    seen: set[str] = set()
    for i, name in enumerate(names):
        number = 2
        while _key(names[i]) in seen:
            numbered = name.with_name(f"{name.name.removesuffix(suffix)}-{number}{suffix}")
            names[i] = numbered if _key(numbered) not in taken else name
            number += 1
        seen.add(_key(names[i]))
    return names


def _key(name: PurePath) -> str:
    return str(name).casefold()  # some file systems do not distinguish Cat.png and cat.png


def _check_equal_names(sources: Sequence[Source], names: Sequence[PurePath]) -> None:
    taken: dict[PurePath, Source] = {}
    for source, name in zip(sources, names, strict=True):
        other = taken.setdefault(name, source)
        if other is not source:
            raise PyramidTokenizerError(
                f"expected one result per name, got {str(name)!r} for both {str(other.path)!r} and {str(source.path)!r}: "
                "give the folder that contains both, whose subfolders are kept, or run two commands with different --out"
            )
