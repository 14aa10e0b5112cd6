"""One interface over every place that images come from, and `open_images`, which knows them all."""

from __future__ import annotations

import os
import re
import sys
from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pyramid_tokenizer.errors import DataError
from pyramid_tokenizer.images.files import FORMATS_IN_WORDS, FileImages, ListedImages, expand_pattern, read_list
from pyramid_tokenizer.images.folders import image_suffixes, list_folder, log_listing
from pyramid_tokenizer.images.hugging_face import DatasetImages, load_hub_dataset, one_split, open_saved_dataset
from pyramid_tokenizer.images.read import ImageLike, read_image
from pyramid_tokenizer.images.tables import ParquetImages
from pyramid_tokenizer.images.tar import TarImages

HUB_PREFIX = "hf-dataset:"
_COMPRESSED = re.compile(r".+\.(tar\.\w+|tgz|tbz2?|txz)", re.IGNORECASE)
_ACCEPTED = (
    "a folder, a .txt list, .tar shards, .parquet files, a pattern of such files, a saved Hugging Face data set, "
    f"{HUB_PREFIX}NAME:SPLIT, a datasets.Dataset, or a list of images"
)


@runtime_checkable
class ImageSource(Protocol):
    """Images by number, from 0 to len - 1.

    A source is pickled into DataLoader workers and read by several processes at once. A damaged image is an error only when
    it is read, so that one damaged file does not end a training.
    """

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """The image's name in logs, which says where it lies."""
        ...

    def read(self, index: int) -> Tensor:
        """(3, H, W) float32 in [0, 1], RGB, at its own size.

        Raises:
            ImageError: The image cannot be read.
        """
        ...


@runtime_checkable
class ResizingSource(ImageSource, Protocol):
    """A source that reads an image at another size in less time and memory than `read` and a resize need."""

    def read_resized(self, index: int, *, size: int | None, jpeg_draft: bool) -> Tensor:
        """The same pixels as `images.sources.read_resized` gives."""
        ...


def read_resized(source: ImageSource, index: int, *, size: int | None = None, jpeg_draft: bool = False) -> Tensor:
    """One image of a source, with its short side resized: (3, H, W) float32 in [0, 1].

    Args:
        source: Any source.
        index: Number of the image.
        size: Length of the short side in pixels, see `images.read_image`; None keeps the native size.
        jpeg_draft: With `size`, decode a JPEG at a half, a quarter or an eighth of its size where that is still at least twice
            `size` (`images.draft`). It is several times as fast for large photos and changes the pixels slightly. Sources of
            your own, and lists of images in memory, hand over decoded pixels: there it changes nothing.

    Raises:
        ImageError: The image cannot be read.

    Example:
        >>> from PIL import Image
        >>> read_resized(open_images([Image.new("RGB", (40, 30))]), 0, size=15).shape
        torch.Size([3, 15, 20])
    """
    if isinstance(source, ResizingSource):
        return source.read_resized(index, size=size, jpeg_draft=jpeg_draft)
    return read_image(source.read(index), size=size)


Source: TypeAlias = "ImageSource | str | os.PathLike[str] | Sequence[ImageLike] | Tensor | NDArray[Any] | Any"
"""What `open_images` takes; the last is a `datasets.Dataset`."""


def open_images(source: Source, *, column: str | None = None) -> ImageSource:
    """The images of a source, by number.

    A folder, pattern or list must hold one kind of files: images, tar shards or Parquet files. Several kinds together, as in
    a folder of photos with the archive that they came from, are an error; a pattern then says which are meant.

    Args:
        source: One of
            a folder: all image files below it, see `images.folders`, or all .tar or .parquet files, or what `datasets` saved;
            a .txt list of paths, one a line;
            a .tar file in WebDataset's layout, see `images.tar`; a .parquet file, see `images.tables`;
            a pattern, "photos/**/*.jpg" or "shards/{000..009}.tar";
            "hf-dataset:NAME" or "hf-dataset:NAME:SPLIT", for `datasets.load_dataset`;
            a `datasets.Dataset`;
            a list of images, paths among them, or a batch (N, 3, H, W), see `images.ImageLike`;
            an `ImageSource`, which is returned as it is.
        column: Name of the column of a table, or of the field of a shard, that holds the images; None finds it.

    Raises:
        DataError: Nothing of that name exists, it holds no image or several kinds of files, a shard or table is damaged, or
            `column` is given where there are no columns.
        MissingExtraError: pyarrow or `datasets` is needed and not installed.

    Example:
        >>> from PIL import Image
        >>> images = open_images([Image.new("RGB", (40, 30)), "photos/cat.jpg"])
        >>> len(images), images.name(1), images.read(0).shape
        (2, 'photos/cat.jpg', torch.Size([3, 30, 40]))
    """
    if isinstance(source, ImageSource):
        _refuse_column(column, type(source).__name__)
        return source
    datasets = sys.modules.get("datasets")  # whoever holds a Dataset has imported it
    if datasets is not None and isinstance(source, (datasets.Dataset, datasets.DatasetDict)):
        return DatasetImages(one_split(source, 'pass one of them, e.g. dataset["train"]'), column=column)
    if isinstance(source, (str, os.PathLike)):
        return _open_path(os.fspath(source), column)
    if isinstance(source, (Tensor, np.ndarray)) and source.ndim == 4:
        _refuse_column(column, "a batch of images")
        return ListedImages(source)  # type: ignore[arg-type]
    if isinstance(source, Sequence) and not isinstance(source, (bytes, bytearray)):
        return _open_list(source, column)
    raise DataError(f"expected {_ACCEPTED}, got {type(source).__name__}: pass one of these")


