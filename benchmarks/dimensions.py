"""How many dimensions a code should have: what ids keep, and what quantisation loses, at four settings.

    python benchmarks/dimensions.py --data ../shared/data [--model tiny] [--limit 40]

Closed form, no trained decoder, measured on recon/val (tuning data); minutes on two cores. Needs the extra `eval`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, from any current directory

from benchmarks import baselines, twins
from benchmarks.reconstruction import DECODE_BATCH, SIDE_PX, decode, encode, score, table, to_8_bit
from pyramid_tokenizer import PyramidTokenizer

SETTINGS = ((24, 24, 24), (24, 16, 12), (16, 12, 8), (16, 8, 5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the data folder; holds recon/val and recon/train")
    parser.add_argument("--model", default="tiny", help="whose tower and levels (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=40, help="so many pictures of recon/val (default: %(default)s)")
    args = parser.parse_args()
    tok = PyramidTokenizer.from_pretrained(args.model)
    pictures = baselines.load_pictures(args.data / "recon" / "val", side=SIDE_PX, limit=args.limit)
    rows = []
    for dims in SETTINGS:
        config = twins.with_levels(tok.config, [{"dim": dim} for dim in dims])
        twin = twins.fitted(tok, config, args.data / "recon" / "train")
        tokens = encode(twin, pictures, DECODE_BATCH)
        ids = score(f"{dims}", pictures, decode(twin, tokens).pictures, None)
        whole = torch.cat(
            [to_8_bit(twin.reconstruct_continuous(batch / 255)) for batch in pictures.split(DECODE_BATCH)]
        )
        free = score(f"{dims}, not quantised", pictures, whole, None)
        fine = twin.health(tokens).levels[-1]
        rows.append((", ".join(map(str, dims)), f"{ids.psnr:.2f}", f"{free.psnr:.2f}", f"{fine.perplexity_share:.0%}"))
    print(table(("dimensions, coarse to fine", "PSNR from ids", "unquantised", "perplexity of K, finest"), rows))


if __name__ == "__main__":
    main()
