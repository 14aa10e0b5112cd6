"""Give each photo of a folder as many tokens as it needs, and see which need most.

    python examples/07_tokens_by_content.py --images photos --quality 0.5 --out tokens

Without --images it takes four sample photos of scikit-image. It writes a token file and an image of where the tokens are for each
photo, and prints a line for each, the simplest photo first, such as

    tokens/00003.tokens   596 of 8160 tokens  0.079 bits per pixel
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.images import open_images
from pyramid_tokenizer.visualize import overlay_tokens


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", help="a folder, a list, tar shards, Parquet files (default: four sample photos)")
    parser.add_argument("--quality", type=float, default=0.5, help="from 0 to 1 (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("tokens"))
    parser.add_argument("--size", type=int, default=256, help="short side in pixels (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.images is None:
        from skimage import data

        args.images = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]

    tok = PyramidTokenizer.from_pretrained("tiny")
    images = open_images(args.images)
    many = tok.encode_many((images.read(i) for i in range(len(images))), size=args.size, quality=args.quality)
    args.out.mkdir(parents=True, exist_ok=True)
    for i in sorted(range(len(many)), key=lambda i: many[i].bits_per_pixel):
        tokens = many[i]
        path = args.out / f"{i:05}.tokens"
        tokens.save(path)
        where = overlay_tokens(tok.decode(tokens)[0], tokens, strides=tok.quantizer.strides)
        where.save(path.with_suffix(".png"))
        cells = sum(height * width for height, width in tokens.grids)
        print(f"{path}  {tokens.num_tokens:>4} of {cells} tokens  {tokens.bits_per_pixel:.3f} bits per pixel")


if __name__ == "__main__":
    main()
