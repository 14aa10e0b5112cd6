"""Trains the bundled `tiny` tokenizer on the small CLIP of train_image.py: gradient-free codebooks, then the decoder.

    python examples/research/train_tiny/train_tokenizer.py --data DATA --clip CLIP --out build/tiny --decoder tiny

CLIP is what train_image.py wrote; `--model MODEL` in its place goes on with the decoder of a model whose codebooks are fitted.
Stop it at any time; the same command resumes. The codebooks take minutes, the decoder an hour on one CPU core.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from image_teachers import to_batch
from images import TrainingImage, centre_square, training_images
from torch import Tensor

from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.backbones import load_backbone
from pyramid_tokenizer.backbones.features import FeaturePyramid
from pyramid_tokenizer.config.models import BackboneConfig, LevelConfig, QuantizerConfig
from pyramid_tokenizer.images import RandomCrops
from pyramid_tokenizer.quantizer import preset_config
from pyramid_tokenizer.quantizer.fit.image_codes import fit_embedding
from pyramid_tokenizer.quantizer.fit.levels import ITERATIONS
from pyramid_tokenizer.training import TrainConfig, finetune

BACKBONE = BackboneConfig(kind="open_clip", blocks=(0, 1, 2, 3), stem=True)
STEM = 4
LEVELS = tuple(
    LevelConfig(
        stride=stride, maps=(STEM,), codebook_size=size, dim=dim, semantic_weight=weight, reads_dense=weight > 0
    )
    for stride, size, dim, weight in ((32, 4096, 64, 0.5), (16, 4096, 32, 0.0), (8, 4096, 16, 0.0), (4, 1024, 8, 0.0))
)
"""The last one is a detail level. Image tokens hold the names, so only the coarsest level has a semantic weight, and a lower
one than the recipe's: this leaves more of the tokens for pixels. Measured on 40 validation photos of 256 px, 2,400 crops, no
decoder: weights of .6 and .2 give 17.18 and 21.06 dB by one and two levels, .5 and 0 give 17.53 and 21.17; with 8,192 entries
at level 1, 21.29."""
IMAGE_CODEBOOKS = (256,) * 12
"""More than the recipe's eight, because the levels hold fewer of the names."""
FIT_BATCH = 16
FIT_CROPS = (("all", 128, 0.45), ("all", 160, 0.25), ("large", 256, 0.3))
"""Images, side of the crops and share of the batches that the codebooks are fitted on. Most images have a short side of 160 px:
enlarged to 256 they would teach the finest level to expect blur, so those crops come from the larger images alone."""
LARGE = ("camvid", "ccp", "coco80", "msrc")


def training_files(photos: Sequence[TrainingImage]) -> list[Path]:
    """The training images with a short side of 96 px or more."""
    return [photo.file for photo in photos if not photo.small]


def large_files(photos: Sequence[TrainingImage]) -> list[Path]:
    """Those of the sets whose images are larger."""
    return [photo.file for photo in photos if photo.dense is not None and photo.source in LARGE]


def fit_batches(photos: Sequence[TrainingImage], crops: int) -> Iterator[Tensor]:
    """The same batches at each call."""
    files = {"large": large_files(photos), "all": training_files(photos)}
    for name, px, share in FIT_CROPS:
        source = RandomCrops(files[name], batch_size=FIT_BATCH, crop_px=px, zoom=1.25, seed=5)
        for index in range(round(crops * share / FIT_BATCH)):
            yield source[index]


def fitted(args: argparse.Namespace, photos: Sequence[TrainingImage]) -> PyramidTokenizer:
    """With codebooks and the decoder to start from; fitted once and kept beside `--out`."""
    kept = args.out.with_name(f"{args.out.name}-fitted")
    if not (kept / "config.json").exists():
        backbone = load_backbone(BACKBONE, directory=args.clip)
        quantizer = QuantizerConfig(levels=LEVELS, detail_levels=1, image_codebooks=IMAGE_CODEBOOKS)
        config = preset_config(BACKBONE, strides=backbone.strides, levels=LEVELS[: quantizer.base_levels])
        tok = PyramidTokenizer.from_config(dataclasses.replace(config, quantizer=quantizer), backbone=backbone)
        for report in tok.fit(lambda: fit_batches(photos, args.fit_crops)):
            print(report, flush=True)
        fit_image_tokens(tok, photos)
        if args.decoder:
            start_decoder(tok, PyramidTokenizer.from_pretrained(args.decoder))
        tok.save_pretrained(kept)
    return PyramidTokenizer.from_pretrained(kept)


def fit_image_tokens(tok: PyramidTokenizer, photos: Sequence[TrainingImage]) -> None:
    """Fits image tokens, and what the cells add to them, on all images, whole: the crops of the levels are fewer and show parts.

    Few images give entries that fit these alone: on 1,500 others, codes of 6,286 and of 17,357 images have a cosine of .880 and
    .888 with the image embedding.
    """
    files = [photo.file for photo in photos]

    def samples() -> Iterator[tuple[FeaturePyramid, None]]:
        for start in range(0, len(files), FIT_BATCH):
            batch = to_batch([centre_square(file, 256) for file in files[start : start + FIT_BATCH]])
            yield tok.features(batch), None

    fit_embedding(tok.quantizer, samples, ITERATIONS, torch.Generator().manual_seed(0))
    tok.update_fingerprint()


def start_decoder(tok: PyramidTokenizer, earlier: PyramidTokenizer) -> None:
    """Takes over an earlier model's trunk and pixel decoder, without the layers that read its codes."""
    for part in ("trunk", "pixel_decoder"):
        own, found = getattr(tok, part), getattr(earlier, part).state_dict()
        kept = {name: value for name, value in found.items() if not name.startswith("embed.")}
        own.load_state_dict({**own.state_dict(), **kept})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the research data of examples/research/README.md")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--clip", type=Path, help="`clip` of what train_image.py wrote: fit codebooks on it")
    source.add_argument("--model", help="a tokenizer whose codebooks stay and whose decoder is trained on")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--decoder", help="with --clip: start from this model's decoder; from a fresh one without it")
    parser.add_argument("--fit-crops", type=int, default=4800)
    parser.add_argument("--steps", type=int, default=3000, help="of the decoder, on crops of 128 px")
    parser.add_argument("--large-steps", type=int, default=600, help="after them, on crops of 256 px of larger images")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=7e-4)
    parser.add_argument(
        "--bf16", action="store_true", help="train the decoder in bfloat16: twice as fast where the CPU has it"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes that load images")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if args.model and args.decoder:
        parser.error("expected --model alone, got --decoder too: --model trains the decoder that it has")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    common = TrainConfig(
        batch_size=args.batch,
        decoder_lr=args.lr,
        level_dropout=0.3,
        thinning=0.35,
        ema_decay=0.997,
        mixed_precision="bf16" if args.bf16 else "no",
        workers=args.workers,
        save_every=100,
    )
    base = args.out.with_name(f"{args.out.name}-base")
    photos = training_images(args.data)
    tok = PyramidTokenizer.from_pretrained(args.model) if args.model else fitted(args, photos)
    files = training_files(photos)
    tok = finetune(tok, files, steps=args.steps, codebooks="frozen", config=common, out=base)
    large = dataclasses.replace(
        common, crop_px=256, batch_size=max(1, args.batch // 4), decoder_lr=args.lr / 3, warmup_steps=50
    )
    files = large_files(photos)
    finetune(tok, files, steps=args.large_steps, codebooks="frozen", config=large, out=args.out, half=True)


if __name__ == "__main__":
    main()