def _open_list(items: Sequence[Any], column: str | None) -> ImageSource:
    if not items:
        raise DataError("expected at least one image, got an empty list: check where it was made")
    if all(isinstance(item, (str, os.PathLike)) for item in items):
        return _open_files(_by_kind(map(Path, items), others="image"), f"a list of {len(items)}", column)
    _refuse_column(column, "a list of images")
    return ListedImages(items)


def _open_path(source: str, column: str | None) -> ImageSource:
    if source.startswith(HUB_PREFIX):
        return load_hub_dataset(source.removeprefix(HUB_PREFIX), column=column)
    path = Path(source).expanduser()
    if os.path.isdir(path):  # unlike Path.is_dir, it takes names that are too long
        if any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
            return open_saved_dataset(path, column=column)
        suffixes = image_suffixes()
        listing = list_folder(path, lambda name: _kind(name, suffixes) is not None)
        log_listing(path, listing)
        return _open_files(_by_kind(listing.files), repr(source), column, folder=path)
    if not os.path.isfile(path):  # first, for a real name may hold [ or {
        if not re.search(r"[*?\[{]", source):
            raise DataError(f"expected {_ACCEPTED}, got {source!r}: nothing of that name exists")
        return _open_files(_by_kind(expand_pattern(source)), repr(source), column)
    if path.suffix.lower() == ".txt":
        return _open_files(_by_kind(read_list(path), others="image"), repr(source), column)
    found = _by_kind([path])
    if not found or found["image"]:
        raise DataError(f"expected {_ACCEPTED}, got the file {source!r}: name its folder, or pass a list, [{source!r}]")
    return _open_files(found, repr(source), column)


def _by_kind(paths: Iterable[Path], others: str | None = None) -> dict[str, list[Path]]:
    """The paths grouped as "image", "tar", "parquet" and "compressed"; other names count as `others`, None drops them."""
    suffixes = image_suffixes()
    found: dict[str, list[Path]] = defaultdict(list)
    for path in paths:  # files may be missing: they are skipped and named when they are read
        kind = _kind(path.name, suffixes) or others
        if kind is not None:
            found[kind].append(path)
    return found


def _kind(name: str, suffixes: Container[str]) -> str | None:
    suffix = os.path.splitext(name)[1].lower()
    if _COMPRESSED.fullmatch(name):
        return "compressed"
    return {".tar": "tar", ".parquet": "parquet"}.get(suffix) or ("image" if suffix in suffixes else None)


def _open_files(
    found: dict[str, list[Path]], where: str, column: str | None, *, folder: Path | None = None
) -> ImageSource:
    kinds = [kind for kind in ("image", "tar", "parquet") if found[kind]]
    if found["compressed"] and kinds != ["image"]:
        raise DataError(
            f"expected tar shards without compression in {where}, got {found['compressed'][0].name}: images are compressed "
            "already, unpack the shard with gunzip or the like, or its files into a folder"
        )
    if len(kinds) > 1:
        counts = ", ".join(f"{len(found[kind])} {kind}" for kind in kinds)
        raise DataError(
            f"expected one kind of files in {where}, got {counts} files: name those you mean by a pattern, e.g. "
            f"{found[kinds[0]][0].parent / '*'}{found[kinds[0]][0].suffix}"
        )
    if not kinds:
        raise DataError(
            f"expected images ({FORMATS_IN_WORDS}), .tar or .parquet files in {where}, got none: check the path"
        )
    if kinds == ["tar"]:
        return TarImages(found["tar"], column=column)
    if kinds == ["parquet"]:
        return ParquetImages(found["parquet"], column=column)
    _refuse_column(column, where)
    return FileImages(found["image"], folder=folder)


def _refuse_column(column: str | None, where: str) -> None:
    if column is not None:
        raise DataError(
            f"expected no column for {where}, got {column!r}: only tables and shards have columns, leave it out"
        )
