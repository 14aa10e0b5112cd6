"""Labelled sets on disk, read as their protocol says: `open_segmentation_set`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pyramid_tokenizer.checks.arguments import check_kind, check_path
from pyramid_tokenizer.errors import ConfigError, DataError
from pyramid_tokenizer.images.labelled.class_names import BACKGROUND_NAME, read_class_names, split_name
from pyramid_tokenizer.images.labelled.labels import IGNORED
from pyramid_tokenizer.images.labelled.layouts import FilePair, LabelFiles, Layout, find_pairs
from pyramid_tokenizer.images.labelled.protocols import SegmentationProtocol, find_protocol
from pyramid_tokenizer.images.read import ImageLike

_NOT_ALLOWED = -2  # marks values that must not be in a file
_NUM_VALUES = 65536
# 8-bit grey or palette indices, 1-bit, and Pillow's several 16- and 32-bit modes.
_LABEL_MODES = frozenset({"L", "P", "1", "I", "I;16", "I;16L", "I;16B", "I;16N"})


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sample:
    """An image and its labels."""

    image: ImageLike
    """A file's path in a `SegmentationSet`; anything else that `read_image` takes."""
    labels: Tensor
    """(H, W) int64 on the CPU: a class from 0 to N - 1, or `IGNORED`."""
    name: str
    """Name of the image, for messages and reports."""


