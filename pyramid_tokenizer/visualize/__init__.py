"""Draws sheets of images with titles and captions, label maps over their photos, and where their tokens are."""

from pyramid_tokenizer.tokens.palette import class_colour
from pyramid_tokenizer.visualize.cells import overlay_tokens
from pyramid_tokenizer.visualize.overlay import overlay
from pyramid_tokenizer.visualize.sheets import contact_sheet

__all__ = ["class_colour", "contact_sheet", "overlay", "overlay_tokens"]
