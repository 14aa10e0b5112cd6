"""Trains the segmentation head of the bundled model on the train splits of seg/*, without the kept-out names.

    python examples/research/train_tiny/train_head.py --data DATA --model build/tiny --out build/tiny-head

Stop it at any time; the same command resumes. About a quarter of an hour on two CPU cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from texts import is_kept_out

from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.config.models import SegmentationConfig
from pyramid_tokenizer.images.labelled import SegmentationSet, open_segmentation_set
from pyramid_tokenizer.segmentation.segmenter import Segmenter
from pyramid_tokenizer.training import TrainConfig, train_segmentation

SETS = ("camvid", "ccp", "coco80", "msrc", "voc2012")


def training_sets(data: Path) -> list[SegmentationSet]:
    """The train splits of seg/*."""
    return [open_segmentation_set(data / "seg" / name, split="train") for name in SETS]


def kept_out_names(sets: list[SegmentationSet]) -> set[str]:
    """Names that the head never sees, neither as labels nor as words."""
    return {name for labelled in sets for name in labelled.names if is_kept_out(name)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the research data with seg/")
    parser.add_argument("--model", required=True, help="the trained tokenizer")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--head", help="a model whose head is trained on; a new one without it")
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=192)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--ema-decay", type=float, default=0.998)
    parser.add_argument("--thinning", type=float, default=0.4, help="share of the steps that read sparse pyramids")
    parser.add_argument("--consistency", type=float, default=0.0, help="weight of agreeing with the full pyramid there")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--own-trunk", action="store_true", help="ablation: a trunk of the head's own")
    parser.add_argument("--joint", action="store_true", help="ablation: trunk and pixel decoder learn too")
    parser.add_argument("--continuous", action="store_true", help="control: features before quantisation")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = TrainConfig(
        head_steps=args.steps,
        head_lr=args.lr,
        batch_size=args.batch,
        crop_px=args.crop,
        warmup_steps=args.warmup,
        ema_decay=args.ema_decay,
        thinning=args.thinning,
        consistency=args.consistency,
        save_every=100,
        decoupled=not args.joint,
        mixed_precision="bf16" if args.bf16 else "no",
        workers=args.workers,
    )
    sets = training_sets(args.data)
    train_segmentation(
        PyramidTokenizer.from_pretrained(args.model),
        sets,
        config=config,
        segmentation=SegmentationConfig(width=args.width, depth=args.depth, shared_decoder=not args.own_trunk),
        head=Segmenter.from_pretrained(args.head).head if args.head else None,
        out=args.out,
        left_out=kept_out_names(sets),
        continuous=args.continuous,
        half=True,
    )


if __name__ == "__main__":
    main()
