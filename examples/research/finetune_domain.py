"""Fine-tunes a model on one kind of photo and compares it with the model before and with training from scratch.

    python examples/research/finetune_domain.py --data DATA --domain streets --out build/streets
    python examples/research/finetune_domain.py --train my-photos --test my-other-photos --out build/mine

Three models are measured on held-out photos of the domain and, with --data, on general ones (recon/heldout): the model that
it started from, the same model after `finetune`, and a model that is trained from scratch on the same photos, with the same
backbone and for the same number of steps. Fine-tuning keeps the coordinates of the codes, so the general training of the
decoder is not lost. The script may be stopped at any time; the same command resumes it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import torch

from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.evaluation.metrics import psnr, ssim
from pyramid_tokenizer.images import find_images
from pyramid_tokenizer.images.pixels import to_pil
from pyramid_tokenizer.images.read import to_batch
from pyramid_tokenizer.training import TrainConfig, finetune, train
from pyramid_tokenizer.visualize.sheets import contact_sheet

DOMAINS = {"streets": "camvid", "clothing": "ccp", "objects": "msrc"}
"""Sets of the research data that have a train and a test split."""
EVALUATE_PX = 256
"""The short side of the photos that are measured."""


def split_of(data: Path, domain: str, split: str) -> list[Path]:
    """The image files of one split of a segmentation set of the research data."""
    folder = data / "seg" / DOMAINS[domain]
    names = (folder / "splits" / f"{split}.txt").read_text().split()
    files = {path.stem: path for path in (folder / "images").iterdir()}
    return [files[name] for name in names]


def measure(tok: PyramidTokenizer, files: Sequence[Path]) -> dict[str, float]:
    """Measures the mean PSNR and SSIM of the reconstructions, and the least perplexity of a level, as a share of K."""
    scores, similar, tokens = [], [], []
    for file in files:
        photo = to_batch(file, size=EVALUATE_PX)
        tokens.append(tok.encode(photo))
        decoded = tok.decode(tokens[-1]).cpu()
        scores.append(float(psnr(decoded, photo)))
        similar.append(float(ssim(decoded, photo)))
    perplexity = min(level.perplexity / level.codebook_size for level in tok.health(tokens).levels)
    return {"psnr": fmean(scores), "ssim": fmean(similar), "perplexity": perplexity}


def timed(work: Callable[[], PyramidTokenizer], note: Path) -> tuple[PyramidTokenizer, float]:
    """Returns the model and the minutes of its training, those before an interruption included."""
    before = json.loads(note.read_text())["minutes"] if note.exists() else 0.0
    began = time.perf_counter()
    try:
        return work(), before + (time.perf_counter() - began) / 60
    finally:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"minutes": before + (time.perf_counter() - began) / 60}))


def compare(models: dict[str, PyramidTokenizer], files: Sequence[Path], path: Path) -> None:
    """Writes a sheet of a few photos: the original, then its reconstruction by each model."""
    photos = [to_batch(file, size=EVALUATE_PX) for file in files]
    rows = [[to_pil(photo)[0], *(to_pil(tok.reconstruct(photo))[0] for tok in models.values())] for photo in photos]
    contact_sheet(rows, column_titles=["original", *models]).save(path)


def table(results: dict[str, dict[str, dict[str, float]]], minutes: dict[str, float]) -> str:
    """Formats a row per model: PSNR and SSIM on the photos of each kind, and the minutes of its training."""
    kinds = list(next(iter(results.values())))
    head = ["model", *(f"{kind}: dB / SSIM" for kind in kinds), f"least perplexity, {kinds[0]}", "minutes"]
    lines = [head, ["---"] * len(head)]
    for model, result in results.items():
        figures = [f"{result[kind]['psnr']:.2f} / {result[kind]['ssim']:.3f}" for kind in kinds]
        lines.append([model, *figures, f"{result[kinds[0]]['perplexity']:.0%} of K", f"{minutes.get(model, 0):.1f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the research data, with photos of the domain and general ones")
    parser.add_argument("--domain", choices=DOMAINS, default="streets")
    parser.add_argument("--train", type=Path, help="instead of --data: a folder of photos to train on")
    parser.add_argument("--test", type=Path, help="with --train: a folder of other photos of the same kind")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="tiny", help="the model to start from (default: %(default)s)")
    parser.add_argument("--codebooks", choices=("refit", "continue", "frozen"), default="refit")
    parser.add_argument("--steps", type=int, default=700, help="of the decoder (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=5e-4, help="peak rate of fine-tuning (default: %(default)s)")
    parser.add_argument("--fit-images", type=int, default=1500, help="crops for the codebooks (default: %(default)s)")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16: twice as fast where the CPU has it")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if (args.data is None) == (args.train is None) or (args.train is None) != (args.test is None):
        parser.error("give either --data, or --train and --test")
    return args


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    if args.data:
        own, held_out = (split_of(args.data, args.domain, split) for split in ("train", "test"))
        photos = {args.domain: held_out, "general": find_images(args.data / "recon" / "heldout")}
    else:
        own, held_out = find_images(args.train), find_images(args.test)
        photos = {"own": held_out}
    print(
        f"{len(own)} photos to train on; to measure: " + ", ".join(f"{len(f)} {k}" for k, f in photos.items()),
        flush=True,
    )
    config = TrainConfig(
        mixed_precision="bf16" if args.bf16 else "no", fit_images=args.fit_images, vectors_per_code=32, sheet_every=200
    )
    tuning = dataclasses.replace(config, decoder_lr=args.lr, warmup_steps=50)

    models = {"as it was": PyramidTokenizer.from_pretrained(args.model)}
    start, backbone = PyramidTokenizer.from_pretrained(args.model), models["as it was"].backbone
    empty = PyramidTokenizer.from_config(dataclasses.replace(start.config, fingerprint=""), backbone=backbone)
    tuned, scratch = args.out / "tuned", args.out / "scratch"
    minutes = {}
    models["fine-tuned"], minutes["fine-tuned"] = timed(
        lambda: finetune(start, own, steps=args.steps, codebooks=args.codebooks, out=tuned, config=tuning),
        args.out / "tuned-minutes.json",
    )
    models["from scratch"], minutes["from scratch"] = timed(
        lambda: train(empty, own, config=dataclasses.replace(config, decoder_steps=args.steps), out=scratch),
        args.out / "scratch-minutes.json",
    )
    results = {name: {kind: measure(tok, files) for kind, files in photos.items()} for name, tok in models.items()}
    (args.out / "results.json").write_text(json.dumps({"results": results, "minutes": minutes}, indent=2) + "\n")
    compare(models, held_out[:: max(1, len(held_out) // 3)][:3], args.out / "compare.png")
    print(table(results, minutes))


if __name__ == "__main__":
    main()
