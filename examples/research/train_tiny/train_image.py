"""Trains the backbone of the bundled CLIP: dense features and embeddings in the text encoder's space.

    python examples/research/train_tiny/train_image.py --data DATA --clip CLIP --out build/parts/image

`--clip` is the CLIP to start from, of train_text.py or an earlier one: its text encoder stays and gives the targets. The new
CLIP is written to `clip` in --out. The teachers (image_teachers.py) read the next step's crops on another core while
a step runs. Stop it at any time; the same command resumes to the same weights.
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

import numpy as np
import torch
import torch.nn.functional as F
from common import build_clip, export_clip, load_checkpoint, save_checkpoint, trapezoid, update_average
from image_batches import Batch, ImageBatches, Vocabulary
from image_losses import WEIGHTS, Names, Student, student_losses
from image_teachers import ImageTeachers, to_batch
from images import TrainingImage, centre_square, crop_box, read_crop, sampling_weights, training_images
from open_clip.model import CLIP
from PIL import Image
from safetensors.torch import load_file
from texts import is_test_row, read_rows
from torch import Tensor, nn

DECAY = 0.6
RECALIBRATED = ((160, 12), (256, 18))
"""Sides of the crops, and how many batches of 16 of them, that give the statistics of the norms of the averaged weights."""
LAST = 0.25
"""Share of the steps, at the end, that see larger crops."""
HEAD_RATE = 0.2


def load_clip(source: Path) -> CLIP:
    """A CLIP in open_clip's directory layout, as float32."""
    clip = build_clip()
    found = {name: value.float() for name, value in load_file(source / "open_clip_model.safetensors").items()}
    clip.load_state_dict(found)
    return clip.eval()


def read_ahead(batches: ImageBatches, first: int, steps: int) -> Iterator[tuple[int, Batch]]:
    """Number and batch of every step; the next batch is made beside the step that runs."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(batches, first)
        for step in range(first, steps):
            batch = coming.result()
            if step + 1 < steps:
                coming = thread.submit(batches, step + 1)
            yield step, batch


def averaged_student(average: dict[str, Tensor], device: torch.device) -> Student:
    """The student with the moving average of its weights."""
    averaged = Student(build_clip()).to(device, memory_format=torch.channels_last)
    averaged.load_state_dict(average)
    return averaged.eval()


def blended(trained: dict[str, Tensor], start: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """The trained weights with a share of those that the training started from, which keeps more of what these knew."""
    return {
        name: value.lerp(start[name].to(value), share) if name in start and value.is_floating_point() else value
        for name, value in trained.items()
    }


@torch.no_grad()
def recalibrate(student: Student, photos: list[TrainingImage]) -> None:
    """Measures the statistics of the norms anew, on large crops: weights that are averages need statistics of their own."""
    stem = set(student.visual.trunk.patch_embed.modules())
    for module in student.visual.trunk.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module not in stem:
            module.reset_running_stats()
            module.momentum = None  # the plain mean over all batches
            module.train()
    weights, rng = sampling_weights(photos), np.random.default_rng(3)
    for px, count in RECALIBRATED:
        for _ in range(count):
            crops = []
            for index in rng.choice(len(photos), 16, p=weights):
                image = Image.open(photos[index].file).convert("RGB")
                crops.append(read_crop(image, crop_box(image.size, rng), px))
            student.hidden(student.maps(to_batch(crops).to(student.mean.device))[-1])
    student.eval()


def make_optimizer(student: nn.Module) -> torch.optim.Optimizer:
    """AdamW whose groups carry their share of the learning rate: 1,280 channels of the head add up, so it steps less.

    No decay for biases, norms and the temperature.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        if not parameter.requires_grad:
            continue
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
        images = to_batch([centre_square(data / "recon" / row["file"], px) for row in part]).to(names.labels.device)
        whole = student.hidden(student.maps(images)[-1].mean((2, 3), keepdim=True))
        found = (F.normalize(student.project(whole).flatten(1), dim=1) @ names.labels.T).argmax(1).tolist()
        right += sum(i == label_row[row["label"]] for i, row in zip(found, part, strict=True))
    return right / max(1, len(rows))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="the research data with recon/, seg/, captions/, weights/"
    )
    parser.add_argument("--clip", type=Path, required=True, help="directory of the CLIP to start from")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--keep-start", type=float, default=0.0, help="share of --clip's own weights in the result")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=40, help="crops of 128 px a step; more where they are smaller")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--save-every", type=int, default=500)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16: faster where the machine has it")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    photos = training_images(args.data)
    vocabulary = Vocabulary(args.data, photos)
    teachers = ImageTeachers(args.data, photos, args.out / "components.npz")
    batches = ImageBatches(teachers, photos, vocabulary, batch=args.batch, last_from=round((1 - LAST) * args.steps))
    clip = load_clip(args.clip)
    names = Names(vocabulary, clip).to(device)
    start = {f"visual.{name}": value.clone() for name, value in clip.visual.state_dict().items()}
    student = Student(clip).to(device, memory_format=torch.channels_last)
    print(f"{len(photos)} images, {len(vocabulary.labels)} labels, {len(vocabulary.dense)} dense classes", flush=True)
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
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
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
        if (step + 1) % 1000 == 0:
            averaged = averaged_student(average, device)
            print(f"test rows: top-1 {classification_top1(averaged, names, vocabulary, args.data):.1%}", flush=True)
    averaged = averaged_student(blended(average, start, args.keep_start), device)
    recalibrate(averaged, photos)
    print(f"at the end: top-1 {classification_top1(averaged, names, vocabulary, args.data):.1%}", flush=True)
    clip.visual = averaged.visual
    clip.logit_scale = averaged.log_scale
    export_clip(clip, args.out / "clip")


if __name__ == "__main__":
    main()
