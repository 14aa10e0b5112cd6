"""Train on stored tokens: a PyTorch DataLoader that reads token files in batches.

    pyramid-tokenizer encode photos --size 256 --out tokens
    python examples/06_dataloader.py --tokens tokens

Without --tokens it encodes four sample photos of scikit-image first. The images of a batch must have one size, so this script
keeps the files that have the size of the first one. It prints the batches and the shapes of their integer sequences:

    TokenPyramid(2 images of 256x256 px, 3 levels: 8x8 of 4096, ...)  sequences (2, 1371)
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from torch.utils.data import DataLoader, Dataset

from pyramid_tokenizer import PyramidTokenizer, TokenPyramid
from pyramid_tokenizer.images import to_batch


class TokenFiles(Dataset[TokenPyramid]):
    def __init__(self, folder: Path):
        self.files = sorted(folder.rglob("*.tokens"))
        size = self[0].image_size
        self.files = [file for file in self.files if TokenPyramid.load(file).image_size == size]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> TokenPyramid:
        return TokenPyramid.load(self.files[index])


def encode_samples(tok: PyramidTokenizer, folder: Path) -> None:
    from skimage import data

    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        tok.encode(to_batch(getattr(data, name)(), size=256)[..., :256, :256]).save(folder / f"{name}.tokens")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tokens", type=Path, help="a folder of .tokens files (default: four sample photos)")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args(argv)
    tok = PyramidTokenizer.from_pretrained("tiny")
    with tempfile.TemporaryDirectory() as folder:
        if args.tokens is None:
            args.tokens = Path(folder)
            encode_samples(tok, args.tokens)
        for batch in DataLoader(TokenFiles(args.tokens), batch_size=args.batch, num_workers=args.workers):
            print(f"{batch}  sequences {tuple(tok.vocabulary.flatten(batch).shape)}")


if __name__ == "__main__":
    main()
