"""Trains one small tokenizer for each of the paper's ablations and prints their figures as one table.

    python examples/research/ablations.py --data DATA [--variants base,last-layer] [--steps N] [--images N] [--quick]
    python examples/research/ablations.py --data DATA --segmentation [--head-steps N]
    python examples/research/ablations.py --list

Every row is the bundled model with one thing changed (see `variants.py`) and is trained anew: the codebooks are fitted without
gradients on the same crops, and the decoder then trains for `--steps` steps with the same crops, the same seed and level dropout.
All rows are measured on recon/val, which is tuning data. Two rows use small backbones of their own (see `backbones.py`), which
differ only in their normalisation: compare these two with each other. The figures of a finished row are kept in `--out`, so the
same command continues where it was stopped. It needs the extras `train` and `eval`.

`--segmentation` prints the table of the semantic branch instead: a shared or a separate decoder, and decoupled or joint learning
(see `ablations_segmentation.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout, from any current directory

from benchmarks import baselines, twins
from benchmarks.reconstruction import DECODE_BATCH, SIDE_PX, decode, encode, number, say, score, table
from examples.research import ablations_segmentation as heads
from examples.research import backbones
from examples.research.ablations_kept import kept
from examples.research.variants import VARIANTS
from pyramid_tokenizer import PyramidTokenizer, TokenPyramid
from pyramid_tokenizer.backbones import Backbone, load_backbone
from pyramid_tokenizer.backbones.features import semantic_target
from pyramid_tokenizer.config.models import BackboneConfig, TokenizerConfig
from pyramid_tokenizer.training import TrainConfig, train

VECTORS_PER_CODE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What all rows of a table share. Rows of other settings are kept beside them, never mixed."""

    images: int = 1000
    """Crops of the gradient-free fit."""
    steps: int = 200
    """Of the decoder; 0 measures the linear reconstruction of the codes."""
    backbone_steps: int = 300
    """Of the small backbones."""
    batch_size: int = 32
    """Crops per step."""
    crop_px: int = 128
    """Side of a crop."""
    val_images: int = 100
    """Measured images of recon/val."""
    side_px: int = SIDE_PX
    """Side of a measured image."""
    bf16: bool = False
    """Whether decoders train in bfloat16."""


QUICK = Settings(images=64, steps=5, backbone_steps=5, val_images=2)


def trained(
    config: TokenizerConfig, backbone: Backbone, images: Path, settings: Settings, *, refine: bool
) -> PyramidTokenizer:
    """A tokenizer of that config on that backbone: codebooks without gradients, then the decoder."""
    torch.manual_seed(0)  # of the decoder's first weights
    config = dataclasses.replace(config, backbone=backbone.config, fingerprint="")
    tok = PyramidTokenizer.from_config(config, backbone=backbone)
    plan = TrainConfig(
        fit_images=settings.images,
        vectors_per_code=VECTORS_PER_CODE,
        codebook_steps=settings.steps if refine else 0,
        decoder_steps=settings.steps,
        batch_size=settings.batch_size,
        crop_px=settings.crop_px,
        warmup_steps=settings.steps // 10,
        ema_decay=max(0.0, 1 - 10 / max(1, settings.steps)),  # the default remembers longer than such a short run
        mixed_precision="bf16" if settings.bf16 else "no",
    )
    with contextlib.redirect_stdout(sys.stderr):
        return train(tok, images, config=plan)


def backbone_on(norm: str, data: Path, out: Path, settings: Settings) -> Backbone:
    """A small backbone with that norm, trained first where that was not done before."""
    folder = out / "backbones" / f"{norm}-{settings.backbone_steps}x{settings.batch_size}x{settings.crop_px}px"
    shape = {"batch_size": settings.batch_size, "crop_px": settings.crop_px}
    backbones.train_backbone(norm, data, folder, steps=settings.backbone_steps, **shape)
    backbones.register_layer_norm_trunk()
    return load_backbone(BackboneConfig(name=f"local-dir:{folder}", blocks=(0, 1, 2, 3)))


