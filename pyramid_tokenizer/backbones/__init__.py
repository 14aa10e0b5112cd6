"""Frozen CLIP backbones: an image batch in, a `FeaturePyramid` out. Nothing here imports open_clip before it is needed."""

from pyramid_tokenizer.backbones.base import Backbone, load_backbone
from pyramid_tokenizer.backbones.describe import BackboneDescription, describe_backbone
from pyramid_tokenizer.backbones.loading import name_backbone
from pyramid_tokenizer.backbones.open_clip import OpenClipBackbone
from pyramid_tokenizer.backbones.toy import ToyBackbone

__all__ = [
    "Backbone",
    "BackboneDescription",
    "OpenClipBackbone",
    "ToyBackbone",
    "describe_backbone",
    "load_backbone",
    "name_backbone",
]
