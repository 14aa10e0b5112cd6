"""Trains the bundled `tiny` tokenizer on the small CLIP of join_towers.py: closed-form codebooks, refinement, decoder.

    python examples/train_tiny/train_tokenizer.py --data ../shared/data --clip build/v1/clip --out build/tiny-v1

Stop it at any time; the same command resumes. Copy the result to pyramid_tokenizer/assets/ to bundle it.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch
from texts import is_kept_out, is_test_row

from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.backbones import load_backbone
from pyramid_tokenizer.config import BackboneConfig, DecoderConfig, LevelConfig, QuantizerConfig, TokenizerConfig
from pyramid_tokenizer.training import TrainConfig, train

# At 256 x 256: 64 x 8 + 256 x 10 + 1024 x 13 = 16,384 bits, exactly a quarter bit per pixel. Few dimensions at the fine
# level: 13 bits describe 8 of them well. benchmarks/closed_form.py: 24, 16 and 12 dimensions give 0.2 dB more from ids, but
# lose 2.3 dB instead of 1.1 to their own unquantised values, and use the codebook less evenly.
CONFIG = TokenizerConfig(
    backbone=BackboneConfig(kind="open_clip", blocks=(0, 1, 2, 3)),
    quantizer=QuantizerConfig(
        composition="residual",
        levels=(
            LevelConfig(stride=32, maps=(0, 1), codebook_size=256, dim=16, semantic_weight=0.5),
            LevelConfig(stride=16, maps=(1, 2), codebook_size=1024, dim=12, semantic_weight=0.25),
            LevelConfig(stride=8, maps=(2, 3), codebook_size=8192, dim=8, semantic_weight=0.05),
        ),
    ),
    decoder=DecoderConfig(widths=(160, 128, 128), depths=(2, 2, 4), pixel_widths=(64,), pixel_depth=2),
)


def training_files(data: Path) -> list[Path]:
    """recon/train without the rows that texts.py keeps out."""
    with open(data / "recon" / "train.csv") as file:
        rows = list(csv.DictReader(file))
    kept = [r for r in rows if not (r["label"] and (is_test_row(r["file"]) or is_kept_out(r["label"])))]
    return [data / "recon" / row["file"] for row in kept]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the data pack: holds recon/train.csv")
    parser.add_argument("--clip", type=Path, required=True, help="directory that join_towers.py wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--codebook-steps", type=int, default=0)
    parser.add_argument("--decoder-steps", type=int, default=4500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument(
        "--bf16", action="store_true", help="train the decoder in bfloat16: twice as fast where the CPU has it"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes that load pictures")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    tok = PyramidTokenizer.from_config(CONFIG, backbone=load_backbone(CONFIG.backbone, directory=args.clip))
    config = TrainConfig(
        codebook_steps=args.codebook_steps,
        decoder_steps=args.decoder_steps,
        batch_size=args.batch,
        mixed_precision="bf16" if args.bf16 else "no",
        workers=args.workers,
    )
    train(tok, training_files(args.data), out=args.out, config=config, half=True)


if __name__ == "__main__":
    main()
