"""What a notebook shows of a token pyramid: a map per level, as HTML that needs no other file."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pyramid_tokenizer.tokens.palette import code_colours

if TYPE_CHECKING:
    from pyramid_tokenizer.tokens.pyramid import TokenPyramid

MOST_IMAGES = 4
"""Maps of so many images of a batch are shown."""
_SIDE_PX = 180


def to_html(tokens: TokenPyramid) -> str:
    """Maps of the first images, one square a token in the colour of its id, with counts below and the text of `repr` above.

    Example:
        >>> import torch
        >>> from pyramid_tokenizer.tokens import TokenPyramid
        >>> tokens = TokenPyramid(ids=(torch.tensor([[[3, 1]]]),), codebook_sizes=(4,), image_size=(8, 16), fingerprint="0" * 64)
        >>> "level 0: 1 x 2 tokens, 2 different of 4" in to_html(tokens)
        True
    """
    levels = [x.cpu().numpy() for x in (level[:MOST_IMAGES] for level in tokens.ids)]
    rows = [
        _row([_figure(ids[image], level, tokens.codebook_sizes[level]) for level, ids in enumerate(levels)])
        for image in range(len(levels[0]))
    ]
    more = tokens.batch_size - len(rows)
    rest = f"<div>and {more} more image{'s' if more > 1 else ''}</div>" if more else ""
    return f'<div style="font:13px sans-serif"><div>{escape(repr(tokens))}</div>{"".join(rows)}{rest}</div>'


def describe_level(ids: NDArray[Any], codebook_size: int) -> str:
    """The number of tokens of one level of one image, and how many of them differ: "8 x 8 tokens, 41 different of 4,096"."""
    present = ids[ids >= 0]
    height, width = ids.shape
    absent = ids.size - len(present)
    cells = f"{height} x {width} tokens" if not absent else f"{len(present):,} tokens in {height} x {width} cells"
    return f"{cells}, {len(np.unique(present)):,} different of {codebook_size:,}"


def _row(figures: list[str]) -> str:
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px;margin:8px 0">{"".join(figures)}</div>'


def _figure(ids: NDArray[Any], level: int, codebook_size: int) -> str:
    caption = f"level {level}: {describe_level(ids, codebook_size)}"
    height, width = ids.shape
    scale = _SIDE_PX / max(height, width)
    style = (
        f"width:{width * scale:.0f}px;height:{height * scale:.0f}px;image-rendering:pixelated;border:1px solid #dedede"
    )
    image = f'<img alt="{caption}" style="{style}" src="{_data_address(code_colours(ids))}">'
    return f'<figure style="margin:0;max-width:{_SIDE_PX + 20}px">{image}<figcaption>{caption}</figcaption></figure>'


def _data_address(pixels: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
