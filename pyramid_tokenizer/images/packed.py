"""Tools for sources that hold many images in one file: names in little memory, parts of files, and their pixels."""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
from PIL import Image
from torch import Tensor

from pyramid_tokenizer.errors import ImageFileError
from pyramid_tokenizer.files import refuse_lfs_bytes
from pyramid_tokenizer.images.draft import read_jpeg_draft
from pyramid_tokenizer.images.read import read_image


class PackedStrings:
    """Strings by number, stored as one sequence of bytes.

    A list of a million strings takes twice the memory, and each forked DataLoader worker would end up with its own copy of
    it, because reading a Python object writes its reference count.

    Example:
        >>> names = PackedStrings(["cat.jpg", "brücke.png"])
        >>> len(names), names[1]
        (2, 'brücke.png')
    """

    def __init__(self, strings: Iterable[str]):
        # surrogateescape: file names may hold any bytes
        encoded = [string.encode("utf-8", "surrogateescape") for string in strings]
        self._ends = np.cumsum([len(string) for string in encoded], dtype=np.int64)
        self._bytes = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        start = self._ends[index - 1] if index else 0
        return self._bytes[start : self._ends[index]].decode("utf-8", "surrogateescape")


def read_span(path: str, offset: int, size: int) -> bytes:
    """Bytes `offset` to `offset + size` of a file.

    The file is opened anew each time, which costs what opening one image of a folder costs: forked processes would share the
    position in an open file, and a data set may have more shards than a process may open files.

    Raises:
        ImageFileError: The file is gone, cannot be read, or ends too early.
    """
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            span = file.read(size)
    except OSError as error:
        raise ImageFileError(f"expected to read {path!r}, got {error}: check that it is still there") from error
    if len(span) != size:
        raise ImageFileError(
            f"expected {size} bytes at {offset} of {path!r}, got {len(span)}: it has changed, reopen it"
        )
    return span


def read_encoded(data: bytes | None, *, size: int | None = None, jpeg_draft: bool = False) -> Tensor:
    """The pixels of an image's file, (3, H, W) float32 in [0, 1], as `images.read_image` reads them.

    Args:
        data: All bytes of a JPEG, PNG or other file that Pillow knows; None where a table holds none.
        size: Length of the short side in pixels; None keeps the native size.
        jpeg_draft: Decode a JPEG at a fraction of its size, see `images.draft`.

    Raises:
        ImageError: There are no bytes, they are no complete image, or the image is too large.
    """
    if not data:
        raise ImageFileError("expected the bytes of an image, got none: fill them in, or leave the image out")
    refuse_lfs_bytes(data, name=f"{len(data)} bytes", error=ImageFileError)
    if jpeg_draft and size is not None:
        return read_jpeg_draft(data, size=size)
    try:
        image = Image.open(io.BytesIO(data))
    except Exception as error:  # damaged bytes make Pillow's readers raise nearly any class
        raise ImageFileError(
            f"expected an image, got {len(data)} bytes that are damaged, too large or of no known format "
            f"({type(error).__name__}): replace or convert it"
        ) from error
    return read_image(image, size=size)


def one_line(error: Exception) -> str:
    """An error's text without line breaks; the libraries of tables write texts of many lines."""
    return " ".join(str(error).split())
