"""Draws sheets, masks over photos, and tokens: their maps, their places, what they add, and the codebooks they point into."""

from pyramid_tokenizer.tokens.palette import class_colour, code_colours
from pyramid_tokenizer.visualize.atlas_page import write_atlas
from pyramid_tokenizer.visualize.cells import overlay_tokens
from pyramid_tokenizer.visualize.contributions import Contribution, contribution, contribution_sheet
from pyramid_tokenizer.visualize.maps import map_sheet, token_maps
from pyramid_tokenizer.visualize.overlay import overlay
from pyramid_tokenizer.visualize.prefixes import prefix_strip
from pyramid_tokenizer.visualize.sheets import contact_sheet
from pyramid_tokenizer.visualize.words import NearestWords, common_words

__all__ = [
    "Contribution",
    "NearestWords",
    "class_colour",
    "code_colours",
    "common_words",
    "contact_sheet",
    "contribution",
    "contribution_sheet",
    "map_sheet",
    "overlay",
    "overlay_tokens",
    "prefix_strip",
    "token_maps",
    "write_atlas",
]
