"""Makes the images of the documentation from what `pyramid-tokenizer demo` writes, and from five sample photos.

    pyramid-tokenizer demo --out out
    python docs/make_images.py out

It writes docs/demo.jpg (the sheet of reconstructions), docs/words.jpg (the three overlays side by side), docs/tokens.jpg
(where the tokens of five photos are, at one quality), and of one photo docs/token-maps.jpg and docs/contributions.jpg.
docs/make_app_image.py makes docs/app.png; `make images` runs all of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from pyramid_tokenizer import PyramidTokenizer, TokenPyramid
from pyramid_tokenizer.images import to_batch, to_pil
from pyramid_tokenizer.visualize import (
    NearestWords,
    contact_sheet,
    contribution,
    contribution_sheet,
    map_sheet,
    overlay_tokens,
)
from pyramid_tokenizer.visualize.contributions import cells_at

GAP_PX = 10
DOCS = Path(__file__).resolve().parent
PHOTOS = ("rocket", "chelsea", "camera", "coffee", "astronaut")
"""Photos of the scikit-image package, in the public domain or CC0."""
SIDE_PX = 256
QUALITY = 0.5


def main(out: Path) -> None:
    """Writes all images, the first two from the folder of a demo."""
    Image.open(out / "demo.png").convert("RGB").save(DOCS / "demo.jpg", quality=88)
    overlays = [Image.open(path).convert("RGB") for path in sorted(out.glob("overlay-*.png"))]
    row = Image.new(
        "RGB", (sum(one.width + GAP_PX for one in overlays) - GAP_PX, max(one.height for one in overlays)), "white"
    )
    left = 0
    for one in overlays:
        row.paste(one, (left, 0))
        left += one.width + GAP_PX
    row.save(DOCS / "words.jpg", quality=88)
    tok = PyramidTokenizer.from_pretrained("tiny")
    tokens_sheet(tok).save(DOCS / "tokens.jpg", quality=88)
    inspection_sheets(tok)


def inspection_sheets(tok: PyramidTokenizer) -> None:
    """The token maps of the cat, and what the tokens at its eye add, as `inspect --at 155,95` draws them."""
    from skimage import data

    photo = to_batch(data.chelsea(), size=SIDE_PX)
    tokens, strides = tok.encode(photo), tok.quantizer.strides
    maps = map_sheet(tokens, to_pil(photo)[0], strides=strides)
    maps.resize((maps.width * 5 // 8, maps.height * 5 // 8), Image.Resampling.LANCZOS).save(
        DOCS / "token-maps.jpg", quality=85
    )
    words = NearestWords.of_common_words(tok)
    chosen = [contribution(tok, tokens, *cell) for cell in enumerate_cells(tokens, strides)]
    captions = [f"id {one.id}\n{words.caption(one.level, one.id)}" for one in chosen]
    contribution_sheet(chosen, strides, captions).save(DOCS / "contributions.jpg", quality=85)


def enumerate_cells(tokens: TokenPyramid, strides: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Level, row and column of each token at a pixel of the cat's eye."""
    for level, cell in enumerate(cells_at(tokens, 155, 95, strides=strides)):
        yield level, *cell


def tokens_sheet(tok: PyramidTokenizer) -> Image.Image:
    """A column per photo: the photo, where its tokens are, and what they decode to."""
    from skimage import data

    columns, captions = [], []
    for name in PHOTOS:
        photo = _centre(to_pil(to_batch(getattr(data, name)(), size=SIDE_PX))[0])
        tokens = tok.encode(photo, quality=QUALITY)
        cells = overlay_tokens(photo, tokens, strides=tok.quantizer.strides, legend=False)
        columns.append((photo, cells, to_pil(tok.decode(tokens))[0]))
        captions.append(("", f"{tokens.num_tokens:,} tokens\n{tokens.bits_per_pixel:.3f} bits per pixel", ""))
    return contact_sheet(
        list(zip(*columns, strict=True)),
        captions=list(zip(*captions, strict=True)),
        row_titles=("photo", "tokens", "decoded"),
    )


def _centre(photo: Image.Image) -> Image.Image:
    left, top = (photo.width - SIDE_PX) // 2, (photo.height - SIDE_PX) // 2
    return photo.crop((left, top, left + SIDE_PX, top + SIDE_PX))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
