"""Writes toy-tokenizer/, its tokens of one image and their decoded image: python tests/golden/make_tokenizer.py.

Every later release must load that model, give exactly those ids, and decode them to (nearly) that image. Statistics and
k-means differ between machines in the last digits, so a new model has new ids: rewrite all of these together, and only
when the format of models changes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from pyramid_tokenizer.config.models import BackboneConfig, DecoderConfig, LevelConfig, QuantizerConfig, TokenizerConfig
from pyramid_tokenizer.images.pixels import to_pil
from pyramid_tokenizer.tokenizer import PyramidTokenizer

FOLDER = Path(__file__).parent
MODEL, TOKENS = FOLDER / "toy-tokenizer", FOLDER / "toy-tokenizer.tokens"
IMAGE, DECODED = FOLDER / "toy-image.png", FOLDER / "toy-decoded.png"

CONFIG = TokenizerConfig(
    backbone=BackboneConfig(kind="toy"),
    quantizer=QuantizerConfig(
        levels=(
            LevelConfig(stride=16, maps=(1,), codebook_size=8, dim=4, distance="cosine", semantic_weight=0.5),
            LevelConfig(stride=8, maps=(2,), codebook_size=16, dim=4),
        ),
        image_codebooks=(8, 4),
    ),
    decoder=DecoderConfig(widths=(4, 4), depths=(1, 1), pixel_widths=(4,), pixel_depth=1),
)


def waves(count: int, height: int, width: int) -> torch.Tensor:
    """(count, 3, height, width): overlaid waves, another direction and length in each image and colour."""
    y, x = torch.meshgrid(torch.arange(height) / 64, torch.arange(width) / 64, indexing="ij")
    pictures = torch.zeros(count, 3, height, width)
    for image in range(count):
        for colour in range(3):
            for wave in range(1, 4):
                down, right = (image * 7 + colour * 3 + wave * 5) % 11 - 5, (image * 5 + colour + wave * 3) % 9 - 4
                pictures[image, colour] += torch.sin(2 * (down * y + right * x) + image * wave) / wave
    return pictures / 4 + 0.5


def make() -> PyramidTokenizer:
    """Fitted on waves, with a decoder whose every weight does something."""
    tok = PyramidTokenizer.from_config(CONFIG)
    tok.fit([waves(16, 64, 64).clamp(0, 1)])
    generator = torch.Generator().manual_seed(0)
    for part in (tok.trunk, tok.pixel_decoder):
        for parameter in part.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return tok


if __name__ == "__main__":
    make().save_pretrained(MODEL)
    tok = PyramidTokenizer.from_pretrained(MODEL)
    to_pil(waves(20, 41, 57)[17].clamp(0, 1))[0].save(IMAGE)
    tokens = tok.encode(Image.open(IMAGE))
    tokens.save(TOKENS)
    to_pil(tok.decode(tokens))[0].save(DECODED)
    files = [*sorted(MODEL.iterdir()), TOKENS, IMAGE, DECODED]
    print("wrote " + ", ".join(f"{path.relative_to(FOLDER)} ({path.stat().st_size} bytes)" for path in files))
