"""Makes the images of the README from what `pyramid-tokenizer demo` writes.

    pyramid-tokenizer demo --out out
    python docs/make_images.py out

It writes docs/demo.jpg (the sheet of reconstructions) and docs/words.jpg (the three overlays side by side).
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

GAP_PX = 10
DOCS = Path(__file__).resolve().parent


def main(out: Path) -> None:
    """Writes both images from the folder of a demo."""
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


if __name__ == "__main__":
    main(Path(sys.argv[1]))
