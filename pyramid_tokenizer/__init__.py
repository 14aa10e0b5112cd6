"""Images to a small pyramid of discrete tokens that mean something, and back to pixels.

    from pyramid_tokenizer import PyramidTokenizer
    tok = PyramidTokenizer.from_pretrained("tiny")

    image ──images──▶ (B, 3, H, W) in [0, 1]
          ──tok.backbone, a frozen CLIP backbone──▶ FeaturePyramid: maps, coarse → fine
          ──quantizer, one codebook a level──▶ TokenPyramid: ids (B, h_l, w_l), level 0 = coarsest
          ──top_down, the shared trunk──▶ fused maps
          ──pixel_decoder──▶ image

    tokens = tok.encode("photo.jpg")   # every prefix decodes too: tok.decode(tokens[:1])
    images = tok.decode(tokens)        # (B, 3, H, W) in [0, 1] at the photo's own size

The legend of shapes is in `pyramid_tokenizer.backbones.features`, the errors are drawn in `pyramid_tokenizer.errors`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyramid_tokenizer.backbones import ToyBackbone
    from pyramid_tokenizer.backbones.features import FeaturePyramid
    from pyramid_tokenizer.config.models import TokenizerConfig
    from pyramid_tokenizer.errors import PyramidTokenizerError
    from pyramid_tokenizer.segmentation.segmenter import Segmenter
    from pyramid_tokenizer.tokenizer import PyramidTokenizer
    from pyramid_tokenizer.tokens.pyramid import TokenPyramid
    from pyramid_tokenizer.tokens.vocabulary import Vocabulary

__version__ = "0.1.0"

__all__ = [
    "FeaturePyramid",
    "PyramidTokenizer",
    "PyramidTokenizerError",
    "Segmenter",
    "TokenPyramid",
    "TokenizerConfig",
    "ToyBackbone",
    "Vocabulary",
    "__version__",
]

# Loaded on first use (PEP 562): `import pyramid_tokenizer` costs milliseconds, torch alone takes seconds.
_HOMES = {
    "FeaturePyramid": "backbones.features",
    "PyramidTokenizer": "tokenizer",
    "PyramidTokenizerError": "errors",
    "Segmenter": "segmentation.segmenter",
    "TokenPyramid": "tokens.pyramid",
    "TokenizerConfig": "config",
    "ToyBackbone": "backbones",
    "Vocabulary": "tokens.vocabulary",
}


def __getattr__(name: str) -> Any:
    """The public name, imported from its home module on first use and kept."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not, and what else the module holds."""
    return sorted({*globals(), *__all__})
