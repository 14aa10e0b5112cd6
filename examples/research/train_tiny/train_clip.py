"""Trains the small CLIP whose trunk and helper decoder are the start of the bundled backbone (`train_image.py --start`).

    python examples/research/train_tiny/train_clip.py --data DATA --out build/tiny-clip

Two losses share the backbone. (1) Image embeddings are matched to the text embeddings of their label names. (2) The helper
decoder of decoder.py reconstructs the pixels from the backbone's maps, so that these keep them.

Writes `open_clip_config.json` and `open_clip_model.safetensors`, the layout that open_clip loads from a local directory.
Stop it at any time; the same command resumes. Device and thread count are options: it takes under an hour on one CPU core.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from common import PREPROCESS_CONFIG
from decoder import CapacityPyramid, decoding_loss
from open_clip.model import CLIP
from PIL import Image
from safetensors.torch import save_file
from texts import is_kept_out, is_test_row
from torch import Tensor, nn

MODEL_CONFIG = {
    "embed_dim": 192,
    "vision_cfg": {
        "timm_model_name": "fasternet_t0",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "",
        "image_size": 256,
    },
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}


def load_rows(data: Path) -> tuple[list[Image.Image], list[str]]:
    """Training images and their label names ('' where there is none), without the test rows and the kept-out names."""
    images, labels = [], []
    with open(data / "recon" / "train.csv") as file:
        for row in csv.DictReader(file):
            if row["label"] and (is_test_row(row["file"]) or is_kept_out(row["label"])):
                continue
            images.append(Image.open(data / "recon" / row["file"]).convert("RGB"))
            labels.append(row["label"].replace("_", " ").lower())
    return images, labels


def random_crop(image: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """A square crop of 62-100 % of the short side, resized to `size`, flipped half of the time. (size, size, 3) uint8."""
    width, height = image.size
    side = min(width, height) * rng.uniform(0.62, 1.0)
    left, top = rng.uniform(0, width - side), rng.uniform(0, height - side)
    crop = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    array = np.asarray(crop)
    return array[:, ::-1] if rng.random() < 0.5 else array


def jitter(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Brightness, contrast and a little colour cast, the same for a whole image. (B, 3, H, W) in [0, 1], both ways."""
    batch = images.shape[0]
    gain = torch.from_numpy(
        rng.uniform(0.75, 1.25, (batch, 1, 1, 1)) * rng.uniform(0.94, 1.06, (batch, 3, 1, 1))
    ).float()
    shift = torch.from_numpy(rng.uniform(-0.12, 0.12, (batch, 1, 1, 1))).float()
    return ((images - 0.5) * gain.to(images.device) + 0.5 + shift.to(images.device)).clamp(0, 1)


class Labels:
    """Label names as CLIP tokens; `choose` gives a batch's names and random others to tell them from."""

    def __init__(self, labels: list[str], device: torch.device):
        self.names = sorted({label for label in labels if label})
        self.index = {name: i for i, name in enumerate(self.names)}
        tokenizer = open_clip.SimpleTokenizer(context_length=MODEL_CONFIG["text_cfg"]["context_length"])
        self.tokens = tokenizer([f"a photo of a {name}" for name in self.names]).to(device)

    def choose(self, batch: list[str], rng: np.random.Generator, others: int = 160) -> tuple[Tensor, Tensor, Tensor]:
        """(rows of the batch with a label, their class among the chosen names, chosen names' tokens)."""
        rows = [row for row, label in enumerate(batch) if label]
        present = sorted({self.index[batch[row]] for row in rows})
        extra = [i for i in rng.permutation(len(self.names))[:others] if i not in set(present)]
        position = {name: i for i, name in enumerate(present)}
        chosen = torch.tensor(present + extra, dtype=torch.long)
        return (
            torch.tensor(rows),
            torch.tensor([position[self.index[batch[row]]] for row in rows]),
            self.tokens[chosen.to(self.tokens.device)],
        )


