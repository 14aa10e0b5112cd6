"""Trains the backbone of the bundled CLIP: maps that keep meaning and pixels, embeddings in the text encoder's space.

    python examples/research/train_tiny/train_image.py --data DATA --cache build/parts/cache --out build/parts/image

Teachers (image_teachers.py, text_teachers.py) are run first and kept in --cache. Stop it at any time; the same command
resumes to the same weights. `--start` takes the trunk of an earlier model. Without a GPU two hours on one CPU core, while the
next step's crops are cut on another; with one (`--device cuda`) minutes.
"""

from __future__ import annotations

import argparse
import math
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from common import build_clip, load_checkpoint, save_checkpoint, trapezoid, update_average
from image_batches import Batch, ImageBatches, Vocabulary
from image_losses import WEIGHTS, Names, Student, student_losses
from image_teachers import make_image_targets
from images import read_crop, training_images
from PIL import Image
from safetensors.torch import load_file
from text_teachers import make_text_targets
from texts import is_test_row, read_rows
from torch import nn

DECAY = 0.3
HEAD_RATE = 0.2


def start_from(student: Student, source: Path) -> None:
    """Copies the trunk (and the helper decoder) of an earlier checkpoint, or of a model in open_clip's directory layout.

    The head is not copied, because it belongs to another text space.
    """
    if source.is_dir():
        found = load_file(source / "open_clip_model.safetensors")
    else:
        found = torch.load(source, map_location="cpu", weights_only=True)["average"]
    renamed = {name.removeprefix("clip."): value.float() for name, value in found.items()}
    own = student.state_dict()
    fitting = {
        name: value for name, value in renamed.items() if name in own and not re.search(r"conv_head|classifier", name)
    }
    student.load_state_dict(fitting, strict=False)
    print(f"started from {len(fitting)} of {len(own)} tensors of {source.name}", flush=True)


def read_ahead(batches: ImageBatches, first: int, steps: int) -> Iterator[tuple[int, Batch]]:
    """Number and batch of every step; the next batch is made beside the step that runs."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(batches, first)
        for step in range(first, steps):
            batch = coming.result()
            if step + 1 < steps:
                coming = thread.submit(batches, step + 1)
            yield step, batch


def make_optimizer(student: nn.Module) -> torch.optim.Optimizer:
    """AdamW whose groups carry their share of the learning rate: 1,280 channels of the head add up, so it steps less.

    No decay for biases, norms and the temperature.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        share = HEAD_RATE if re.search(r"conv_head|classifier|to_pooled|to_cells", name) else 1.0
        groups.setdefault((share, 0.05 if parameter.ndim > 1 else 0.0), []).append(parameter)
    described = [{"params": ps, "share": share, "weight_decay": decay} for (share, decay), ps in groups.items()]
    return torch.optim.AdamW(described, lr=1.0, betas=(0.9, 0.98), fused=True)


@torch.no_grad()
def classification_top1(student: Student, names: Names, vocabulary: Vocabulary, data: Path, px: int = 160) -> float:
    """Top-1 of the test rows among the training labels' names: a figure to watch, not the benchmark's."""
    label_row = {name: i for i, name in enumerate(vocabulary.labels)}
    rows = [r for r in read_rows(data) if r["label"] in label_row and is_test_row(r["file"])]
    right = 0
    for start in range(0, len(rows), 32):
        part = rows[start : start + 32]
        crops = []
        for row in part:
            image = Image.open(data / "recon" / row["file"]).convert("RGB")
            left, top = ((side - min(image.size)) / 2 for side in image.size)
            box = (left, top, left + min(image.size), top + min(image.size))
            crops.append(torch.from_numpy(read_crop(image, box, px).copy()).permute(2, 0, 1).float() / 255)
        images = torch.stack(crops).to(names.labels.device)
        whole = student.hidden(student.maps(images)[-1].mean((2, 3), keepdim=True))
        found = (F.normalize(student.project(whole).flatten(1), dim=1) @ names.labels.T).argmax(1).tolist()
        right += sum(i == label_row[row["label"]] for i, row in zip(found, part, strict=True))
    return right / len(rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="the research data with recon/, seg/, captions/, weights/"
    )
    parser.add_argument("--cache", type=Path, required=True, help="where teachers' outputs are kept")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--start", type=Path, help="take the trunk from here: a checkpoint.pt or an open_clip directory"
    )
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--batch", type=int, default=40, help="crops of 128 px a step; more where they are smaller")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--save-every", type=int, default=500)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    make_text_targets(args.data, args.cache)
    targets = make_image_targets(args.data, args.cache)
    pictures = training_images(args.data)
    vocabulary = Vocabulary(args.data, pictures)
    batches = ImageBatches(args.data, targets, pictures, vocabulary, batch=args.batch)
    names = Names(vocabulary, args.cache).to(device)
    student = Student(build_clip()).to(device, memory_format=torch.channels_last)
    print(f"{len(pictures)} images, {len(vocabulary.labels)} labels, {len(vocabulary.dense)} dense classes", flush=True)
    if args.start:
        start_from(student, args.start)
    optimizer = make_optimizer(student)
    average = {name: value.detach().clone() for name, value in student.state_dict().items()}
    first = 0
    checkpoint = args.out / "checkpoint.pt"
    if (saved := load_checkpoint(checkpoint, args.device)) is not None:
        student.load_state_dict(saved["student"])
        optimizer.load_state_dict(saved["optimizer"])
        average, first = saved["average"], saved["step"]
        print(f"resumed at step {first}", flush=True)

    watched: dict[str, float] = {}
    began, seen = time.time(), 0
    for step, made in read_ahead(batches, first, args.steps):
        torch.manual_seed(step)  # a step's data and noise depend on its number alone: resuming changes nothing
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * trapezoid(step, peak=args.lr, steps=args.steps, decay=DECAY)
        batch = made.to(device)
        student.train()
        with torch.autocast(device.type, torch.bfloat16):
            losses, figures = student_losses(student, batch, names)
        total = torch.stack([WEIGHTS[name] * value.float() for name, value in losses.items()]).sum()
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = float(nn.utils.clip_grad_norm_(student.parameters(), 2.0))
        if not math.isfinite(norm):
            raise RuntimeError(f"gradient is not finite at step {step}: lower --lr")
        optimizer.step()
        update_average(average, student, step)
        seen += len(batch.images)
        for key, value in ({k: float(v.detach()) for k, v in losses.items()} | figures | {"norm": norm}).items():
            if not math.isnan(value):
                watched[key] = 0.98 * watched.get(key, value) + 0.02 * value
        if (step + 1) % 100 == 0:
            line = " ".join(f"{key} {value:.3f}" for key, value in watched.items())
            print(f"step {step + 1} {seen / (time.time() - began):.0f} crops/s {line}", flush=True)
        if (step + 1) % args.save_every == 0 or step + 1 == args.steps:
            state = {"student": student.state_dict(), "optimizer": optimizer.state_dict(), "average": average}
            save_checkpoint({**state, "step": step + 1}, checkpoint)
            if (
                step + 1 <= (1 - DECAY) * args.steps
            ):  # from here a longer training can go on: same command, more --steps
                shutil.copyfile(checkpoint, args.out / "before_decay.pt")
        if (step + 1) % 1000 == 0 or step + 1 == args.steps:
            averaged = Student(build_clip()).to(device, memory_format=torch.channels_last).eval()
            averaged.load_state_dict(average)
            print(f"test rows: top-1 {classification_top1(averaged, names, vocabulary, args.data):.1%}", flush=True)


if __name__ == "__main__":
    main()
