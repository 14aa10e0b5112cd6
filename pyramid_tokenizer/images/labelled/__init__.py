"""Images with labels: how segmentation sets lie on disk, the names of their classes, and crops for training."""

from pyramid_tokenizer.images.labelled.class_names import distinct_names, read_class_names
from pyramid_tokenizer.images.labelled.crops import LabelledBatch, LabelledCrops
from pyramid_tokenizer.images.labelled.labels import IGNORED, NO_CLASS
from pyramid_tokenizer.images.labelled.protocols import PROTOCOLS, SegmentationProtocol, find_protocol
from pyramid_tokenizer.images.labelled.sets import Sample, SegmentationSet, open_segmentation_set

__all__ = [
    "IGNORED",
    "NO_CLASS",
    "PROTOCOLS",
    "LabelledBatch",
    "LabelledCrops",
    "Sample",
    "SegmentationProtocol",
    "SegmentationSet",
    "distinct_names",
    "find_protocol",
    "open_segmentation_set",
    "read_class_names",
]
