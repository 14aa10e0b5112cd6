"""Images in data sets of Hugging Face's `datasets`: in memory, saved to disk, or found on the Hub by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pyramid_tokenizer.errors import DataError, MissingExtraError
from pyramid_tokenizer.images.columns import DatasetColumns
from pyramid_tokenizer.images.files import FileImages
from pyramid_tokenizer.images.packed import one_line, read_encoded
from pyramid_tokenizer.images.tables import find_column


class DatasetImages:
    """The image column of a Hugging Face data set; an `ImageSource`. Transforms of the data set are not applied.

    Args:
        dataset: A `datasets.Dataset`.
        column: Name of an image column, or of one of image bytes; None finds it, see `find_column`.
        label: Beginning of the images' names.

    Raises:
        DataError: There is no such column, or there are no rows.
        MissingExtraError: `datasets` is not installed.
    """

    def __init__(self, dataset: Any, *, column: str | None = None, label: str = "dataset"):
        datasets = _import_datasets()
        self._column = find_column(dataset.features.arrow_schema, column, label)
        self._label = label
        self._whole = dataset
        dataset = dataset.with_format(None).select_columns([self._column])
        if isinstance(dataset.features[self._column], datasets.Image):
            # bytes or a path instead of a PIL image: read_image names what is wrong, and knows 16 bits and transparency
            dataset = dataset.cast_column(self._column, datasets.Image(decode=False))
        self._dataset = dataset
        if not len(self):
            raise DataError(f"expected rows in {label}, got none: choose another split")

    def __len__(self) -> int:
        return len(self._dataset)

    def name(self, index: int) -> str:
        """The label and the number of the row: "hf-dataset:cats:train:17"."""
        return f"{self._label}:{index}"

    def read(self, index: int) -> Tensor:
        """(3, H, W) float32 in [0, 1].

        Raises:
            ImageError: The row holds no complete image.
        """
        return self.read_resized(index, size=None, jpeg_draft=False)

    def read_resized(self, index: int, *, size: int | None, jpeg_draft: bool) -> Tensor:
        """As `read`, with the short side of `size` pixels; see `images.sources.read_resized`."""
        value = self._dataset[int(index)][self._column]
        if not isinstance(value, dict):
            return read_encoded(value, size=size, jpeg_draft=jpeg_draft)
        if value["bytes"] is None and value.get("path"):
            return FileImages([value["path"]]).read_resized(0, size=size, jpeg_draft=jpeg_draft)
        return read_encoded(value["bytes"], size=size, jpeg_draft=jpeg_draft)

    def own_columns(self, names: Sequence[str]) -> DatasetColumns:
        """Other columns of the data set; see `images.columns`."""
        return DatasetColumns(self._whole, names, self._label)


def open_saved_dataset(folder: Path, *, column: str | None = None) -> DatasetImages:
    """The images of a data set that `datasets.Dataset.save_to_disk` wrote.

    Args:
        folder: Where it was saved.
        column: As `DatasetImages` takes it.

    Raises:
        DataError: The data set cannot be loaded, has several splits, no image column or no row.
        MissingExtraError: `datasets` is not installed.
    """
    datasets = _import_datasets()
    try:
        dataset = datasets.load_from_disk(str(folder))
    except Exception as error:  # damaged files raise nearly any class
        raise DataError(
            f"expected a saved Hugging Face data set, got {one_line(error)} in {str(folder)!r}: save it again"
        ) from error
    return DatasetImages(
        one_split(dataset, f"pass the folder of one split, e.g. {folder}/train"), column=column, label=str(folder)
    )


def load_hub_dataset(name: str, *, column: str | None = None) -> DatasetImages:
    """The images of a data set that `datasets.load_dataset` finds.

    Args:
        name: "NAME" or "NAME:SPLIT", e.g. "user/cats:train[:90%]".
        column: As `DatasetImages` takes it.

    Raises:
        DataError: The data set cannot be loaded, has several splits of which none was named, no image column or no row.
        MissingExtraError: `datasets` is not installed.
    """
    datasets = _import_datasets()
    path, _, split = name.partition(":")
    try:
        dataset = datasets.load_dataset(path, split=split or None)
    except Exception as error:  # unknown names, wrong splits, no network, a full disk: nearly any class
        raise DataError(
            f"expected a data set that datasets.load_dataset finds, got {type(error).__name__}: {one_line(error)} for {name!r}: "
            "check the name and the split, or load it yourself and pass the Dataset"
        ) from error
    return DatasetImages(
        one_split(dataset, f"name it, e.g. hf-dataset:{path}:train"), column=column, label=f"hf-dataset:{name}"
    )


def one_split(dataset: Any, fix: str) -> Any:
    """The data set itself, or the only split of a `DatasetDict`.

    Args:
        dataset: A `datasets.Dataset` or `datasets.DatasetDict`.
        fix: What the error tells the user to do.

    Raises:
        DataError: There are several splits, or none.
    """
    if not isinstance(dataset, dict):
        return dataset
    if len(dataset) != 1:
        raise DataError(f"expected one split, got {', '.join(dataset) or 'none'}: {fix}")
    return next(iter(dataset.values()))


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(
            'expected datasets for Hugging Face data sets, got none: pip install "pyramid-tokenizer[data]"'
        ) from error
    return datasets
