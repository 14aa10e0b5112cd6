"""Two small backbones that differ only in their normalisation: the same timm trunk, trained from scratch on the same crops.

Batch norm scales a channel by the same factors for every image. Layer norm scales every cell by its own factors, so brightness
and contrast are lost from the maps. `train_backbone` trains FasterNet-T0 with either of them on recon/train, with two losses:
the image embedding predicts the name of the image's label, and a small decoder reconstructs the image from the maps through
codes of limited capacity. The result is a folder that `BackboneConfig(name="local-dir:...")` loads once
`register_layer_norm_trunk` has been called. Its text encoder is not trained.
"""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from pyramid_tokenizer.backbones import OpenClipBackbone
from pyramid_tokenizer.backbones.open_clip import CONFIG_FILE
from pyramid_tokenizer.config.models import BackboneConfig
from pyramid_tokenizer.training.state import load_state, save_state

TRUNKS = {"batch": "fasternet_t0", "layer": "fasternet_t0_layer_norm"}
"""timm's name of the trunk with each norm."""
EMBEDDING_DIM = 192
CODE_CHANNELS = 32
CAPACITY_BITS = (8.0, 10.0, 13.0)
"""What a cell's code may hold, coarse to fine: the bits of the bundled model's codebooks."""
NATURAL_MEAN, NATURAL_VARIANCE = 0.45, 0.07
"""Of natural pixels: decoding starts from the mean, and squared errors are told as shares of the variance."""
NAMING_WEIGHT = 0.1
PENALTY_WEIGHT = 0.05
LEARNING_RATE = 2e-3
SAVE_EVERY = 100


def register_layer_norm_trunk() -> None:
    """Teaches timm, which open_clip asks by name, the trunk with layer norm over the channels of each cell."""
    import timm
    from timm.layers.norm import LayerNorm2d
    from timm.models import register_model

    def fasternet_t0_layer_norm(pretrained: bool = False, **options: Any) -> nn.Module:
        return timm.create_model("fasternet_t0", pretrained=pretrained, norm_layer=LayerNorm2d, **options)

    if not timm.is_model(TRUNKS["layer"]):
        register_model(fasternet_t0_layer_norm)


def model_config(norm: str) -> dict[str, Any]:
    """open_clip's description of the dual backbone with that norm."""
    vision = {"timm_model_name": TRUNKS[norm], "timm_pool": "avg", "timm_proj": "", "image_size": 256}
    text = {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1}
    return {"embed_dim": EMBEDDING_DIM, "vision_cfg": vision, "text_cfg": text}


