"""Text on images: its colours and widths, and fonts that contain the letters of a text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from PIL import ImageFont

TITLE, CAPTION, FRAME, WHITE = "#212121", "#696969", "#dedede", "#ffffff"

Font: TypeAlias = "ImageFont.FreeTypeFont | ImageFont.ImageFont"

_ELLIPSIS = "…"
# Tried in this order if Pillow's own font lacks a letter; they are installed by default on Linux, macOS or Windows.
_SYSTEM_FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "NotoSansDevanagari-Regular.ttf"),
    *("wqy-zenhei.ttc", "DroidSansFallbackFull.ttf", "Arial Unicode.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc"),
    *("AppleSDGothicNeo.ttc", "arial.ttf", "msyh.ttc", "YuGothM.ttc", "malgun.ttf", "Nirmala.ttf"),
)


def find_font(text: str, *, px: int) -> Font | None:
    """Finds a font that has every letter of `text`: Pillow's own font, which has little beyond ASCII, or one of the system.

    Returns:
        The font, or None if no font has every letter.

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
    """The width in pixels of the longest line of any text; 0 without text."""
    return max((round(font.getlength(line)) + 1 for text in texts for line in text.split("\n") if line), default=0)


def line_height(font: Font) -> int:
    """Pixels from one line to the next."""
    return round(1.25 * font.getbbox("Ag")[3])


def shorten(text: str, font: Font, *, width_px: int) -> str:
    """Returns `text`, or as much of its beginning as fits, followed by "…"."""
    if widest([text], font) <= width_px:
        return text
    end = len(text)
    while end and widest([text[:end].rstrip() + _ELLIPSIS], font) > width_px:
        end -= 1
    return text[:end].rstrip() + _ELLIPSIS


@lru_cache(maxsize=64)
def _load(name: str | None, px: int) -> Font | None:
    """Loads a font; None is Pillow's own. Returns None for a font that is not installed."""
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
