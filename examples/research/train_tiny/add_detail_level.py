"""Adds a detail level of 4 px to a trained tokenizer, without gradients: ids, decoder and head of the other levels stay.

    python examples/research/train_tiny/add_detail_level.py --data DATA --model tiny --out build/tiny-detail

Minutes on one CPU core. The decoder meets the new level in train_sparse.py.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from train_tokenizer import large_files, training_files

from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.config import LevelConfig
from pyramid_tokenizer.quantizer.fit.batches import feature_samples, image_batches
from pyramid_tokenizer.quantizer.fit.levels import LevelReport, fit_quantizer
from pyramid_tokenizer.segmentation.segmenter import Segmenter


def with_detail_level(tok: PyramidTokenizer, *, codebook_size: int, dim: int) -> PyramidTokenizer:
    """The tokenizer with one more level, of half the finest stride and with an empty codebook.

    Args:
        tok: A fitted tokenizer; it stays as it is, and the backbone is shared.
        codebook_size: Entries of the new level.
        dim: Dimensions of an entry.
    """
    quantizer = tok.config.quantizer
    level = LevelConfig(
        stride=quantizer.levels[-1].stride // 2,
        maps=(len(tok.backbone.strides) - 1,),
        codebook_size=codebook_size,
        dim=dim,
    )
    more = dataclasses.replace(quantizer, levels=(*quantizer.levels, level), detail_levels=quantizer.detail_levels + 1)
    new = PyramidTokenizer.from_config(dataclasses.replace(tok.config, quantizer=more), backbone=tok.backbone)
    for part in ("quantizer", "trunk", "pixel_decoder"):
        own, found = getattr(new, part), getattr(tok, part).state_dict()
        own.load_state_dict({**own.state_dict(), **found})
    return new


def fit_detail_level(tok: PyramidTokenizer, images: object, *, num_crops: int, seed: int = 0) -> LevelReport:
    """Fits the last level of a tokenizer whose other levels are fitted."""
    batches = image_batches(images, num_crops=num_crops, crop_px=None, multiple_px=tok.multiple_px, seed=seed)
    samples = feature_samples(batches, tok.features, multiple_px=tok.multiple_px, device=tok.device)
    (report,) = fit_quantizer(tok.quantizer, samples, first_level=len(tok.quantizer.levels) - 1, seed=seed)
    tok.update_fingerprint()
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the research data with recon/train.csv and seg/")
    parser.add_argument("--model", default="tiny", help="the trained tokenizer (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--entries", type=int, default=1024)
    parser.add_argument("--dim", type=int, default=8)
    parser.add_argument("--crops", type=int, default=1200)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    seg = Segmenter.from_pretrained(args.model)
    tok = with_detail_level(seg.tok, codebook_size=args.entries, dim=args.dim)
    print(fit_detail_level(tok, training_files(args.data) + large_files(args.data), num_crops=args.crops))
    Segmenter(tok, seg.head).save_pretrained(args.out, half=True)


if __name__ == "__main__":
    main()
