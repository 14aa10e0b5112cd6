"""Compares the numbers of dimensions of the codes and the compositions of the levels, without training a decoder.

    python examples/research/gradient_free.py --data DATA [--model tiny] [--limit 40]

Each row is a tokenizer with the model's backbone, grids and bits, whose codebooks are fitted without gradients on the same crops
and which has no trained decoder. The rows are measured on recon/val, which is tuning data. A row takes about a minute on two
cores. It needs the extra `eval`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout, from any current directory

from benchmarks import baselines, twins
from benchmarks.reconstruction import DECODE_BATCH, SIDE_PX, decode, encode, score, table
from examples.research.variants import with_composition
from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.config.models import TokenizerConfig
from pyramid_tokenizer.images.pixels import to_uint8

DIMENSIONS = ((24, 24, 24), (24, 16, 12), (16, 12, 8), (16, 8, 5))
COMPOSITIONS = ("residual", "bottom_up", "none")


def variants(config: TokenizerConfig) -> Iterator[tuple[str, TokenizerConfig]]:
    for dims in DIMENSIONS:
        yield f"dimensions {', '.join(map(str, dims))}", twins.with_levels(config, [{"dim": dim} for dim in dims])
    for composition in COMPOSITIONS:
        yield f"composition {composition}", with_composition(config, composition)


def measure(what: str, twin: PyramidTokenizer, images: Tensor) -> tuple[str, ...]:
    """A row: PSNR at every prefix of levels, PSNR not quantised, perplexity of the finest level."""
    tokens = encode(twin, images, DECODE_BATCH)
    prefixes = [score(what, images, decode(twin, tokens[:n]).images, None) for n in range(1, len(tokens) + 1)]
    whole = torch.cat([to_uint8(twin.reconstruct_continuous(batch / 255)) for batch in images.split(DECODE_BATCH)])
    free = score(f"{what}, not quantised", images, whole, None)
    fine = twin.health(tokens).levels[-1]
    return what, *(f"{row.psnr:.2f}" for row in prefixes), f"{free.psnr:.2f}", f"{fine.perplexity_share:.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the data folder; holds recon/val and recon/train")
    parser.add_argument("--model", default="tiny", help="whose backbone and levels (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=40, help="so many images of recon/val (default: %(default)s)")
    args = parser.parse_args()
    tok = PyramidTokenizer.from_pretrained(args.model)
    images = baselines.load_images(args.data / "recon" / "val", side=SIDE_PX, limit=args.limit)
    train = args.data / "recon" / "train"
    configs = variants(twins.without_detail(tok.config))
    rows = [measure(what, twins.fitted(tok, config, train), images) for what, config in configs]
    prefixes = [f"levels 0-{level}" if level else "level 0" for level in range(tok.quantizer.base_levels)]
    print(table(("twin", *prefixes, "not quantised", "perplexity of K, finest"), rows))


if __name__ == "__main__":
    main()
