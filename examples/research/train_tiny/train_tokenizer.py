"""Trains the bundled `tiny` tokenizer on the small CLIP of join_networks.py: gradient-free codebooks, then the decoder.

    python examples/research/train_tiny/train_tokenizer.py --data DATA --clip build/parts/clip --out build/tiny --bf16

Stop it at any time; the same command resumes.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import torch
from texts import is_kept_out, is_test_row
from torch import Tensor

from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.backbones import load_backbone
from pyramid_tokenizer.config.models import BackboneConfig
from pyramid_tokenizer.images import RandomCrops
from pyramid_tokenizer.quantizer import preset_config
from pyramid_tokenizer.training import TrainConfig, finetune, train

BACKBONE = BackboneConfig(kind="open_clip", blocks=(0, 1, 2, 3), stem=True)
FIT_BATCH = 16
FIT_CROPS = (("all", 128, 0.45), ("all", 192, 0.25), ("large", 256, 0.3))
"""Images, side of the crops and share of the batches that the codebooks are fitted on. Images of recon/train have a short
side of 160 px: enlarged to 256 they would teach the finest level to expect blur, so those crops come from seg/* alone."""


def training_files(data: Path) -> list[Path]:
    """recon/train without the rows that texts.py keeps out."""
    with open(data / "recon" / "train.csv") as file:
        rows = list(csv.DictReader(file))
    kept = [r for r in rows if not (r["label"] and (is_test_row(r["file"]) or is_kept_out(r["label"])))]
    return [data / "recon" / row["file"] for row in kept]


def large_files(data: Path) -> list[Path]:
    """The train splits of seg/*, whose images are larger."""
    files = []
    for folder in sorted((data / "seg").iterdir()):
        images = {path.stem: path for path in (folder / "images").iterdir()}
        files += [images[Path(name).stem] for name in (folder / "splits" / "train.txt").read_text().split()]
    return files


def fit_batches(data: Path, crops: int) -> Iterator[Tensor]:
    """The same batches at each call."""
    large = large_files(data)
    files = {"large": large, "all": training_files(data) + large}
    for name, px, share in FIT_CROPS:
        source = RandomCrops(files[name], batch_size=FIT_BATCH, crop_px=px, zoom=1.25, seed=5)
        for index in range(round(crops * share / FIT_BATCH)):
            yield source[index]


def fitted(args: argparse.Namespace) -> PyramidTokenizer:
    """With codebooks; fitted once and kept beside `--out`."""
    kept = args.out.with_name(f"{args.out.name}-base-fitted")
    if (kept / "config.json").exists():
        return PyramidTokenizer.from_pretrained(kept)
    backbone = load_backbone(BACKBONE, directory=args.clip)
    config = preset_config(BACKBONE, strides=backbone.strides)
    tok = PyramidTokenizer.from_config(config, backbone=backbone)
    for report in tok.fit(lambda: fit_batches(args.data, args.fit_crops)):
        print(report, flush=True)
    tok.save_pretrained(kept)
    return PyramidTokenizer.from_pretrained(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the research data with recon/train.csv and seg/")
    parser.add_argument("--clip", type=Path, required=True, help="directory that join_networks.py wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fit-crops", type=int, default=4800)
    parser.add_argument("--decoder-steps", type=int, default=4500)
    parser.add_argument("--prefix-steps", type=int, default=1600, help="of these, most decode the coarse levels alone")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument(
        "--bf16", action="store_true", help="train the decoder in bfloat16: twice as fast where the CPU has it"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes that load images")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    files = training_files(args.data) + large_files(args.data)
    common = {"mixed_precision": "bf16" if args.bf16 else "no", "workers": args.workers, "save_every": 250}
    config = TrainConfig(codebooks="frozen", decoder_steps=args.decoder_steps, batch_size=args.batch, **common)
    base = args.out.with_name(f"{args.out.name}-base")
    tok = train(fitted(args), files, out=base, config=config)
    # level 0 alone showed a faint plaid: larger crops hold more of its cells, and most steps are of a prefix
    prefixes = TrainConfig(batch_size=max(1, args.batch // 2), crop_px=192, level_dropout=0.65, **common)
    finetune(tok, files, steps=args.prefix_steps, codebooks="frozen", config=prefixes, out=args.out, half=True)


if __name__ == "__main__":
    main()
