"""One writer at a time: locks that a crash does not leave behind.

On a local folder the lock is the operating system's: it ends with the process that holds it, whatever ends the process. On
other addresses there is no such lock. A writer there keeps changing a small file, and one that does not change any more
belongs to a writer that is gone. Between two writers that start within the same second this is no guarantee; both would then
write the same bytes, because a dataset's plan decides them.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pyramid_tokenizer.datasets.storage import LocalStorage, RemoteStorage
from pyramid_tokenizer.errors import DatasetError, DatasetInUseError

LOCK_NAME = ".lock"
BEAT_SECONDS = 10.0
"""A remote writer changes its file this often; others watch it for three times as long before they take the place over."""


@contextmanager
def only_writer(storage: LocalStorage | RemoteStorage, *, beat_seconds: float = BEAT_SECONDS) -> Iterator[None]:
    """While it is entered, no other process writes the dataset.

    Args:
        storage: Where the dataset lies.
        beat_seconds: For remote places: how often the lock's file is changed.

    Raises:
        DatasetInUseError: Another process is writing it.
    """
    if isinstance(storage, LocalStorage):
        with _local(storage):
            yield
    else:
        with _remote(storage, beat_seconds):
            yield


@contextmanager
def _local(storage: LocalStorage) -> Iterator[None]:
    from filelock import FileLock, Timeout

    try:
        storage.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(storage.folder / LOCK_NAME, timeout=0)
        lock.acquire()
    except Timeout:
        raise _in_use(storage.address) from None
    except OSError as error:
        raise DatasetError(
            f"expected to write in {storage.address!r}, got {error}: make the folder writable, or name another"
        ) from error
    try:
        yield
    finally:
        lock.release()  # the empty file stays: removing it would let two others hold an old and a new one


@contextmanager
def _remote(storage: RemoteStorage, beat_seconds: float) -> Iterator[None]:
    ended, own = threading.Event(), secrets.token_hex(8)
    found = _content(storage)
    if found is not None:
        ended.wait(3 * beat_seconds)
        if _content(storage) not in (None, found):
            raise _in_use(storage.address)

    def beat() -> None:
        number = 0
        while not ended.wait(beat_seconds):
            number += 1
            with suppress(DatasetError):  # what is written beside it meets the same error, and tells it
                storage.write(LOCK_NAME, f"{own} {number}".encode())

    storage.write(LOCK_NAME, own.encode())
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        storage.remove(LOCK_NAME)


def _content(storage: RemoteStorage) -> bytes | None:
    try:
        return storage.read(LOCK_NAME)
    except DatasetError:
        return None


def _in_use(address: str) -> DatasetInUseError:
    return DatasetInUseError(
        f"expected to be the only writer of {address!r}, got another process that writes it: wait for it, or stop it"
    )