def measure(tok: PyramidTokenizer, images: Tensor) -> dict[str, Any]:
    """A row's figures on (N, 3, H, W) uint8 images; lists are per level, `psnr` at the end of each."""
    tokens = encode(tok, images, DECODE_BATCH)
    prefixes = [tokens[:count] for count in range(1, len(tokens) + 1)]
    scores = [score(f"{len(prefix)} levels", images, decode(tok, prefix).images, None) for prefix in prefixes]
    health = tok.health(tokens).levels
    cosines, constant = alignment(tok, images, tokens)
    return {
        "bits_per_pixel": tokens.bits_per_pixel,
        "strides": list(tok.quantizer.strides[: len(tokens)]),
        "psnr": [row.psnr for row in scores],
        "ssim": scores[-1].ssim,
        "usage": [level.usage for level in health],
        "perplexity_share": [level.perplexity_share for level in health],
        "alignment": cosines,
        "constant_alignment": constant,
    }


@torch.no_grad()
def alignment(tok: PyramidTokenizer, images: Tensor, tokens: TokenPyramid) -> tuple[list[float], float]:
    """How well the text embeddings of codes agree with the backbone's dense features.

    Args:
        tok: Made the tokens.
        images: (N, 3, H, W) uint8.
        tokens: Of the images.

    Returns:
        Per level, the mean cosine of a cell's text embedding with the dense features there; and the mean cosine that the best
        single vector for all cells would reach on the grid of level 0.
    """
    cosines: list[list[Tensor]] = [[] for _ in range(len(tokens))]
    centres = []
    for image, single in zip(images, tokens.unbind(), strict=True):
        features = tok.features(image[None] / 255, with_dense=True)
        for level, text in enumerate(tok.quantizer.text_embedding_maps(tok.codes(single))):
            dense = semantic_target(features, text.shape[-2:])  # (1, D, h, w)
            cosines[level].append((F.normalize(text, dim=1) * dense).sum(1).mean())
        centres.append(semantic_target(features, single.grids[0]).mean((0, 2, 3)))
    # the mean cosine of unit vectors with the direction of their mean is the length of that mean
    return [float(torch.stack(level).mean()) for level in cosines], float(torch.stack(centres).mean(0).norm())


def row_of(
    name: str, base: PyramidTokenizer, images: Tensor, *, data: Path, out: Path, settings: Settings
) -> dict[str, Any]:
    """A variant's figures: those kept in `out`, or new ones, which are kept there."""
    variant = VARIANTS[name]
    config = variant.change(twins.without_detail(base.config))

    def make() -> dict[str, Any]:
        say(f"{name}: {variant.what}")
        backbone = backbone_on(variant.norm, data, out, settings) if variant.norm else base.backbone
        began = time.perf_counter()
        tok = trained(config, backbone, data / "recon" / "train", settings, refine=variant.refine)
        return {"minutes": (time.perf_counter() - began) / 60, **measure(tok, images)}

    made_from = {
        "settings": dataclasses.asdict(settings),
        "config": dataclasses.asdict(config),
        "norm": variant.norm,
        "refine": variant.refine,
    }
    return kept(out, name, made_from, make)


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """One table. PSNR is that at the end of each grid, so that rows with two levels on a grid stand under the same heads."""
    strides = sorted({stride for row in rows for stride in row["strides"]}, reverse=True)
    psnrs = [f"PSNR to stride {stride}" for stride in strides]
    shares = ("used, %", "perplexity, % of K", "alignment", "of a constant", "minutes")
    return table(("variant", "bits per pixel", *psnrs, "SSIM", *shares), [cells(row, strides) for row in rows])


