"""Measures how much of the image the recipe's levels keep on full-size backbones with random weights.

    python benchmarks/random_backbones.py --images DIR --test DIR [ViT-B-16 RN50 ...]

Random weights know nothing of semantics, but their first layers keep pixels as learned ones do, and they need no download. Each
backbone is saved as an open_clip directory and loaded as anyone would load it; the fit sees `--crops` random crops of `--images`;
the table has the mean PSNR of the linear reconstruction of the central squares of `--test` by prefix of levels. Progress goes
to stderr.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, from any current directory

from benchmarks.recipe import BATCH, centre_crop, reconstruct
from benchmarks.reconstruction import number, say, table
from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.backbones.open_clip import OpenClipBackbone
from pyramid_tokenizer.config.models import BackboneConfig
from pyramid_tokenizer.images import RandomCrops, list_folder, open_images

NAMES = ("ViT-B-16", "ViT-B-16-SigLIP2", "convnext_base", "RN50")
SMALL_TEXT = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}


def save_random(name: str, directory: Path) -> None:
    """Writes an open_clip directory of the image network of that name, with random weights and a small text network."""
    import open_clip
    from open_clip.model import CLIP

    found: dict[str, Any] = open_clip.get_model_config(name) or {}
    vision = {**found["vision_cfg"], "timm_model_pretrained": False}
    config = {"embed_dim": found["embed_dim"], "vision_cfg": vision, "text_cfg": SMALL_TEXT}
    torch.manual_seed(0)
    model = CLIP(**config).eval()
    model.visual.preprocess_cfg = {"mean": (0.48, 0.46, 0.41), "std": (0.27, 0.26, 0.28)}
    OpenClipBackbone(model, config=BackboneConfig(), model_config=config, tokenizer=str).save(directory, half=False)


def row_of(name: str, args: argparse.Namespace) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        save_random(name, Path(folder))
        tok = PyramidTokenizer.from_backbone(folder)
    crops = RandomCrops(open_images(args.images), batch_size=BATCH, crop_px=args.px)
    say(f"{name}: fitting")
    reports = tok.fit([crops[i][: args.crops - i * BATCH] for i in range(-(-args.crops // BATCH))])
    say(f"{name}: measuring")
    files = list_folder(args.test).files[: args.shown]
    images = torch.cat([centre_crop(file, args.px) for file in files])
    rate = tok.encode(images[:1]).bits_per_pixel
    decibels = " ".join(number(value, 2) for value in reconstruct(tok, images))
    semantics = " ".join(number(100 * report.semantics_explained, 0) + " %" for report in reports)
    return [name, number(rate, 3), decibels, semantics]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"open_clip model names (default: {' '.join(NAMES)})")
    parser.add_argument("--images", type=Path, required=True, help="folder to fit on")
    parser.add_argument("--test", type=Path, required=True, help="folder to measure")
    parser.add_argument("--crops", type=int, default=200)
    parser.add_argument("--px", type=int, default=256)
    parser.add_argument("--shown", type=int, default=40, help="images to measure (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    head = ["random weights", "bits/px", "dB by prefix", "semantic target explained by level"]
    print(table(head, [row_of(name, args) for name in args.names or NAMES]))


if __name__ == "__main__":
    main()
