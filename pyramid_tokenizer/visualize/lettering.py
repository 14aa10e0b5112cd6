"""Letters on images: their colours and measures, and fonts that have the letters of a text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from PIL import ImageFont

TITLE, CAPTION, FRAME, WHITE = "#212121", "#696969", "#dedede", "#ffffff"

Font: TypeAlias = "ImageFont.FreeTypeFont | ImageFont.ImageFont"

_ELLIPSIS = "…"
# Looked for in this order where Pillow's own font lacks a letter; together what Linux, macOS and Windows bring along.
_SYSTEM_FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "NotoSansDevanagari-Regular.ttf"),
    *("wqy-zenhei.ttc", "DroidSansFallbackFull.ttf", "Arial Unicode.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc"),
    *("AppleSDGothicNeo.ttc", "arial.ttf", "msyh.ttc", "YuGothM.ttc", "malgun.ttf", "Nirmala.ttf"),
)


def find_font(text: str, *, px: int) -> Font | None:
    """A font that has every letter of `text`: Pillow's own, which is nearly ASCII, else the machine's; None for neither.

    Example:
        >>> find_font("dog", px=12).getname()
        ('Aileron', 'Regular')
    """
    for name in (None, *_SYSTEM_FONTS):
        font = _load(name, px)
        if font is not None and all(_has(font, letter) for letter in set(text) if not letter.isspace()):
            return font
    return None


def widest(texts: Sequence[str], font: Font) -> int:
    """Pixels that the longest line of any text takes; 0 for none."""
    return max((round(font.getlength(line)) + 1 for text in texts for line in text.split("\n") if line), default=0)


def line_height(font: Font) -> int:
    """Pixels from one line to the next."""
    return round(1.25 * font.getbbox("Ag")[3])


def shorten(text: str, font: Font, *, width_px: int) -> str:
    """`text`, or as much of its beginning as fits with "…" behind it."""
    if widest([text], font) <= width_px:
        return text
    end = len(text)
    while end and widest([text[:end].rstrip() + _ELLIPSIS], font) > width_px:
        end -= 1
    return text[:end].rstrip() + _ELLIPSIS


@lru_cache(maxsize=64)
def _load(name: str | None, px: int) -> Font | None:
    """Pillow's own font for None; None for a font that the machine does not have."""
    if name is None:
        return ImageFont.load_default(px)
    try:
        return ImageFont.truetype(name, px)  # also looks in the system's font folders
    except OSError:
        return None


def _has(font: Font, letter: str) -> bool:
    # a letter that a font lacks is drawn as the same box as U+FFFF, which is no character
    return _drawn(font, letter) != _drawn(font, "\uffff")


def _drawn(font: Font, letter: str) -> bytes:
    mask: Any = font.getmask(letter)  # Pillow's own pixels, without a type
    return repr(mask.size).encode() + bytes(mask)
