"""Tokens without any model: the pyramid of ids, its bytes, its integer sequence and its statistics."""

from pyramid_tokenizer.tokens.health import LevelHealth, TokenHealth, measure_health
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.tokens.vocabulary import Vocabulary

__all__ = ["LevelHealth", "TokenHealth", "TokenPyramid", "Vocabulary", "measure_health"]
