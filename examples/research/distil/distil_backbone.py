"""Distils the bundled model's image network into a small ViT or a small ConvNeXt, with the same text network beside it.

    python examples/research/distil/distil_backbone.py --kind vit --data DATA --out build/distil/vit

The students exist to measure the recipe on learned backbones of other kinds, with `benchmarks/recipe.py --backbone
build/distil/vit/clip`; they are not shipped. They see the training photos of recon/train and wide/ alone. Teacher and student see
the same crop; the loss asks for the teacher's image embedding, its dense features and its probabilities over the names of the
photos, mixed with the photo's own name where it has one. Stop it at any time: the same command goes on, to the same weights. It
takes hours on one CPU core.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # this checkout, from any current directory

from examples.research.distil.distil_images import Batch, DistilImages
from examples.research.train_tiny.common import (
    MODEL_CONFIG,
    load_checkpoint,
    save_checkpoint,
    trapezoid,
    update_average,
)
from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.backbones.open_clip import OpenClipBackbone, find_reader
from pyramid_tokenizer.config.models import BackboneConfig

VISION = {
    # CLIP's own block order: patch embedding without bias, class token, ln_pre, pre-norm blocks. 3.4 million numbers.
    "vit": {"layers": 4, "width": 256, "head_width": 64, "patch_size": 16, "image_size": 160},
    # 3.4 million numbers; layer norm behind the stem and in every block.
    "convnext": {
        "timm_model_name": "convnext_atto",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 160,
    },
}
TEMPERATURE = 0.03
"""Of the probabilities over names, for teacher and student alike."""
OWN_NAME = 0.5
"""Share of the photo's own name in the target; the rest is the teacher's."""
DECAY = 0.3


def build_student(kind: str, teacher: Any) -> tuple[nn.Module, dict[str, Any]]:
    """An open_clip model with a fresh image network and the teacher's text network, and its config."""
    from open_clip.model import CLIP

    config = {**MODEL_CONFIG, "vision_cfg": VISION[kind]}
    torch.manual_seed(0)
    student = CLIP(**config)
    state = teacher.state_dict()
    text = {name: state[name] for name in student.state_dict() if not name.startswith("visual.") and name in state}
    student.load_state_dict(text, strict=False)
    return student.eval(), config


class Distillation:
    """The teacher's side of the loss, and the loss."""

    def __init__(self, tokenizer: PyramidTokenizer, names: list[str]):
        self.teacher = tokenizer.backbone
        self.names = tokenizer.text.encode_names(names).embeddings  # (names, D)

    def loss(self, reader: Any, batch: Batch) -> dict[str, Tensor]:
        """Three terms, each a mean over the batch."""
        target = self.teacher(batch.images, with_dense=True)
        found = reader.with_dense(self.teacher._normalise(batch.images), [0])
        dense = F.adaptive_avg_pool2d(found.dense, target.dense.shape[-2:])
        return {
            "names": self._names(found.embedding, target.embedding, batch.labels),
            "embedding": 1 - F.cosine_similarity(found.embedding, target.embedding).mean(),
            "dense": 1 - F.cosine_similarity(dense, target.dense).mean(),
        }

    def _names(self, found: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        probabilities = (F.normalize(target, dim=1) @ self.names.T / TEMPERATURE).softmax(1)
        known = labels >= 0
        own = F.one_hot(labels.clamp(min=0), len(self.names)).float()
        share = OWN_NAME * known.float()[:, None]
        return F.cross_entropy(F.normalize(found, dim=1) @ self.names.T / TEMPERATURE, probabilities.lerp(own, share))


WEIGHTS = {"names": 0.3, "embedding": 2.0, "dense": 2.0}


def make_optimizer(visual: nn.Module) -> torch.optim.Optimizer:
    """AdamW without decay for biases, norms and positions."""
    groups: dict[float, list[nn.Parameter]] = {0.05: [], 0.0: []}
    for name, parameter in visual.named_parameters():
        groups[0.05 if parameter.ndim > 1 and "positional" not in name else 0.0].append(parameter)
    described = [{"params": parameters, "weight_decay": decay} for decay, parameters in groups.items()]
    return torch.optim.AdamW(described, lr=1.0, betas=(0.9, 0.98), fused=True)


def train(args: argparse.Namespace) -> None:
    tokenizer = PyramidTokenizer.from_pretrained("tiny")
    teacher = tokenizer.backbone
    student, config = build_student(args.kind, teacher.model)
    visual = student.visual.requires_grad_(True)
    numbers = sum(parameter.numel() for parameter in visual.parameters())
    data = DistilImages(args.data, batch=args.batch)
    distillation = Distillation(tokenizer, data.names)
    print(f"{args.kind}: {numbers:,} numbers, {len(data.files):,} photos, {len(data.names)} names", flush=True)
    reader = find_reader(visual)
    optimizer = make_optimizer(visual)
    average = {name: value.detach().clone() for name, value in visual.state_dict().items()}
    first = 0
    if (saved := load_checkpoint(args.out / "checkpoint.pt")) is not None:
        visual.load_state_dict(saved["visual"])
        optimizer.load_state_dict(saved["optimizer"])
        average, first = saved["average"], saved["step"]
        print(f"resumed at step {first}", flush=True)
    watched: dict[str, float] = {}
    began, seen = time.time(), 0
    for step, batch in data.read_ahead(first, args.steps):
        for group in optimizer.param_groups:
            group["lr"] = trapezoid(step, peak=args.lr, steps=args.steps, decay=DECAY)
        losses = distillation.loss(reader, batch)
        optimizer.zero_grad(set_to_none=True)
        sum(WEIGHTS[name] * value for name, value in losses.items()).backward()
        nn.utils.clip_grad_norm_(visual.parameters(), 1.0)
        optimizer.step()
        update_average(average, visual, step, decay=0.999)
        seen += len(batch.images)
        for name, value in losses.items():
            watched[name] = 0.98 * watched.get(name, value.item()) + 0.02 * value.item()
        if (step + 1) % 50 == 0:
            line = " ".join(f"{name} {value:.3f}" for name, value in watched.items())
            print(f"step {step + 1} {seen / (time.time() - began):.0f} crops/s {line}", flush=True)
        if (step + 1) % args.save_every == 0 or step + 1 == args.steps:
            state = {"visual": visual.state_dict(), "optimizer": optimizer.state_dict(), "average": average}
            save_checkpoint({**state, "step": step + 1}, args.out / "checkpoint.pt")
            export(args, student, config, average, teacher)


def export(args: argparse.Namespace, student: Any, config: dict, average: dict[str, Tensor], teacher: Any) -> None:
    """Writes the averaged student as an open_clip directory, DIR/clip."""
    own = {name: value.clone() for name, value in student.visual.state_dict().items()}
    student.visual.load_state_dict(average)
    student.visual.preprocess_cfg = teacher.model.visual.preprocess_cfg
    OpenClipBackbone(student, config=BackboneConfig(), model_config=config, tokenizer=teacher._make_tokenizer).save(
        args.out / "clip"
    )
    student.visual.load_state_dict(own)
    student.visual.requires_grad_(True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=sorted(VISION), required=True)
    parser.add_argument("--data", type=Path, required=True, help="the research data with recon/ and wide/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=32, help="crops of 128 px a step; more where they are smaller")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
