"""From what was typed to files: which are read, and where the results go without overwriting anything unasked."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from pyramid_tokenizer.errors import ImageFileError, PyramidTokenizerError, TokenFileError

TOKEN_SUFFIX = ".tokens"
"""Of token files, whose bytes `pyramid_tokenizer.token_format` specifies."""

# A name with one of these is meant as a file; any other dot may be part of a folder's name.
_FILE_SUFFIXES = frozenset(
    {".avif", ".bin", ".bmp", ".gif", ".jpeg", ".jpg", ".json", ".npy", ".npz", ".png", ".pt", ".tif", ".tiff", ".txt"}
    | {".webp", ".zip", TOKEN_SUFFIX}
)


@dataclass(frozen=True, slots=True)
class Source:
    """A file to read."""

    path: Path
    """Where it lies."""
    name: PurePath
    """Its place below the folder that was named; its bare name where the file itself was named."""


def find_images(arguments: Sequence[str]) -> list[Source]:
    """Image files of files, folders and globs; a file whose suffix is unknown is taken at its word.

    Raises:
        ImageFileError: Nothing is there.
        DataError: A folder has no images.
    """
    from pyramid_tokenizer import images as data

    return _find(arguments, data.find_images, ImageFileError, "an image file, a folder of images or a glob")


def find_tokens(arguments: Sequence[str]) -> list[Source]:
    """Token files of files, folders (all `*.tokens` below them) and globs.

    Raises:
        TokenFileError: Nothing is there.
    """

    def list_folder(folder: Path) -> list[Path]:
        files = sorted(folder.rglob(f"*{TOKEN_SUFFIX}"))
        if not files:
            raise TokenFileError(f"expected token files (*{TOKEN_SUFFIX}) in {str(folder)!r}, got none: check the path")
        return files

    return _find(arguments, list_folder, TokenFileError, f"a token file, a folder of *{TOKEN_SUFFIX} or a glob")


def _find(
    arguments: Sequence[str],
    list_folder: Callable[[Path], list[Path]],
    error: type[PyramidTokenizerError],
    expected: str,
) -> list[Source]:
    found: dict[Path, Source] = {}  # a file that is named twice is read once
    for argument in arguments:
        paths = _existing(argument)
        if not paths:
            raise error(f"expected {expected}, got {argument!r}: nothing of that name exists")
        for path in paths:
            if path.is_dir():
                sources = [Source(file, file.relative_to(path)) for file in list_folder(path)]
            else:
                sources = [Source(path, PurePath(path.name))]
            for source in sources:
                found.setdefault(source.path.resolve(), source)
    return list(found.values())


def _existing(argument: str) -> list[Path]:
    path = Path(argument).expanduser()
    if path.exists():  # first: a real name may hold [ or *
        return [path]
    return [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]


def plan_outputs(sources: Sequence[Source], *, out: Path, suffix: str, force: bool) -> list[Path]:
    """Where the result of each source goes; decided before any work is done.

    `out` is a file where it ends with `suffix` and there is one source; else a folder, in which results lie as their
    sources lie below the folder that was named, with `suffix` for their own. Where two would get one name, as cat.jpg and
    cat.png do, both keep their suffix: cat.jpg.tokens, cat.png.tokens.

    Raises:
        PyramidTokenizerError: `out` is a file where a folder is needed, two sources still get one name, or a result exists
            already and `force` is off.

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
    """Raises PyramidTokenizerError if one of the files exists."""
    there = [path for path in paths if path.exists()]
    if there:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise PyramidTokenizerError(
            f"expected to write new files, got {str(there[0])!r}{more} there already: "
            "choose another --out, or replace them with --force"
        )


def number_paths(path: Path, count: int) -> list[Path]:
    """`path` for one image; for the images of one file photo-0.png, photo-1.png, ...

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
            f"expected {expected} as --out, got {str(out)!r}: name a folder, it is made where missing"
        )


def _distinct_names(sources: Sequence[Source], suffix: str) -> list[PurePath]:
    def key(name: PurePath) -> str:
        return str(name).casefold()  # some file systems hold Cat.png and cat.png for one

    names = [source.name.with_suffix(suffix) for source in sources]
    count = Counter(map(key, names))
    longer = [
        source.name.with_name(source.name.name + suffix) if count[key(name)] > 1 else name
        for source, name in zip(sources, names, strict=True)
    ]
    taken: dict[str, Source] = {}
    for source, name in zip(sources, longer, strict=True):
        other = taken.setdefault(key(name), source)
        if other is not source:
            raise PyramidTokenizerError(
                f"expected one result per name, got {str(name)!r} for both {str(other.path)!r} and {str(source.path)!r}: "
                "name the folder that holds both, which keeps its subfolders, or give each call its own --out"
            )
    return longer
