"""Where a token dataset lies: a local folder, or any address that fsspec knows, such as s3://bucket/tokens.

Both give the same few operations on small whole files. Files are named by their path below the folder, with "/".
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from pyramid_tokenizer.checks.arguments import check_path
from pyramid_tokenizer.errors import DatasetError
from pyramid_tokenizer.files import PART_SUFFIX, write_bytes


class Storage(Protocol):
    """A folder of whole files."""

    address: str
    """The folder's path or address, as users write it."""

    def sizes(self) -> dict[str, int]:
        """Name -> size in bytes of every file in the folder and below it; empty where there is no such folder."""
        ...

    def read(self, name: str) -> bytes:
        """All bytes of a file.

        Raises:
            DatasetError: There is no such file, or it cannot be read.
        """
        ...

    def write(self, name: str, data: bytes) -> None:
        """Writes a file whole; one of that name is replaced.

        Raises:
            DatasetError: It cannot be written, for example because the disk is full.
        """
        ...

    def remove(self, name: str) -> None:
        """Removes a file; nothing happens where there is none."""
        ...


class LocalStorage:
    """A folder of this machine. A file is flushed to the disk and then renamed, so that it is whole or absent.

    Args:
        folder: The folder; it is made by the first `write`.
    """

    def __init__(self, folder: Path):
        self.folder, self.address = folder, str(folder)

    def sizes(self) -> dict[str, int]:
        """Name -> size in bytes of every file in the folder and below it."""
        found = {}
        for parent, _, names in os.walk(self.folder):
            for name in names:
                path = Path(parent, name)
                with suppress(FileNotFoundError):
                    found[path.relative_to(self.folder).as_posix()] = path.lstat().st_size
        return found

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise _reading_failed(self.address, name, error) from error

    def write(self, name: str, data: bytes) -> None:
        """Writes a file whole or not at all."""
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, [data])
        except OSError as error:
            raise _writing_failed(self.address, name, error) from error

    def remove(self, name: str) -> None:
        """Removes a file, and its folder if that is empty then."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        if path.parent != self.folder:
            with suppress(OSError):  # other files are in it
                path.parent.rmdir()


class RemoteStorage:
    """A folder at an address of fsspec. Object stores show a file when its upload is complete.

    On a file system that shows parts of files (sftp, for example) a file that was cut off is found by its size, which the
    records of a dataset hold.

    Args:
        address: For example "s3://bucket/tokens".

    Raises:
        DatasetError: fsspec does not know the address, or what it needs for it is not installed.
    """

    def __init__(self, address: str):
        import fsspec

        self.address = address
        try:
            self._files, root = fsspec.core.url_to_fs(address)
        except (ValueError, ImportError, OSError) as error:
            raise DatasetError(
                f"expected an address that fsspec knows, got {error} for {address!r}: install what it names, or use a folder"
            ) from error
        self._root = root.rstrip("/")

    def sizes(self) -> dict[str, int]:
        """Name -> size in bytes of every file in the folder and below it."""
        try:
            self._files.invalidate_cache()
            found: Any = self._files.find(self._root, detail=True)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise _reading_failed(self.address, "", error) from error
        return {name.removeprefix(self._root).lstrip("/"): int(info["size"] or 0) for name, info in found.items()}

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        try:
            return bytes(self._files.cat_file(f"{self._root}/{name}"))
        except OSError as error:
            raise _reading_failed(self.address, name, error) from error

    def write(self, name: str, data: bytes) -> None:
        """Uploads a file."""
        path = f"{self._root}/{name}"
        try:
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(path, data)
        except OSError as error:
            raise _writing_failed(self.address, name, error) from error

    def remove(self, name: str) -> None:
        """Removes a file; nothing happens where there is none."""
        with suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{name}")


def open_storage(out: str | os.PathLike[str]) -> LocalStorage | RemoteStorage:
    """The folder or address where a dataset lies; nothing is made yet.

    Args:
        out: A folder, or an address with "://" that fsspec knows.

    Raises:
        DatasetError: `out` is no path, is a file, or is an address that fsspec does not know.

    Example:
        >>> import tempfile
        >>> storage = open_storage(tempfile.mkdtemp())
        >>> storage.write("data/a.bin", b"12")
        >>> storage.sizes(), storage.read("data/a.bin")
        ({'data/a.bin': 2}, b'12')
    """
    check_path(out, name="the dataset's place", error=DatasetError)
    address = os.fspath(out)
    if "://" in address and not address.startswith("file://"):
        return RemoteStorage(address)
    folder = Path(address.removeprefix("file://")).expanduser()
    if os.path.lexists(folder) and not folder.is_dir():
        raise DatasetError(f"expected a folder for a token dataset, got the file {str(folder)!r}: name another place")
    return LocalStorage(folder)


def is_leftover(name: str) -> bool:
    """Whether a file is what a killed process leaves of a file that it was writing."""
    base = name.rpartition("/")[2]
    return base.startswith(".") and base.endswith(PART_SUFFIX)


def _reading_failed(address: str, name: str, error: OSError) -> DatasetError:
    return DatasetError(f"expected to read {name or 'the files'} in {address!r}, got {error}: check that it is there")


def _writing_failed(address: str, name: str, error: OSError) -> DatasetError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    fix = "free some space" if full else "make the place writable"
    return DatasetError(
        f"expected to write {name} in {address!r}, got {error}: {fix} and repeat the same call, which goes on from the shards "
        "that are whole"
    )
