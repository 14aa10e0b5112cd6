"""Words to masks, from tokens: look-up, or refined by a head on the shared trunk."""

from pyramid_tokenizer.segmentation.head import SegmentationHead, build_head
from pyramid_tokenizer.segmentation.segmenter import Guidance, SegmentationMap, Segmenter

__all__ = ["Guidance", "SegmentationHead", "SegmentationMap", "Segmenter", "build_head"]
