"""`write_atlas`: the codebooks of a tokenizer as static HTML that needs no server."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pyramid_tokenizer.errors import DataError
from pyramid_tokenizer.files import write_text
from pyramid_tokenizer.images.files import save_image
from pyramid_tokenizer.images.sources import ImageSource, read_resized
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.tokens.palette import PALETTE
from pyramid_tokenizer.visualize.atlas import (
    THUMBNAIL_PX,
    Gathered,
    LevelPatches,
    gather,
    neighbours,
    patches_by_image,
    put_patches,
)
from pyramid_tokenizer.visualize.words import NearestWords

CODES_PER_SHEET = 1024
_STRIPS_PER_ROW = 16
_WORDS, _NEIGHBOURS, _CODES_PER_WORD = 5, 8, 48
PAGE = "index.html"
"""The file that a browser opens; it is written last."""


def write_atlas(
    tok: PyramidTokenizer,
    source: ImageSource,
    out: Path,
    *,
    title: str,
    words: NearestWords,
    size: int | None = 256,
    patches: int = 4,
    progress: Callable[[str, int], Callable[[], None]] = lambda what, total: lambda: None,
) -> Gathered:
    """Writes an atlas: of every code its nearest real patches, its nearest words, how often it is used, and its neighbours.

    The folder has `index.html`, `data.js` and a few images per level with the patches of 1,024 codes each; the page can be
    opened from disk, moved and served as it is.

    Args:
        tok: A fitted tokenizer.
        source: The images; `open_images` makes one of a folder.
        out: The folder, which is created if it is missing.
        title: What the model is called on the page.
        words: The words that codes are described with and found by.
        size: Short side of the images in pixels; None keeps their size.
        patches: Patches of each code, at least 1, each of another image.
        progress: Called with the name and the steps of each stage; returns what is called after each step.

    Raises:
        DataError: `patches` is below 1, or none of the images can be read.
    """
    if patches < 1:
        raise DataError(f"expected at least 1 patch for each code, got {patches}: 4 are usual")
    found = gather(tok, source, size=size, patches=patches, advance=progress("encode", len(source)))
    out.mkdir(parents=True, exist_ok=True)
    needed = sorted({image for level in found.levels for image in patches_by_image(level)})
    advance = progress("patches", len(needed))
    with tempfile.TemporaryDirectory(dir=out) as folder:
        shape = patches, THUMBNAIL_PX, THUMBNAIL_PX, 3
        stores = [
            np.memmap(Path(folder, f"{i}"), np.uint8, mode="w+", shape=(len(level.counts), *shape))
            for i, level in enumerate(found.levels)
        ]
        _cut(source, found.levels, stores, needed, size=size, advance=advance)
        advance = progress("sheets", sum(-(-len(store) // CODES_PER_SHEET) for store in stores))
        sheets = [_write_sheets(out, i, store, advance) for i, store in enumerate(stores)]
        del stores
    data = _describe(tok, found, sheets, title=title, words=words, patches=patches)
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    write_text(out / "data.js", f"const ATLAS = {text};\n")
    page = files("pyramid_tokenizer.visualize").joinpath("atlas.html").read_text(encoding="utf-8")
    write_text(out / PAGE, page)
    return found


def _cut(
    source: ImageSource,
    levels: Sequence[LevelPatches],
    stores: Sequence[NDArray[np.uint8]],
    needed: Sequence[int],
    *,
    size: int | None,
    advance: Callable[[], None],
) -> None:
    chosen = [patches_by_image(level) for level in levels]
    for index in needed:
        image = read_resized(source, index, size=size)
        for level, by_image, store in zip(levels, chosen, stores, strict=True):
            if index in by_image:
                put_patches(level, image, by_image[index], store)
        advance()


def _write_sheets(out: Path, level: int, store: NDArray[np.uint8], advance: Callable[[], None]) -> list[str]:
    """Writes the patches of a level (K, P, 32, 32, 3) as images with 16 codes in a row; returns their names."""
    names = []
    for start in range(0, len(store), CODES_PER_SHEET):
        part = np.asarray(store[start : start + CODES_PER_SHEET])
        rows = -(-len(part) // _STRIPS_PER_ROW)
        filled = np.zeros((rows * _STRIPS_PER_ROW, *part.shape[1:]), np.uint8)
        filled[: len(part)] = part
        grid = filled.reshape(rows, _STRIPS_PER_ROW, *part.shape[1:])  # (rows, 16, P, 32, 32, 3)
        width = _STRIPS_PER_ROW * part.shape[1] * THUMBNAIL_PX
        sheet = grid.transpose(0, 3, 1, 2, 4, 5).reshape(rows * THUMBNAIL_PX, width, 3)
        names.append(f"level-{level}-{start // CODES_PER_SHEET}.webp")
        save_image(Image.fromarray(sheet), out / names[-1])
        advance()
    return names


def _describe(
    tok: PyramidTokenizer,
    found: Gathered,
    sheets: Sequence[list[str]],
    *,
    title: str,
    words: NearestWords,
    patches: int,
) -> dict[str, Any]:
    """All that the page reads: plain numbers and texts."""
    return {
        "title": title,
        "fingerprint": tok.fingerprint,
        "images": found.num_images,
        "skipped": len(found.skipped),
        "palette": list(PALETTE),
        "words": list(words.words),
        "thumbnail": THUMBNAIL_PX,
        "patches": patches,
        "adds": tok.quantizer.composition.name == "residual",
        "strips": _STRIPS_PER_ROW,
        "codesPerSheet": CODES_PER_SHEET,
        "levels": [_level(tok, i, level, sheets[i], words) for i, level in enumerate(found.levels)],
    }


def _level(
    tok: PyramidTokenizer, index: int, level: LevelPatches, sheets: list[str], words: NearestWords
) -> dict[str, Any]:
    health = level.health
    return {
        "stride": level.stride,
        "view": level.view_px,
        "used": len(level.counts) - health.num_unused,
        "perplexity": round(health.perplexity, 1),
        "counts": level.counts.tolist(),
        "patches": (level.places[..., 0] >= 0).sum(1).tolist(),
        "sheets": sheets,
        "neighbours": neighbours(tok.quantizer.level(index).codebook, _NEIGHBOURS).tolist(),
        **_words_of(words, index),
    }


def _words_of(words: NearestWords, level: int) -> dict[str, Any]:
    """Words of each code and codes of each word, with similarities in thousandths; None for a level without words."""
    similarities = words.similarities[level]
    if similarities is None:
        return {"codeWords": None, "codeScores": None, "wordCodes": None}
    scores, places = similarities.topk(min(_WORDS, len(words.words)), dim=1)
    codes = similarities.T.topk(min(_CODES_PER_WORD, len(similarities)), dim=1).indices
    thousandths = (1000 * scores).round().int()
    return {"codeWords": places.tolist(), "codeScores": thousandths.tolist(), "wordCodes": codes.tolist()}