class SegmentationSet:
    """The samples of a labelled set, each read from disk when it is asked for; `open_segmentation_set` makes one.

    Args:
        files: Paths of image and labels of each sample.
        protocol: How the set is measured, with its class names.
        label_files: How the labels are stored; None takes the protocol's own values.

    Raises:
        ConfigError: The protocol has no class names, another number of them than of classes, or ignores the value of a class.
    """

    def __init__(
        self, files: Sequence[FilePair], protocol: SegmentationProtocol, *, label_files: LabelFiles | None = None
    ):
        if not protocol.names or len(protocol.names) != (protocol.num_classes or len(protocol.names)):
            expected = f"{protocol.num_classes or 'one or more'} class names for {protocol.name!r}"
            raise ConfigError(
                f"expected {expected}, got {len(protocol.names)}: use open_segmentation_set, it reads them"
            )
        self.files, self.protocol = tuple(files), protocol
        own = None if label_files is None else label_files.label_map
        extra = () if label_files is None else label_files.ignore_ids
        label_map = protocol.label_map if own is None else own
        self._table = _label_table(label_map, len(protocol.names), (*protocol.ignore_ids, *extra))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, synonyms written "a|b|c"."""
        return self.protocol.names

    @property
    def num_classes(self) -> int:
        """Number of classes N."""
        return len(self.protocol.names)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        """The sample of that number. Its labels are read now; its image is a path.

        Args:
            index: Number from 0, or negative from the end.

        Raises:
            DataError: The label file cannot be read, or holds values that are no class of the protocol.
        """
        pair = self.files[index]
        values = read_label_values(pair.labels)
        labels = self._table[values]
        if (labels == _NOT_ALLOWED).any():
            wrong = sorted({int(value) for value in np.unique(values) if self._table[value] == _NOT_ALLOWED})
            got = ", ".join(str(value) for value in wrong[:5]) + (", ..." if len(wrong) > 5 else "")
            fix = f"check that the files are those of {self.protocol.name!r}, and its class list"
            raise DataError(
                f"expected label values of {self.num_classes} classes, got {got} in {str(pair.labels)!r}: {fix}"
            )
        return Sample(image=pair.image, labels=torch.from_numpy(labels), name=pair.key)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"SegmentationSet({self.protocol.name}, {len(self)} images, {self.num_classes} classes)"


def open_segmentation_set(
    root: str | Path,
    protocol: str | SegmentationProtocol = "folder",
    *,
    split: str | None = None,
    classes: str | Path | Sequence[str] | None = None,
) -> SegmentationSet:
    r"""The samples of a split of a labelled set; its files are found, and no image is read yet.

    Args:
        root: The set's folder: `ADEChallengeData2016`, `VOCdevkit/VOC2012` and so on, or a folder of your own with `images/`,
            `labels/` and `classes.txt`.
        protocol: A name in `protocols.PROTOCOLS`, or a protocol of your own.
        split: Name of the split, as the set's folders or lists write it, e.g. "validation", "val2017" or "val"; None takes the
            one that papers report, and every label file of a plain folder.
        classes: Class names in place of the set's own, or a file of them that `read_class_names` understands, in the same
            order.

    Raises:
        ConfigError: There is no protocol of that name; the message suggests near ones.
        DataError: Folders or files are missing, or the number of class names is another; the message draws the expected
            layout.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("images", "labels"):
        ...         Path(folder, name).mkdir()
        ...         Image.fromarray(np.array([[0, 1], [255, 1]], dtype=np.uint8)).save(Path(folder, name, "a.png"))
        ...     _ = Path(folder, "classes.txt").write_text("background\nsofa|couch\n")
        ...     samples = open_segmentation_set(folder)
        ...     samples, samples[0].labels.tolist(), samples.protocol.background_class
        (SegmentationSet(folder, 1 images, 2 classes), [[0, 1], [-1, 1]], 0)
    """
    check_path(root, name="root", error=DataError)
    root = Path(root)
    protocol = find_protocol(protocol) if isinstance(protocol, str) else protocol
    check_kind(protocol, SegmentationProtocol, name="protocol", fix='name one, e.g. "folder" or "voc-20"')
    split = protocol.layout.default_split if split is None else split
    label_files, pairs = find_pairs(root, protocol.layout, split)
    names = _names(root, protocol, classes)
    protocol = dataclasses.replace(protocol, names=names, num_classes=len(names))
    if protocol.background == "none" and split_name(names[0])[0].lower() == BACKGROUND_NAME:
        protocol = dataclasses.replace(protocol, background="class", background_class=0)
    return SegmentationSet(pairs, protocol, label_files=label_files)


def read_label_values(path: str | Path) -> NDArray[np.int64]:
    """The values of a label image as they are stored: grey levels, or indices into a palette, never colours.

    Args:
        path: A PNG, TIFF or other image file of one channel with 8 or 16 bits.

    Returns:
        (H, W) int64, from 0 to 65535.

    Raises:
        DataError: There is no such file, it is no image, it has colours, or values need more than 16 bits.
    """
    try:
        with open(path, "rb") as file, Image.open(file) as image:
            mode, values = image.mode, np.asarray(image)
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes make Pillow's readers raise nearly any class
        got = f"{type(error).__name__}: {error}"
        raise DataError(f"expected a label image, got {got} in {str(path)!r}: check or replace the file") from error
    if mode not in _LABEL_MODES:
        fix = "convert its colours to class numbers first"
        raise DataError(f"expected a label image of one channel, got mode {mode} in {str(path)!r}: {fix}")
    values = values.astype(np.int64)
    if values.size and not 0 <= int(values.min()) <= int(values.max()) < _NUM_VALUES:
        got = f"{values.min()} to {values.max()}"
        raise DataError(f"expected label values 0 to 65535, got {got} in {str(path)!r}: write them with 16 bits")
    return values


def _label_table(label_map: Mapping[int, int], num_classes: int, ignore_ids: Sequence[int]) -> NDArray[Any]:
    """(65536,) int64: for each value in a label file its class, `IGNORED`, or `_NOT_ALLOWED` where it must not occur."""
    both = sorted(set(ignore_ids) & set(label_map or range(num_classes)))
    if both:
        fix = "list it once, e.g. ignore_ids=(65535,) for 16-bit labels of more than 255 classes"
        raise ConfigError(f"expected ignored values outside those of the {num_classes} classes, got {both[0]}: {fix}")
    table = np.full(_NUM_VALUES, _NOT_ALLOWED, dtype=np.int64)
    table[:num_classes] = np.arange(num_classes) if not label_map else _NOT_ALLOWED
    for value, index in label_map.items():
        table[value] = index
    table[list(ignore_ids)] = IGNORED
    return table


def _names(root: Path, protocol: SegmentationProtocol, classes: str | Path | Sequence[str] | None) -> tuple[str, ...]:
    if classes is not None and not isinstance(classes, (str, Path)):
        names = tuple(classes)
        if not names or len(names) != (protocol.num_classes or len(names)):
            expected = protocol.num_classes or "one or more"
            raise DataError(f"expected {expected} class names, got {len(names)}: give one for each class, in order")
        return names
    if classes is None and protocol.names:
        return protocol.names
    path = Path(classes) if classes is not None else _class_file(root, protocol.layout)
    return read_class_names(path, num_classes=protocol.num_classes, left_out=protocol.left_out)


def _class_file(root: Path, layout: Layout) -> Path:
    for name in layout.class_files:
        if (root / name).is_file():
            return root / name
    expected = " or ".join(layout.class_files)
    raise DataError(f"expected class names in {expected}, got none in {str(root)!r}: write it, or give classes=a file")
