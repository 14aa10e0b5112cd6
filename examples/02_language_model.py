"""Put an image into the integer sequence of a language model, and turn a sequence back into an image.

    python examples/02_language_model.py --image photo.jpg --out decoded

Without --image it takes the photo of an astronaut of scikit-image. It prints the size of the vocabulary, the first entries of
the sequence and their meaning, and it writes two images: decoded/all.png, from the whole sequence, and decoded/coarse.png,
from a sequence that ends after the first level, as a model may produce it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.images import to_pil


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--image", help="an image file (default: a sample photo)")
    parser.add_argument("--out", type=Path, default=Path("decoded"))
    parser.add_argument("--size", type=int, default=256, help="short side in pixels (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.image is None:
        from skimage import data

        args.image = data.astronaut()

    tok = PyramidTokenizer.from_pretrained("tiny")
    vocabulary = (
        tok.vocabulary
    )  # one range of integers for all levels, and special tokens for begin, end, rows, levels and absent cells
    tokens = tok.encode(args.image, size=args.size)
    sequence = vocabulary.flatten(tokens)  # (1, length) int64: what a language model trains on
    print(f"vocabulary of {vocabulary.size} integers, sequence of {sequence.shape[1]}")
    for token in sequence[0, :6].tolist():
        print(f"  {token:6}  {vocabulary.describe(token)}")

    # A model need not produce every level: each prefix of the levels is an image.
    coarse = vocabulary.flatten(tokens[:1])
    assert torch.equal(coarse[:, :10], sequence[:, :10])
    args.out.mkdir(parents=True, exist_ok=True)
    for name, produced in (("all", sequence), ("coarse", coarse)):
        image = tok.decode(vocabulary.unflatten(produced))
        to_pil(image)[0].save(args.out / f"{name}.png")
        print(f"{args.out / name}.png from {produced.shape[1]} integers")


if __name__ == "__main__":
    main()