class CapacityDecoder(nn.Module):
    """A decoder that is thrown away after training: maps -> noisy codes -> images at 1/4, 1/2 and full resolution.

    Unit Gaussian noise is added to every cell's code; what survives it, the sum over channels of 1/2 log2(1 + variance), is
    held at the bits of a codebook. So the backbone learns features that a codebook of that size can carry.
    """

    def __init__(self, channels: list[int]):
        super().__init__()
        c4, c8, c16, c32 = channels
        inputs = (c32 + 4 * c16, c16 + 4 * c8 + 192, c8 + 4 * c4 + 192)
        self.down = nn.ModuleList(nn.Conv2d(i, CODE_CHANNELS, 1) for i in inputs)
        self.pixel_readout = nn.ModuleList(_decoder(mean) for mean in (NATURAL_MEAN, 0.0, 0.0))

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Maps fine to coarse (strides 4 to 32) -> images coarse to fine, and the bits over capacity."""
        f4, f8, f16, f32 = maps
        pictures: list[Tensor] = []
        excess = f4.new_zeros(())
        for level, (own, finer) in enumerate(((f32, f16), (f16, f8), (f8, f4))):
            parts = [own, F.pixel_unshuffle(finer, 2)]
            below = f4.new_zeros(())
            if pictures:
                below = F.interpolate(pictures[-1], scale_factor=2, mode="bilinear", align_corners=False)
                parts.append(F.pixel_unshuffle(below.detach(), 8))
            code = self.down[level](torch.cat(parts, 1))
            capacity = 0.5 * torch.log2(1 + code.var(dim=(0, 2, 3))).sum()
            excess = excess + F.relu(capacity - CAPACITY_BITS[level])
            pictures.append(below + F.pixel_shuffle(self.pixel_readout[level](code + torch.randn_like(code)), 8))
        return pictures, excess


def _decoder(mean: float) -> nn.Conv2d:
    pixel_readout = nn.Conv2d(CODE_CHANNELS, 192, 1)
    nn.init.normal_(pixel_readout.weight, std=0.01)  # the codes' unit noise must not drown the first images
    nn.init.constant_(pixel_readout.bias, mean)  # type: ignore[arg-type]
    return pixel_readout


class BackboneTraining(nn.Module):
    """A dual backbone with its decoder and a vector per label name; the forward pass is the loss of a batch."""

    def __init__(self, norm: str, num_names: int):
        from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
        from open_clip.model import CLIP, set_model_preprocess_cfg

        super().__init__()
        register_layer_norm_trunk()
        self.clip = CLIP(**model_config(norm))
        self.mean, self.std = OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
        set_model_preprocess_cfg(self.clip, {"mean": self.mean, "std": self.std})
        trunk: Any = self.clip.visual.trunk
        self.decoder = CapacityDecoder([info["num_chs"] for info in trunk.feature_info])
        self.names = nn.Parameter(torch.randn(num_names, EMBEDDING_DIM))

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Images (B, 3, H, W) in [0, 1]; labels (B,) int64, -1 for none."""
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        visual: Any = self.clip.visual
        out = visual.forward_intermediates((images - mean) / std)
        pictures, excess = self.decoder(out["image_intermediates"])
        errors = [F.mse_loss(p, F.avg_pool2d(images, images.shape[-1] // p.shape[-1])) for p in pictures]
        embeddings = F.normalize(out["image_features"], dim=1)
        logits = 20 * embeddings @ F.normalize(self.names, dim=1).T
        # a batch without any label has no name to learn
        naming = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum") / (labels >= 0).sum().clamp(min=1)
        decoding = sum(w * e for w, e in zip((0.25, 0.25, 1.0), errors, strict=True)) / NATURAL_VARIANCE
        loss = decoding + PENALTY_WEIGHT * excess + NAMING_WEIGHT * naming
        return loss, {"psnr": -10 * math.log10(errors[-1].item()), "naming": naming.item()}


def train_backbone(norm: str, data: Path, out: Path, *, steps: int, batch_size: int = 32, crop_px: int = 128) -> None:
    """Trains a backbone into the folder `out`: nothing to do where it is finished; goes on where it was stopped.

    Args:
        norm: A key of `TRUNKS`.
        data: The data folder; holds recon/train.csv.
        out: Another folder for other steps, batches or crops.
        steps: Length of the training.
        batch_size: Crops per step.
        crop_px: Side of a crop, a multiple of 32.
    """
    if (out / CONFIG_FILE).exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    files, labels = read_rows(data)
    torch.manual_seed(0)
    model = BackboneTraining(norm, int(labels.max()) + 1).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05)
    state = load_state(out / "state.pt")
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    for step in range(state["step"] if state else 0, steps):
        rng = np.random.default_rng((7, step))  # a step depends on its number alone: a resumed run sees the same crops
        torch.manual_seed(step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        chosen = rng.integers(len(files), size=batch_size)
        images = torch.stack([random_crop(files[i], crop_px, rng) for i in chosen])
        loss, figures = model(images.contiguous(memory_format=torch.channels_last), labels[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 2.0, error_if_nonfinite=True)
        optimizer.step()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            progress = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
            print(f"{norm} norm, step {step + 1}/{steps}: {progress}", file=sys.stderr, flush=True)
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            save_state(out / "state.pt", state)
    save_backbone(model, norm, out)


def learning_rate(step: int, steps: int) -> float:
    """A linear rise over a tenth of the steps, under a cosine to zero."""
    rise = min(1.0, (step + 1) / max(1, steps // 10))
    return LEARNING_RATE * rise * (0.5 + 0.5 * math.cos(math.pi * step / steps))


def save_backbone(model: BackboneTraining, norm: str, out: Path) -> None:
    """Writes the dual backbone in open_clip's local-directory layout, then drops the training state."""
    backbone = OpenClipBackbone(
        model.clip.eval(), config=BackboneConfig(), model_config=model_config(norm), tokenizer=str
    )
    backbone.save(out)
    (out / "state.pt").unlink(missing_ok=True)


def read_rows(data: Path) -> tuple[list[Path], Tensor]:
    """Training images, and the number of each one's label name (N,) int64, -1 where it has none."""
    with open(data / "recon" / "train.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = {name: i for i, name in enumerate(sorted({row["label"] for row in rows if row["label"]}))}
    labels = torch.tensor([names.get(row["label"], -1) for row in rows])
    return [data / "recon" / row["file"] for row in rows], labels


def random_crop(path: Path, side: int, rng: np.random.Generator) -> Tensor:
    """A square of 62 to 100 % of the short side, resized, mirrored half of the time: (3, side, side) in [0, 1]."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
    length = min(picture.size) * rng.uniform(0.62, 1.0)
    left, top = (rng.uniform(0, whole - length) for whole in picture.size)
    box = (left, top, left + length, top + length)
    pixels = np.array(picture.resize((side, side), Image.Resampling.BICUBIC, box=box))  # (side, side, 3)
    crop = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    return crop.flip(2) if rng.random() < 0.5 else crop
