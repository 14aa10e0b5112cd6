"""Tokens without any model: the pyramid of ids, its bytes, its integer sequence and its statistics."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyramid_tokenizer.tokens.health import LevelHealth, TokenHealth, measure_health
    from pyramid_tokenizer.tokens.pyramid import TokenPyramid
    from pyramid_tokenizer.tokens.vocabulary import Vocabulary

__all__ = ["LevelHealth", "TokenHealth", "TokenPyramid", "Vocabulary", "measure_health"]

# Loaded on first use: the format of token files is read without torch, which takes seconds to import.
_HOMES = {
    "LevelHealth": "health",
    "TokenHealth": "health",
    "TokenPyramid": "pyramid",
    "Vocabulary": "vocabulary",
    "measure_health": "health",
}


def __getattr__(name: str) -> Any:
    """The public name, imported from its home module on first use and kept."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
