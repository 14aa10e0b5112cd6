"""Image files: finding them in a folder, a list or by a pattern, reading them by number, and writing one."""

from __future__ import annotations

import glob
import io
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from pyramid_tokenizer.checks.arguments import check_kind, check_path
from pyramid_tokenizer.errors import DataError, ImageFileError, ImageValueError
from pyramid_tokenizer.files import replacing
from pyramid_tokenizer.images.columns import FolderColumns
from pyramid_tokenizer.images.draft import read_jpeg_draft
from pyramid_tokenizer.images.folders import is_file_or_broken_link, list_folder, log_listing
from pyramid_tokenizer.images.packed import PackedStrings
from pyramid_tokenizer.images.read import ImageLike, read_image

FORMATS_IN_WORDS = ".jpg, .png, .webp, .tif or another ending of a format that Pillow reads"
_BRACES = re.compile(r"\{([^{}]*)\}")


def find_images(source: str | Path) -> list[Path]:
    """All image files below a folder, sorted by path; of a .txt file, the paths that it lists.

    Which files of a folder count is described in `images.folders`; `list_folder` also says what is passed over.

    Args:
        source: A folder, or a UTF-8 file with one path a line; relative paths in it start at its own folder.

    Raises:
        DataError: The source does not exist or holds no image file.
    """
    check_path(source, name="source", error=DataError)
    source = Path(source)
    if os.path.isdir(source):
        listing = list_folder(source)
        log_listing(source, listing)
        files, rest = listing.files, listing.summary()
    elif os.path.isfile(source) and source.suffix == ".txt":
        files, rest = read_list(source), ""
    else:
        raise DataError(
            f"expected a folder of images or a .txt list of files, got {str(source)!r}: no such folder or list"
        )
    if not files:
        raise DataError(
            f"expected images ({FORMATS_IN_WORDS}) in {str(source)!r}, got none{rest and f', {rest}'}: check the path"
        )
    return files


