"""Configuration: data only, frozen, checked where it is made. `PyramidTokenizer.from_config` turns it into modules."""

from pyramid_tokenizer.config.budget import BUDGET_LIMITS, Budget
from pyramid_tokenizer.config.models import (
    FORMAT_VERSION,
    BackboneConfig,
    Composition,
    DecoderConfig,
    LevelConfig,
    QuantizerConfig,
    SegmentationConfig,
    TokenizerConfig,
)
from pyramid_tokenizer.config.plain import from_dict, to_dict

__all__ = [
    "BUDGET_LIMITS",
    "FORMAT_VERSION",
    "BackboneConfig",
    "Budget",
    "Composition",
    "DecoderConfig",
    "LevelConfig",
    "QuantizerConfig",
    "SegmentationConfig",
    "TokenizerConfig",
    "from_dict",
    "to_dict",
]
