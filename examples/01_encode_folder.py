"""Encode a folder of images into arrays of integers that numpy reads.

    python examples/01_encode_folder.py --images photos --out ids

Without --images it takes four sample photos of scikit-image. It writes one file `ids/00000.npz` per image with an array per
level (level 0 is the coarsest) and prints a line per image, such as

    ids/00000.npz  256x256 px  level 0 (8, 8), level 1 (16, 16), level 2 (32, 32)  0.248 bits per pixel
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.images import open_images


def sample_photos() -> list[np.ndarray]:
    from skimage import data

    return [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", help="a folder, a list, tar shards, Parquet files (default: four sample photos)")
    parser.add_argument("--out", type=Path, default=Path("ids"))
    parser.add_argument("--size", type=int, default=256, help="short side in pixels (default: %(default)s)")
    args = parser.parse_args(argv)

    tok = PyramidTokenizer.from_pretrained("tiny")
    images = open_images(args.images or sample_photos())
    args.out.mkdir(parents=True, exist_ok=True)
    many = tok.encode_many((images.read(i) for i in range(len(images))), size=args.size)
    for i, tokens in enumerate(many):
        arrays = {f"level_{level}": ids[0].numpy().astype(np.uint16) for level, ids in enumerate(tokens.ids)}
        path = args.out / f"{i:05}.npz"
        np.savez(path, **arrays, image_size=tokens.image_size, fingerprint=tokens.fingerprint)
        grids = ", ".join(f"{name.replace('_', ' ')} {ids.shape}" for name, ids in arrays.items())
        height, width = tokens.image_size
        print(f"{path}  {width}x{height} px  {grids}  {tokens.bits_per_pixel:.3f} bits per pixel")


if __name__ == "__main__":
    main()