def export(model: CLIP, directory: Path) -> None:
    """Writes the directory layout that `open_clip.create_model('local-dir:...')` reads, floats as fp16."""
    directory.mkdir(parents=True, exist_ok=True)
    state = {
        name: (t.half() if t.is_floating_point() else t).contiguous().cpu()
        for name, t in model.state_dict().items()
        if name != "attn_mask"
    }
    save_file(state, directory / "open_clip_model.safetensors.part", metadata={"format": "pt"})
    os.replace(directory / "open_clip_model.safetensors.part", directory / "open_clip_model.safetensors")
    (directory / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": MODEL_CONFIG, "preprocess_cfg": PREPROCESS_CONFIG}, indent=2) + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the research data with recon/train.csv")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)

    images, labels = load_rows(args.data)
    for image in images:
        image.load()
    print(f"{len(images)} images, {sum(map(bool, labels))} with a label, {len(set(labels) - {''})} names", flush=True)

    model = CLIP(**{k: MODEL_CONFIG[k] for k in ("embed_dim", "vision_cfg", "text_cfg")}).to(
        device, memory_format=torch.channels_last
    )
    channels = [info["num_chs"] for info in model.visual.trunk.feature_info]
    decoder = CapacityPyramid(channels).to(device, memory_format=torch.channels_last)
    modules = nn.ModuleDict({"clip": model, "decoder": decoder})
    parameters = [p for p in modules.parameters() if p.requires_grad]
    decay = [p for p in parameters if p.ndim > 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decay, "weight_decay": 0.05},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=args.lr,
        betas=(0.9, 0.98),
    )
    average = {name: t.detach().clone() for name, t in modules.state_dict().items()}
    names = Labels(labels, device)
    mean, std = (torch.tensor(PREPROCESS_CONFIG[k], device=device).view(1, 3, 1, 1) for k in ("mean", "std"))

    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / "checkpoint.pt"
    start = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        modules.load_state_dict(saved["modules"])
        optimizer.load_state_dict(saved["optimizer"])
        average, start = saved["average"], saved["step"]
        print(f"resumed at step {start}", flush=True)

    log: dict[str, float] = {}
    began = time.time()
    for step in range(start, args.steps):
        rng = np.random.default_rng((7, step))  # a step's data depends on its number alone: resuming changes nothing
        torch.manual_seed(step)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1.0, (step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * step / args.steps))
        chosen = rng.integers(0, len(images), args.batch)
        pixels = np.stack([random_crop(images[i], args.size, rng) for i in chosen])
        batch = jitter(torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 255, rng)
        modules.train()
        out = model.visual.forward_intermediates(((batch - mean) / std).contiguous(memory_format=torch.channels_last))
        decoded, _, penalty = decoder(out["image_intermediates"])
        decoding = decoding_loss(decoded, batch)
        rows, targets, tokens = names.choose([labels[i] for i in chosen], rng)
        embeddings = F.normalize(out["image_features"][rows.to(device)], dim=-1)
        logits = model.logit_scale.exp().clamp(max=100) * embeddings @ model.encode_text(tokens, normalize=True).T
        naming = F.cross_entropy(logits, targets.to(device), label_smoothing=0.05)
        loss = decoding + 0.05 * penalty + 0.1 * naming
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 2.0)
        if not math.isfinite(float(norm)):
            raise RuntimeError(f"gradient is not finite at step {step}: lower --lr")
        optimizer.step()
        with torch.no_grad():
            for name, tensor in modules.state_dict().items():
                if tensor.is_floating_point():
                    average[name].lerp_(tensor, 1 - min(0.999, (step + 1) / (step + 10)))
                else:
                    average[name].copy_(tensor)
        psnr = -10 * math.log10(float(F.mse_loss(decoded[-1].detach(), batch)))
        accuracy = float((logits.argmax(1).cpu() == targets).float().mean())
        for key, value in {
            "decoding": decoding.item(),
            "penalty": penalty.item(),
            "naming": naming.item(),
            "psnr": psnr,
            "top1": accuracy,
        }.items():
            log[key] = value if key not in log else 0.95 * log[key] + 0.05 * value
        if (step + 1) % 50 == 0:
            rate = (step + 1 - start) * args.batch / (time.time() - began)
            print(
                f"step {step + 1} {rate:.0f} photos/s " + " ".join(f"{k} {v:.3f}" for k, v in log.items()), flush=True
            )
        if (step + 1) % 500 == 0 or step + 1 == args.steps:
            state = {
                "modules": modules.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average,
                "step": step + 1,
            }
            torch.save(state, checkpoint.with_suffix(".part"))
            os.replace(checkpoint.with_suffix(".part"), checkpoint)
            exported = CLIP(**{k: MODEL_CONFIG[k] for k in ("embed_dim", "vision_cfg", "text_cfg")})
            exported.load_state_dict(
                {k.removeprefix("clip."): v for k, v in average.items() if k.startswith("clip.")}, strict=False
            )
            export(exported, args.out)


if __name__ == "__main__":
    main()
