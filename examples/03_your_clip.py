"""Make a tokenizer on a CLIP of your own: no training, only statistics of some crops.

    python examples/03_your_clip.py --clip ViT-B-16 --pretrained openai --images photos --out my-tok
    python examples/03_your_clip.py --clip my-clip-folder --images photos --out my-tok

`--clip` is the name of an open_clip model, "hf-hub:org/repo", or a folder in open_clip's local-directory layout. The script
prints what was fitted on each level, and how many entries the first image uses. The folder `my-tok` works with every command, for
example `pyramid-tokenizer encode photo.jpg --model my-tok`. Images decode to the linear reconstruction until a decoder is
trained (`pyramid-tokenizer train`).
"""

from __future__ import annotations

import argparse

from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.images import open_images


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clip", required=True, help="an open_clip name, hf-hub:org/repo, or a folder")
    parser.add_argument("--pretrained", help="the weight tag of an open_clip name, or a checkpoint file")
    parser.add_argument("--images", required=True, help="a folder, a list, tar shards or Parquet files")
    parser.add_argument("--out", default="my-tok")
    parser.add_argument("--crops", type=int, default=4800, help="how many crops are read (default: %(default)s)")
    parser.add_argument("--crop-px", type=int, default=160, help="side of a crop (default: %(default)s)")
    parser.add_argument("--vectors-per-code", type=int, default=16, help="samples per entry (default: %(default)s)")
    args = parser.parse_args(argv)

    tok = PyramidTokenizer.from_backbone(args.clip, pretrained=args.pretrained)
    how = {"num_crops": args.crops, "crop_px": args.crop_px, "vectors_per_code": args.vectors_per_code}
    for report in tok.fit(args.images, **how):
        print(report)
    tokens = tok.encode(open_images(args.images).read(0))
    for level, health in enumerate(tok.health(tokens).levels):
        print(f"level {level}: {health.num_tokens} tokens use {health.usage:.1%} of {health.codebook_size} entries")
    print(f"saved {tok.save_pretrained(args.out)}")


if __name__ == "__main__":
    main()
