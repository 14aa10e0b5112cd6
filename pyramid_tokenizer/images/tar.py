"""Images in tar shards of WebDataset's layout, read by number.

Members that follow each other and share their path up to the first dot of the file's name are one sample; what comes after
that dot names the field: `train/0001.jpg` and `train/0001.json` are the fields `jpg` and `json` of sample `train/0001`.
The `webdataset` package streams such shards in order; training needs random access, so the place of each image is noted
when the shard is opened (about 45,000 members a second) and its bytes are read from there.

Source: WebDataset, https://github.com/webdataset/webdataset, `tariterators.py`.
"""

from __future__ import annotations

import re
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from torch import Tensor

from pyramid_tokenizer.errors import DataError
from pyramid_tokenizer.images.columns import TextColumns, check_names
from pyramid_tokenizer.images.files import FORMATS_IN_WORDS
from pyramid_tokenizer.images.folders import image_suffixes
from pyramid_tokenizer.images.packed import PackedStrings, read_encoded, read_span

# key and field, as webdataset splits a member's name; hidden files such as macOS's ._0001.jpg do not match
_MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")
# webdataset's own metadata
_META = re.compile(r"__[^/]*__($|/)")


class TarImages:
    """The images of tar shards by number; an `ImageSource`.

    Of a sample's fields, the one whose whole name is the suffix of an image format is read (`jpg`, not `seg.png`); where there
    is no such field, the one that ends with such a suffix. Samples without an image are left out.

    Args:
        files: Uncompressed tar files.
        column: Name of the field to read instead, e.g. "seg.png".

    Raises:
        DataError: A shard is missing, damaged or compressed, a sample has several images, or no sample has one.
    """

    def __init__(self, files: Sequence[Path], *, column: str | None = None):
        self._files, self._column = [str(file) for file in files], column
        spans, members = array("q"), []
        for number, file in enumerate(files):
            for member, _ in _images(file, column):
                spans.extend((number, member.offset_data, member.size))
                members.append(member.name)
        if not members:
            wanted = f"members *.{column}" if column else f"images ({FORMATS_IN_WORDS})"
            raise DataError(f"expected {wanted} in {len(files)} tar files, the first {self._files[0]}, got none")
        self._spans = np.frombuffer(spans, dtype=np.int64).reshape(-1, 3)  # shard, offset, bytes
        self._members = PackedStrings(members)

    def __len__(self) -> int:
        return len(self._members)

    def name(self, index: int) -> str:
        """The paths of the shard and of the member in it: "shards/000.tar:train/0001.jpg"."""
        return f"{self._files[self._spans[index, 0]]}:{self._members[index]}"

    def read(self, index: int) -> Tensor:
        """(3, H, W) float32 in [0, 1].

        Raises:
            ImageError: The image cannot be read.
        """
        return self.read_resized(index, size=None, jpeg_draft=False)

    def read_resized(self, index: int, *, size: int | None, jpeg_draft: bool) -> Tensor:
        """As `read`, with the short side of `size` pixels; see `images.sources.read_resized`."""
        shard, offset, length = self._spans[index].tolist()
        return read_encoded(read_span(self._files[shard], offset, length), size=size, jpeg_draft=jpeg_draft)

    def own_columns(self, names: Sequence[str]) -> TextColumns:
        """The texts of other members of the samples, by their endings; see `images.columns`. Reads all shards' headers again."""
        spans = {name: array("q") for name in names}
        known: set[str] = set()
        for number, file in enumerate(self._files):
            for _, fields in _images(Path(file), self._column):
                known.update(fields)
                for name, found in spans.items():
                    member = fields.get(name)
                    found.extend((number, member.offset_data, member.size) if member else (number, -1, 0))
        check_names(names, sorted(known), self._files[0])
        return TextColumns(
            self._files, {name: np.frombuffer(x, dtype=np.int64).reshape(-1, 3) for name, x in spans.items()}
        )


def _images(file: Path, column: str | None) -> Iterator[tuple[tarfile.TarInfo, dict[str, tarfile.TarInfo]]]:
    """The member of each sample that holds its image, and all members of the sample by their endings."""
    suffixes = image_suffixes()
    named = ((match, member) for member in _members(file) if (match := _MEMBER.fullmatch(member.name)))
    for key, sample in groupby(named, key=lambda pair: pair[0][1]):
        fields = [(match[2].lower(), member) for match, member in sample]
        every = dict(fields)
        if column is None:
            fields = [pair for pair in fields if "." + pair[0].rpartition(".")[2] in suffixes]
            fields = [pair for pair in fields if "." not in pair[0]] or fields
        else:
            fields = [pair for pair in fields if pair[0] == column.lower().lstrip(".")]
        if len(fields) > 1:
            names = ", ".join(name for name, _ in fields)
            raise DataError(
                f"expected one image in each sample, got {names} in sample {key!r} of {file}: name the field to read as "
                "column, or rename the files, for a name ends at its first dot"
            )
        yield from ((member, every) for _, member in fields)


def _members(file: Path) -> Iterator[tarfile.TarInfo]:
    """The regular files of a tar file, in order."""
    try:
        with open(file, "rb") as raw, tarfile.open(fileobj=raw, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps all it has seen
                if member.isreg() and not _META.match(member.name):
                    yield member
            # tarfile takes a damaged header for the archive's end, which is a block of zeros
            raw.seek(tar.offset)
            if raw.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"damaged at byte {tar.offset}")
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"expected an uncompressed, complete tar file, got {error} in {str(file)!r}: unpack or replace it"
        ) from error
