"""`prefix_strip`: what every prefix of the levels of an image decodes to, coarse to fine."""

from __future__ import annotations

import math

from PIL import Image
from torch import Tensor

from pyramid_tokenizer.images.pixels import to_pil, to_uint8
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.visualize.maps import check_strides, enlarge_image
from pyramid_tokenizer.visualize.sheets import contact_sheet

_SIDE_PX = 320
"""Small images are enlarged to about this long side."""


def prefix_strip(tok: PyramidTokenizer, tokens: TokenPyramid, original: Tensor | None = None) -> Image.Image:
    """Draws the original, if it is given, and what every prefix of the levels decodes to, with tokens, rate and PSNR.

    Args:
        tok: The tokenizer of the tokens.
        tokens: Tokens of one image.
        original: The image, (3, H, W) float in [0, 1]; without it there is no PSNR.

    Raises:
        TokenError: The tokens are of several images.
        TokenMismatchError: The tokens are of another tokenizer.

    Example:
        >>> import torch
        >>> tok, photo = PyramidTokenizer.from_pretrained("tiny"), torch.rand(3, 64, 64)
        >>> prefix_strip(tok, tok.encode(photo), photo).width > 4 * 64
        True
    """
    check_strides(tokens, tok.quantizer.strides)
    height, width = tokens.image_size
    scale = max(1, round(_SIDE_PX / max(height, width)))
    images, titles, captions = [], [], []
    if original is not None:
        images, titles, captions = [to_pil(original)[0]], ["image"], [f"{width} x {height} px"]
    for count in range(1, len(tokens) + 1):
        part = tokens[:count]
        decoded = tok.decode(part).cpu()
        images.append(to_pil(decoded)[0])
        titles.append("level 0" if count == 1 else f"levels 0-{count - 1}")
        lines = [f"{part.num_tokens:,} tokens", f"{part.bits_per_pixel:.3f} bits per pixel"]
        captions.append(
            "\n".join(lines if original is None else [*lines, f"PSNR {_psnr(decoded[0], original):.2f} dB"])
        )
    return contact_sheet([[enlarge_image(image, scale) for image in images]], column_titles=titles, captions=[captions])


def _psnr(a: Tensor, b: Tensor) -> float:
    error = float((to_uint8(a).double() - to_uint8(b).double()).square().mean())
    return 10 * math.log10(255**2 / error) if error else math.inf