def read_list(path: Path) -> list[Path]:
    """The paths in a UTF-8 file of one path a line; relative ones start at the file's own folder."""
    return [path.parent / line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def expand_pattern(pattern: str) -> list[Path]:
    """The files that match a pattern, sorted: braces are expanded first, then *, ?, [ ] and ** as in `glob`.

    Args:
        pattern: For example "photos/**/*.jpg" or "shards/{000..009}.tar".

    Raises:
        DataError: A name without *, ? or [ is no file.

    Example:
        >>> expand_pattern("no/such/{08..10}.tar")
        Traceback (most recent call last):
        pyramid_tokenizer.errors.DataError: expected the files of 'no/such/{08..10}.tar', got 3 that are missing, the first
        no/such/08.tar: check the pattern
    """
    names = _expand_braces(os.path.expanduser(pattern))
    missing = [name for name in names if not glob.has_magic(name) and not os.path.isfile(name)]
    if missing:
        raise DataError(
            f"expected the files of {pattern!r}, got {len(missing)} that are missing, the first {missing[0]}: check the pattern"
        )
    found = {
        name
        for pattern in names
        for name in (glob.glob(pattern, recursive=True) if glob.has_magic(pattern) else [pattern])
    }
    return [Path(name) for name in sorted(found) if is_file_or_broken_link(name)]


def _expand_braces(pattern: str) -> list[str]:
    """All names that a pattern with {a,b} or {008..011} stands for, as in a shell; leading zeros are kept."""
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    first, _, last = match[1].partition("..")
    if first.isdecimal() and last.isdecimal():
        values = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        values = match[1].split(",")
    return [
        name for value in values for name in _expand_braces(pattern[: match.start()] + value + pattern[match.end() :])
    ]


def header_size(path: str | os.PathLike[str], *, size: int | None) -> tuple[int, int] | None:
    """Height and width by the header of an image file, after resizing its short side; None if it cannot be read.

    The orientation that EXIF gives is not applied: an image may be stored the other way round.

    Args:
        path: The file's name.
        size: Short side in pixels; None for that of the file.
    """
    try:
        with open(path, "rb") as file, Image.open(file) as opened:
            width, height = opened.size
    except Exception:  # damaged bytes make Pillow's readers raise nearly any class
        return None
    if size is None:
        return height, width
    short = min(height, width)
    return round(height * size / short), round(width * size / short)


def save_image(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Writes an image file whole or not at all, in the format that the suffix of its name says.

    Args:
        image: A PIL image.
        path: The file's name with a suffix that Pillow writes, e.g. .png; its folder exists, a file of that name is replaced.

    Raises:
        ImageValueError: It is no PIL image.
        ImageFileError: Pillow writes no format of that suffix.
        OSError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "red.png"
        >>> save_image(Image.new("RGB", (4, 3), (255, 0, 0)), target)
        >>> read_image(target).shape
        torch.Size([3, 3, 4])
    """
    check_kind(
        image, Image.Image, name="image", fix="images.pixels.to_pil makes them of tensors", error=ImageValueError
    )
    check_path(path, name="path", error=ImageFileError)
    path = Path(path)
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise ImageFileError(
            f"expected a suffix of an image format that Pillow writes, got {path.name!r}: use e.g. .png or .jpg"
        )
    with replacing(path) as part:
        image.save(part, format=kind)  # named, because the temporary name has another suffix


class FileImages:
    """Image files by number; an `ImageSource`.

    Args:
        files: Their paths. A file that is missing or no image is an error only when it is read.
        folder: The folder that was asked for, below which they lie; None where they were named one by one or by a pattern.
    """

    def __init__(self, files: Iterable[str | os.PathLike[str]], *, folder: Path | None = None):
        self._paths, self._folder = PackedStrings(os.fspath(file) for file in files), folder

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        """The file's path."""
        return self._paths[index]

    def read(self, index: int) -> Tensor:
        """(3, H, W) float32 in [0, 1].

        Raises:
            ImageError: The file is missing, or is no complete image.
        """
        return read_image(self._paths[index])

    def read_resized(self, index: int, *, size: int | None, jpeg_draft: bool) -> Tensor:
        """As `read`, with the short side of `size` pixels; see `images.sources.read_resized`."""
        if jpeg_draft and size is not None:
            return read_jpeg_draft(self._paths[index], size=size)
        return read_image(self._paths[index], size=size)

    def own_columns(self, names: Sequence[str]) -> FolderColumns:
        """The column "label": the name of the folder that holds each file."""
        return FolderColumns(self._paths, names, self._folder)


class ListedImages:
    """Images in memory, with paths among them if need be; an `ImageSource`.

    Args:
        images: A list of what `images.ImageLike` names; also a batch (N, 3, H, W), or an array (N, H, W, C).
    """

    def __init__(self, images: Sequence[ImageLike]):
        # file objects by their bytes, because they cannot be pickled and forked workers would share their positions
        files = isinstance(images, (list, tuple)) and any(hasattr(image, "read") for image in images)
        self._images = [_content(image) for image in images] if files else images
        for image in self._images:
            if isinstance(image, Image.Image):
                # loaded now, because forked workers would share the position in its open file
                with suppress(Exception):  # `read` says what is wrong with it
                    image.load()

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        """The path, or "image 3" for an image without one."""
        image = self._images[index]
        return os.fspath(image) if isinstance(image, (str, os.PathLike)) else f"image {index}"

    def read(self, index: int) -> Tensor:
        """(3, H, W) float32 in [0, 1].

        Raises:
            ImageError: It is not an image.
        """
        return read_image(self._images[index])


def _content(image: Any) -> Any:
    """All bytes of a file object; anything else as it is."""
    if not hasattr(image, "read") or isinstance(image, io.TextIOBase):
        return image
    if image.seekable():
        image.seek(0)
    return image.read()
