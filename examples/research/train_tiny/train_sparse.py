"""Trains a model's decoder on for sparse pyramids and for its detail level; every id stays.

    python examples/research/train_tiny/add_detail_level.py --data DATA --model tiny --out build/tiny-detail
    python examples/research/train_tiny/train_sparse.py --data DATA --model build/tiny-detail --out build/tiny-sparse

The segmentation head shares the trunk and is trained anew next, by train_head.py. Stop it at any time; the same command resumes.
About 40 minutes on one CPU core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from train_tokenizer import large_files, training_files

from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.training import TrainConfig, finetune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the research data with recon/train.csv and seg/")
    parser.add_argument("--model", required=True, help="the tokenizer that add_detail_level.py wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = TrainConfig(
        batch_size=args.batch,
        crop_px=args.crop,
        decoder_lr=args.lr,
        warmup_steps=50,
        ema_decay=0.995,
        level_dropout=0.15,
        thinning=0.55,
        save_every=50,
    )
    files = training_files(args.data) + large_files(args.data)
    tok = PyramidTokenizer.from_pretrained(args.model)
    finetune(tok, files, steps=args.steps, codebooks="frozen", config=config, out=args.out, half=True)


if __name__ == "__main__":
    main()
