"""Makes the images of the documentation from what `pyramid-tokenizer demo` writes, and from five sample photos.

    pyramid-tokenizer demo --out out
    python docs/make_images.py out

It writes docs/demo.jpg (the sheet of reconstructions), docs/words.jpg (the three overlays side by side) and docs/tokens.jpg
(where the tokens of five photos are, at one quality).
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.images import to_batch, to_pil
from pyramid_tokenizer.visualize import contact_sheet, overlay_tokens

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
    tokens_sheet(PyramidTokenizer.from_pretrained("tiny")).save(DOCS / "tokens.jpg", quality=88)


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
