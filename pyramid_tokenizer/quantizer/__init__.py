"""Features to ids and back: one codebook per level, and how levels build on each other."""

from pyramid_tokenizer.quantizer.build import build_quantizer
from pyramid_tokenizer.quantizer.level import LevelQuantizer
from pyramid_tokenizer.quantizer.pyramid import PyramidQuantizer
from pyramid_tokenizer.quantizer.recipe import preset_config, preset_decoder, preset_levels

__all__ = [
    "LevelQuantizer",
    "PyramidQuantizer",
    "build_quantizer",
    "preset_config",
    "preset_decoder",
    "preset_levels",
]
