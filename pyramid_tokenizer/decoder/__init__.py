"""Codes to pixels: the trunk fuses them coarse to fine, the pixel decoder corrects what they decode to by themselves."""

from pyramid_tokenizer.decoder.blocks import ResidualBlock
from pyramid_tokenizer.decoder.explain import explain_maps, explain_pixels
from pyramid_tokenizer.decoder.pixels import PixelDecoder
from pyramid_tokenizer.decoder.trunk import TopDownTrunk

__all__ = ["PixelDecoder", "ResidualBlock", "TopDownTrunk", "explain_maps", "explain_pixels"]
