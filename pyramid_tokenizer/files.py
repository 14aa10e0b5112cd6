"""Files that are whole or absent: written under a temporary name in the same folder, then renamed.

Whatever ends the writing (an exception, a full disk, a killed process), the final name holds the old file, the new file, or
nothing, never a part of either. Every file that this package writes goes through here.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PART_SUFFIX = ".part"
"""The ending of temporary names. A killed process can leave such a file behind; nothing reads it and it may be deleted."""


_LFS_START = b"version https://git-lfs.github.com/spec/"
_LFS_LONGEST = 1024  # by the specification of git-lfs a pointer is shorter


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path to write; when the block ends without an error, the file there becomes `path`.

    The file is flushed to the disk before it is renamed: otherwise a power cut can keep the new name and lose the bytes. If
    anything fails, the temporary file is removed and a file that was at `path` stays as it was. Processes that write the
    same `path` at once do not disturb each other; the last one to finish wins.

    Args:
        path: The file's final name, in a folder that exists.

    Raises:
        OSError: The file cannot be written, flushed or renamed.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "notes.txt"
        >>> with replacing(target) as part:
        ...     _ = part.write_text("whole")
        ...     target.exists()
        False
        >>> target.read_text()
        'whole'
    """
    path = Path(path)
    part = path.with_name(temporary_name())
    try:
        yield part
        with part.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):  # the error that led here is the one to report
            part.unlink()
        raise


def write_bytes(path: str | os.PathLike[str], chunks: Iterable[bytes | memoryview]) -> None:
    """Writes a file whole or not at all.

    Args:
        path: The file's final name, in a folder that exists; a file of that name is replaced.
        chunks: The file's bytes, in order.

    Raises:
        OSError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "digits"
        >>> write_bytes(target, [b"12", b"3"])
        >>> target.read_bytes()
        b'123'
    """
    with replacing(path) as part, part.open("xb") as file:
        file.writelines(chunks)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a UTF-8 file whole or not at all; line endings stay as they are in `text`.

    Args:
        path: The file's final name, in a folder that exists; a file of that name is replaced.
        text: All of its text.

    Raises:
        OSError: The file cannot be written.
    """
    write_bytes(path, [text.encode("utf-8")])


def load_json(text: str | bytes) -> Any:
    """What `json.loads` gives, and no other error than ValueError, whatever the text is.

    Args:
        text: JSON, or anything else.

    Raises:
        ValueError: It is not JSON, is not UTF-8, or is nested deeper than Python's parser goes.

    Example:
        >>> load_json("[" * 100_000)
        Traceback (most recent call last):
        ValueError: nested too deeply
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def refuse_lfs_pointer(path: str | os.PathLike[str], *, error: type[Exception]) -> None:
    r"""Raises `error` where a file is a pointer of git-lfs: the few lines that stand for a large file that was not fetched.

    Args:
        path: A file; one that does not exist or cannot be read is for the caller to report.
        error: The class to raise.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "model.safetensors"
        >>> write_text(target, "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
        >>> try:
        ...     refuse_lfs_pointer(target, error=ValueError)
        ... except ValueError as caught:
        ...     print(str(caught).split(": ")[-1])
        run `git lfs pull` in its repository, or download the file itself
    """
    try:
        if os.path.getsize(path) > _LFS_LONGEST:
            return
        with open(path, "rb") as file:
            start = file.read(len(_LFS_START))
    except OSError:
        return
    refuse_lfs_bytes(start, name=repr(os.fspath(path)), error=error)


def refuse_lfs_bytes(data: bytes | bytearray | memoryview, *, name: str, error: type[Exception]) -> None:
    """As `refuse_lfs_pointer`, for the bytes of a file.

    Args:
        data: All bytes of the file, or the first ones of a file of at most 1 kB.
        name: What the error calls them.
        error: The class to raise.
    """
    if len(data) <= _LFS_LONGEST and bytes(data[: len(_LFS_START)]) == _LFS_START:
        raise error(
            f"expected the contents of {name}, got a pointer of git-lfs that stands for them: run `git lfs pull` "
            "in its repository, or download the file itself"
        )


def temporary_name() -> str:
    """A name for a file or folder that is not whole yet: hidden, random, and short whatever the final name is.

    File systems allow 255 bytes for a name, so a temporary name must not be the final one with something added.

    Example:
        >>> len(temporary_name()), temporary_name() == temporary_name()
        (22, False)
    """
    return f".{secrets.token_hex(8)}{PART_SUFFIX}"
