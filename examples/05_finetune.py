"""Fine-tune the decoder of the bundled model on photos of your own; tokens that are stored already stay valid.

    python examples/05_finetune.py --images my-photos --steps 2000 --out my-tok

Without --images it takes four sample photos of scikit-image. It prints the progress of the training and the mean PSNR of the
first images before and after it, and it saves the model in the folder `my-tok`. The same command continues a run that was
stopped. With `codebooks="refit"` the codebooks also adapt to the photos, and the ids change. A warning says that the segmentation
head is left out, because it reads the decoder that is trained here.
"""

from __future__ import annotations

import argparse
from statistics import fmean

from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.evaluation import psnr
from pyramid_tokenizer.images import ImageSource, open_images
from pyramid_tokenizer.training import TrainConfig, finetune


def mean_psnr(tok: PyramidTokenizer, images: ImageSource, count: int) -> float:
    photos = [images.read(i)[None] for i in range(min(count, len(images)))]
    return fmean(psnr(photo, tok.reconstruct(photo).cpu()).item() for photo in photos)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", help="a folder, a list, tar shards, Parquet files (default: four sample photos)")
    parser.add_argument("--steps", type=int, default=200, help="(default: %(default)s; 2000 are usual)")
    parser.add_argument("--batch", type=int, default=8, help="crops per step (default: %(default)s)")
    parser.add_argument("--crop-px", type=int, default=128, help="side of a crop (default: %(default)s)")
    parser.add_argument("--out", default="my-tok")
    args = parser.parse_args(argv)
    if args.images is None:
        from skimage import data

        args.images = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]

    tok = PyramidTokenizer.from_pretrained("tiny")
    images = open_images(args.images)
    before = mean_psnr(tok, images, 4)
    config = TrainConfig(batch_size=args.batch, crop_px=args.crop_px)
    tok = finetune(tok, images, steps=args.steps, codebooks="frozen", out=args.out, config=config)
    print(
        f"PSNR of the first images: {before:.2f} dB before, {mean_psnr(tok, images, 4):.2f} dB after; saved {args.out}"
    )


if __name__ == "__main__":
    main()
