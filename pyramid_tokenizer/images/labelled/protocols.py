"""Named protocols of semantic segmentation: which classes, which pixels count, what background is, where the files lie.

The same images are measured in several ways that cannot be compared: VOC alone has three, `voc-20`, `voc-20b`, `voc-21`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from pyramid_tokenizer.errors import ConfigError, did_you_mean
from pyramid_tokenizer.images.labelled.class_names import (
    BACKGROUND_NAME,
    CITYSCAPES_19,
    PASCAL_CONTEXT_59,
    VOC_20,
    split_name,
)
from pyramid_tokenizer.images.labelled.layouts import ANY_FORMAT, LabelFiles, Layout

Background = Literal["none", "ignored", "class", "words"]
"""What becomes of pixels that belong to none of the classes. "none": there are none, and unlabelled pixels do not count.
"ignored": they do not count. "class": they are a class, which a method finds by a threshold or a word. "words": they are a
class with its own words for whatever else there is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentationProtocol:
    """How a set of labelled images is measured; data only.

    Example:
        >>> voc = find_protocol("voc-20b")
        >>> voc.num_classes, voc.display_names[-1], voc.names[-1][:20]
        (21, 'background', 'bag|bed|bedclothes|b')
    """

    name: str
    """Short name, e.g. "voc-20"."""
    num_classes: int | None
    """Number of classes N; None where the file of class names decides."""
    names: tuple[str, ...] = ()
    """Names of the classes, synonyms written "a|b|c"; empty until the set's file of class names is read."""
    label_map: Mapping[int, int] = field(default_factory=dict)
    """From a value in the label files to its class; empty where the value is the class."""
    ignore_ids: tuple[int, ...] = ()
    """Values in the label files that do not count."""
    background: Background = "none"
    """What becomes of pixels that belong to none of the classes."""
    background_class: int | None = None
    """The class that stands for these pixels, where there is one; pass it to `evaluate_segmentation` as `none_class`."""
    description: str
    """One sentence for users."""
    source: str
    """Paper or repository that defines the protocol."""
    layout: Layout
    """Where the set's files lie."""
    left_out: tuple[int, ...] = (0,)
    """Numbers that are no classes, in a file of lines "12: name"."""

    @property
    def display_names(self) -> tuple[str, ...]:
        """A short name for each class: its first synonym, or "background"."""
        return tuple(
            BACKGROUND_NAME if index == self.background_class else split_name(name)[0]
            for index, name in enumerate(self.names)
        )


