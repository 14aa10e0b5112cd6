"""Find your own words in a folder of images, from their tokens alone.

    python examples/04_segment_folder.py --images photos --words "cat,dog|puppy,wall,floor" --out masks

"dog|puppy" gives one class two words. Without --images it takes a sample photo of scikit-image. It writes one overlay with a
legend per image, masks/00000.png, and prints the share of each class, such as

    masks/00000.png  cat 70%, wall 27%, blanket 2%
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pyramid_tokenizer import Segmenter
from pyramid_tokenizer.images import open_images
from pyramid_tokenizer.visualize import overlay


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", help="a folder, a list, tar shards, Parquet files (default: a sample photo)")
    parser.add_argument("--words", default="cat,wall,blanket", help="separated by commas (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("masks"))
    parser.add_argument("--size", type=int, default=256, help="short side in pixels (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.images is None:
        from skimage import data

        args.images = [data.chelsea()]

    seg = Segmenter.from_pretrained("tiny")
    names = args.words.split(",")
    images = open_images(args.images)
    args.out.mkdir(parents=True, exist_ok=True)
    for i in range(len(images)):
        tokens = seg.tok.encode(images.read(i), size=args.size)  # the image is not needed from here on
        found = seg.segment(tokens, names)
        labels = found.labels[0]  # (H, W) int64: the index of each pixel's class in `found.names`
        path = args.out / f"{i:05}.png"
        overlay(seg.tok.decode(tokens), labels, found.names).save(path)
        shares = ((labels == index).float().mean().item() for index in range(len(found.names)))
        print(f"{path}  " + ", ".join(f"{name} {share:.0%}" for name, share in zip(found.names, shares, strict=True)))


if __name__ == "__main__":
    main()
