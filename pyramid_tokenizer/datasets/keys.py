"""Keys: the stable name of every image of a source, by which rows, errors and changes of the source are told."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyramid_tokenizer.errors import DataError, DatasetError
from pyramid_tokenizer.images.sources import HUB_PREFIX, ImageSource

GONE = -1
"""In `places`: the image is not in the source any more."""
_NUL = b"\0"
_SHOWN = 3


class Keys(Sequence[str]):
    """The keys of a source's images, by number: their names without the folder that was given.

    A key is what stays when the whole folder moves: "trip/a.jpg" of the folder photos, "000.tar:0001.jpg" of shards,
    "a.parquet:17" of tables. Bytes of file names that are no text become escapes. Nothing is stored, so that keys cost no
    memory.

    Args:
        source: The source.
        given: What `open_images` made it of.

    Example:
        >>> from pyramid_tokenizer.images.files import FileImages
        >>> Keys(FileImages(["photos/trip/a.jpg"]), "photos/*/a.jpg")[0]
        'trip/a.jpg'
    """

    def __init__(self, source: ImageSource, given: object):
        self._source, self._prefix = source, _folder_prefix(given)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # no slices
        name = self._source.name(index).removeprefix(self._prefix)
        name = name.replace(os.sep, "/") if os.sep != "/" else name
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))


def _folder_prefix(given: object) -> str:
    if not isinstance(given, (str, os.PathLike)) or str(given).startswith(HUB_PREFIX):
        return ""
    path = Path(given).expanduser()
    if not os.path.isdir(path):
        match = None if os.path.isfile(path) else re.search(r"[*?\[{]", str(path))
        folder = Path(str(path)[: match.start()] + "x").parent if match else path.parent
    else:
        saved = any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))
        folder = path.parent if saved else path
    return "" if folder == Path() else os.path.join(folder, "")


def digest_of(keys: Sequence[str]) -> str:
    """SHA-256 of all keys in order, each followed by a NUL.

    Raises:
        DataError: Two images have the same key.
    """
    digest, hashes = hashlib.sha256(), np.empty(len(keys), dtype=np.uint64)
    for index, key in enumerate(keys):
        data = key.encode()
        digest.update(data + _NUL)
        hashes[index] = _hash(data)
    order = np.argsort(hashes, kind="stable")
    (equal,) = np.nonzero(hashes[order][1:] == hashes[order][:-1])
    for place in equal:
        first, second = int(order[place]), int(order[place + 1])
        if keys[first] == keys[second]:
            raise DataError(
                f"expected every image once, got {keys[first]!r} as images {first} and {second} of the source: leave one out"
            )
    return digest.hexdigest()


def pack(keys: Sequence[str]) -> bytes:
    """The keys as the bytes of keys.gz, the same whenever they are written."""
    return gzip.compress(b"".join(key.encode() + _NUL for key in keys), compresslevel=1, mtime=0)


def unpack(data: bytes) -> list[str]:
    """The keys that `pack` wrote.

    Raises:
        DatasetError: The bytes are damaged.
    """
    try:
        return [key.decode() for key in gzip.decompress(data).split(_NUL)[:-1]]
    except (OSError, EOFError, ValueError) as error:
        raise DatasetError(f"expected the keys of a run, got {error}: delete the folder and start anew") from error


def places_of(planned: Sequence[str], present: Sequence[str]) -> NDArray[np.int64]:
    """Where the images of a plan are in the source now: their numbers there, or `GONE`.

    Args:
        planned: Keys of the plan.
        present: Keys of the source as it is now.

    Example:
        >>> places_of(["a", "b", "c"], ["b", "new", "a"]).tolist()
        [2, 0, -1]
    """
    known = {key: index for index, key in enumerate(present)}
    return np.array([known.get(key, GONE) for key in planned], dtype=np.int64)


def describe_change(planned: Sequence[str], present: Sequence[str]) -> str:
    """How a source has changed, in words.

    Example:
        >>> describe_change(["a", "b"], ["a", "c", "d"])
        "1 gone ('b'), 2 new ('c', 'd')"
        >>> describe_change(["a", "b"], ["b", "a"])
        'the same images in another order'
    """
    before, now = set(planned), set(present)
    gone, new = [key for key in planned if key not in now], [key for key in present if key not in before]
    parts = [f"{len(keys)} {what} ({_listed(keys)})" for keys, what in ((gone, "gone"), (new, "new")) if keys]
    return ", ".join(parts) or "the same images in another order"


def _listed(keys: Sequence[str]) -> str:
    more = ", ..." if len(keys) > _SHOWN else ""
    return ", ".join(map(repr, keys[:_SHOWN])) + more


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