def cells(row: dict[str, Any], strides: Sequence[int]) -> list[str]:
    ends = dict(zip(row["strides"], row["psnr"], strict=True))  # of several levels on a grid, the last one's
    return [
        row["variant"],
        number(row["bits_per_pixel"], 3),
        *(number(ends.get(stride), 2) for stride in strides),
        number(row["ssim"], 3),
        " / ".join(number(100 * share, 0) for share in row["usage"]),
        " / ".join(number(100 * share, 0) for share in row["perplexity_share"]),
        " / ".join(number(cosine, 2) for cosine in row["alignment"]),
        number(row["constant_alignment"], 2),
        number(row["minutes"], 1),
    ]


OPTIONS = {
    "--images": "images",
    "--steps": "steps",
    "--backbone-steps": "backbone_steps",
    "--head-steps": "head_steps",
    "--batch": "batch_size",
    "--crop": "crop_px",
    "--val-images": "val_images",
}
"""Numbers of `Settings` and `HeadSettings` that the command line can change."""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path("research-data"), help="holds recon/train, recon/val and seg/"
    )
    parser.add_argument("--out", type=Path, default=Path("build/ablations"), help="where figures are kept")
    parser.add_argument("--model", default="tiny", help="whose backbone and levels (default: %(default)s)")
    parser.add_argument("--segmentation", action="store_true", help="the table of the semantic branch")
    parser.add_argument("--variants", metavar="A,B", help="only these rows")
    parser.add_argument("--list", action="store_true", help="say what the variants of both tables are, and end")
    parser.add_argument("--quick", action="store_true", help="few steps, to see that it runs: the figures mean nothing")
    for option, field in OPTIONS.items():
        parser.add_argument(option, dest=field, type=int, metavar="N", help=defaults_of(field))
    parser.add_argument("--bf16", action="store_true", default=None, help="to train in: faster where the CPU has it")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    args = parser.parse_args(argv)
    known = heads.VARIANTS if args.segmentation else VARIANTS
    args.variants = args.variants.split(",") if args.variants else list(known)
    if unknown := [name for name in args.variants if name not in known]:
        parser.error(f"expected some of {', '.join(known)}, got {', '.join(unknown)}: --list says what they are")
    wrong = given(args).keys() - dataclasses.asdict(quick(args)).keys()
    if other := [option for option, field in OPTIONS.items() if field in wrong]:
        parser.error(f"expected options of this table, got {', '.join(other)}: see --segmentation")
    return args


def defaults_of(field: str) -> str:
    """An option's help."""
    tables = {"default": Settings(), "with --segmentation": heads.HeadSettings()}
    return ", ".join(f"{title}: {getattr(table, field)}" for title, table in tables.items() if hasattr(table, field))


def quick(args: argparse.Namespace) -> Settings | heads.HeadSettings:
    """The settings of `--quick` of the table that is asked for."""
    return heads.QUICK if args.segmentation else QUICK


def given(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line changes in the settings."""
    values = {field: getattr(args, field) for field in (*OPTIONS.values(), "bf16")}
    return {field: value for field, value in values.items() if value is not None}


def settings_of(args: argparse.Namespace) -> Settings | heads.HeadSettings:
    start = quick(args) if args.quick else type(quick(args))()
    return dataclasses.replace(start, **given(args))


def list_variants() -> str:
    levels, semantic = ([f"{name:16} {row.what}" for name, row in rows.items()] for rows in (VARIANTS, heads.VARIANTS))
    return "\n".join([*levels, "", "with --segmentation:", *semantic])


def main() -> None:
    args = parse()
    if args.list:
        print(list_variants())
        return
    torch.set_num_threads(args.threads)
    settings = settings_of(args)
    base = PyramidTokenizer.from_pretrained(args.model)
    images = baselines.load_images(args.data / "recon" / "val", side=settings.side_px, limit=settings.val_images)
    where = {"data": args.data, "out": args.out, "settings": settings}
    row, show = (heads.row_of, heads.to_markdown) if args.segmentation else (row_of, to_markdown)
    print(show([row(name, base, images, **where) for name in args.variants]))


if __name__ == "__main__":
    main()