def find_protocol(name: str) -> SegmentationProtocol:
    """The protocol of that name.

    Args:
        name: A key of `PROTOCOLS`.

    Raises:
        ConfigError: There is none of that name; the message suggests near ones.

    Example:
        >>> find_protocol("voc20")
        Traceback (most recent call last):
        pyramid_tokenizer.errors.ConfigError: expected a protocol of ..., got 'voc20': did you mean 'voc-20' ...
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    fix = did_you_mean(name, PROTOCOLS, otherwise="use 'folder' for a set of your own")
    raise ConfigError(f"expected a protocol of {', '.join(PROTOCOLS)}, got {name!r}: {fix}")


def _from_one(count: int) -> dict[int, int]:
    return {value: value - 1 for value in range(1, count + 1)}


_VOC_LAYOUT = Layout(
    image_folder="JPEGImages",
    label_files=(
        LabelFiles(folder="SegmentationClass", suffix=".png"),
        LabelFiles(folder="SegmentationClassAug", suffix=".png"),
    ),
    split_file="ImageSets/Segmentation/{split}.txt",
    default_split="val",
)
# Only the label files say which of JPEGImages belong to a split.
_CONTEXT_FOLDER = "annotations_detectron2/pc{classes}_{{split}}"
# The label ids of Cityscapes that are measured, in the order of their train ids.
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_CITYSCAPES_MAP = {value: index for index, value in enumerate(_CITYSCAPES_IDS)}
_CITYSCAPES_IGNORED = tuple(value for value in range(34) if value not in _CITYSCAPES_IDS)

_ALL = (
    SegmentationProtocol(
        name="ade20k-150",
        num_classes=150,
        label_map=_from_one(150),
        ignore_ids=(0,),
        description="ADE20K's 150 classes on its 2,000 validation images; 0 in the files is unlabelled.",
        source="MIT Scene Parsing Benchmark, ADEChallengeData2016 (sceneparsing.csail.mit.edu)",
        layout=Layout(
            image_folder="images/{split}",
            label_files=(LabelFiles(folder="annotations/{split}", suffix=".png"),),
            default_split="validation",
            class_files=("objectInfo150.txt", "classes.txt"),
        ),
    ),
    SegmentationProtocol(
        name="ade20k-847",
        num_classes=847,
        ignore_ids=(65535,),
        description="ADE20K's full 847 classes, 16-bit labels; 255 is a class here.",
        source="MaskFormer's prepared ADE20K_2021_17_01 (github.com/facebookresearch/MaskFormer)",
        layout=Layout(
            image_folder="images_detectron2/{split}",
            label_files=(LabelFiles(folder="annotations_detectron2/{split}", suffix=".tif"),),
            default_split="validation",
            class_files=("classes.txt", "ade847.json"),
        ),
    ),
    SegmentationProtocol(
        name="pascal-context-59",
        num_classes=59,
        names=PASCAL_CONTEXT_59,
        ignore_ids=(255,),
        background="ignored",
        description="PASCAL-Context's 59 frequent classes on 5,105 images; all else is ignored.",
        source="SAN's and CAT-Seg's prepared VOC2010 (github.com/cvlab-kaist/CAT-Seg, datasets/README.md)",
        layout=Layout(
            image_folder="JPEGImages",
            label_files=(LabelFiles(folder=_CONTEXT_FOLDER.format(classes=59), suffix=".png"),),
            default_split="val",
        ),
    ),
    SegmentationProtocol(
        name="pascal-context-459",
        num_classes=459,
        ignore_ids=(459, 65535),  # 459 in the repositories' registries; 65535 is an unlabelled 0 minus 1 in 16 bits
        description="PASCAL-Context's full 459 classes, 16-bit labels; 255 is a class here.",
        source="SAN's and CAT-Seg's prepared VOC2010 (github.com/cvlab-kaist/CAT-Seg, datasets/README.md)",
        layout=Layout(
            image_folder="JPEGImages",
            label_files=tuple(
                LabelFiles(folder=_CONTEXT_FOLDER.format(classes=459), suffix=suffix) for suffix in (".tif", ".png")
            ),
            default_split="val",
            class_files=("classes.txt", "labels.txt", "pc459.json"),
        ),
    ),
    SegmentationProtocol(
        name="voc-20",
        num_classes=20,
        names=VOC_20,
        label_map=_from_one(20),
        ignore_ids=(0, 255),
        background="ignored",
        description="VOC 2012's 20 classes; background pixels are ignored, which makes it the easiest of the three.",
        source="SAN, CAT-Seg PAS-20 (github.com/cvlab-kaist/CAT-Seg, datasets/prepare_voc.py)",
        layout=_VOC_LAYOUT,
    ),
    SegmentationProtocol(
        name="voc-20b",
        num_classes=21,
        names=(*VOC_20, "|".join(name for name in PASCAL_CONTEXT_59 if name not in VOC_20)),
        label_map={0: 20, **_from_one(20)},
        ignore_ids=(255,),
        background="words",
        background_class=20,
        description="VOC 2012's 20 classes, and background as any of the 39 other words of PASCAL-Context-59.",
        source="OpenSeg, CAT-Seg PAS-20b (github.com/cvlab-kaist/CAT-Seg, datasets/voc20b.json)",
        layout=_VOC_LAYOUT,
    ),
    SegmentationProtocol(
        name="voc-21",
        num_classes=21,
        names=(BACKGROUND_NAME, *VOC_20),
        ignore_ids=(255,),
        background="class",
        background_class=0,
        description="VOC 2012's 20 classes and background as a class, found by a threshold or by words.",
        source="M. Everingham et al., PASCAL VOC 2012 devkit; mmsegmentation PascalVOCDataset",
        layout=_VOC_LAYOUT,
    ),
    SegmentationProtocol(
        name="coco-stuff-171",
        num_classes=171,
        ignore_ids=(255,),
        description="COCO's 80 things and 91 stuff classes on val2017, as train ids.",
        source="H. Caesar et al., COCO-Stuff (2018), ids as in mmsegmentation's and CAT-Seg's prepare scripts",
        layout=Layout(
            image_folder="images/{split}",
            label_files=(
                LabelFiles(folder="annotations/{split}", suffix="_labelTrainIds.png"),
                LabelFiles(folder="annotations_detectron2/{split}", suffix=".png"),
            ),
            default_split="val2017",
            class_files=("classes.txt", "labels.txt", "coco.json"),
        ),
        # Of the 182 numbered names of COCO-Stuff's labels.txt, these were never annotated.
        left_out=(0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91),
    ),
    SegmentationProtocol(
        name="cityscapes-19",
        num_classes=19,
        names=CITYSCAPES_19,
        ignore_ids=(255,),
        background="ignored",
        description="Cityscapes' 19 classes on its 500 validation frames; the other ids are ignored.",
        source="M. Cordts et al., Cityscapes (2016), cityscapesScripts labels.py",
        layout=Layout(
            image_folder="leftImg8bit/{split}",
            image_suffixes=("_leftImg8bit.png",),
            label_files=(
                LabelFiles(folder="gtFine/{split}", suffix="_gtFine_labelTrainIds.png"),
                LabelFiles(
                    folder="gtFine/{split}",
                    suffix="_gtFine_labelIds.png",
                    label_map=_CITYSCAPES_MAP,
                    ignore_ids=_CITYSCAPES_IGNORED,
                ),
            ),
            default_split="val",
        ),
    ),
    SegmentationProtocol(
        name="folder",
        num_classes=None,
        ignore_ids=(255,),
        description="Images, labels whose value is the line in classes.txt (from 0), and lists of names.",
        source="this package",
        layout=Layout(
            image_folder="images",
            image_suffixes=(ANY_FORMAT,),
            label_files=(LabelFiles(folder="labels", suffix=ANY_FORMAT),),
            split_file="splits/{split}.txt",
            class_files=("classes.txt",),
        ),
        left_out=(),
    ),
)

PROTOCOLS: Mapping[str, SegmentationProtocol] = MappingProxyType({protocol.name: protocol for protocol in _ALL})
"""Every named protocol."""
