"""What both trainings of the bundled CLIP share: its configuration, checkpoints that resume, the export to open_clip."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import torch
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor, nn

MODEL_CONFIG = {
    "embed_dim": 128,  # as wide as the table of word pieces, so that the text encoder can reach its targets
    "vision_cfg": {
        "timm_model_name": "fasternet_t0",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "",
        "image_size": 256,
    },
    # Almost all of it is the table of 49,408 word pieces: open_clip's own, so that any English text is readable.
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 3},
}
# The backbone sees [0, 1] pixels shifted and scaled by these; they are written into the open_clip config beside the weights.
PREPROCESS_CONFIG = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def build_clip() -> CLIP:
    """The bundled CLIP with fresh weights from torch's seed."""
    return CLIP(**{key: MODEL_CONFIG[key] for key in ("embed_dim", "vision_cfg", "text_cfg")})


def save_checkpoint(state: dict, path: Path) -> None:
    """Writes it whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def load_checkpoint(path: Path, device: str = "cpu") -> dict | None:
    """What `save_checkpoint` wrote, None where there is nothing yet."""
    return torch.load(path, map_location=device, weights_only=True) if path.exists() else None


def learning_rate(step: int, *, peak: float, steps: int, warmup: int = 200) -> float:
    """Linear warm-up, then a half cosine down to a hundredth of the peak.

    Example:
        >>> [round(learning_rate(s, peak=1.0, steps=1000, warmup=100), 3) for s in (0, 99, 1000)]
        [0.01, 1.0, 0.01]
    """
    ramp = min(1.0, (step + 1) / warmup)
    share = min(1.0, max(0.0, (step - warmup) / max(1, steps - warmup)))
    return peak * ramp * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * share)))


def trapezoid(step: int, *, peak: float, steps: int, warmup: int = 500, decay: float = 0.3) -> float:
    """Linear warm-up, flat, then linear to zero over the last share `decay` of the steps.

    Until the decay begins, nothing depends on `steps`: a training may be made longer or shorter while it runs.

    Example:
        >>> [round(trapezoid(s, peak=1.0, steps=1000, warmup=100), 3) for s in (0, 99, 700, 850, 1000)]
        [0.01, 1.0, 1.0, 0.5, 0.0]
    """
    return peak * min(1.0, (step + 1) / warmup, max(0.0, (steps - step) / (decay * steps)))


@torch.no_grad()
def update_average(average: dict[str, Tensor], module: nn.Module, step: int, *, decay: float = 0.9985) -> None:
    """Moves the exponential moving average of a module's weights and statistics on; in the first steps it follows faster."""
    floats, values = [], []
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            floats.append(average[name])
            values.append(value)
        else:
            average[name].copy_(value)
    torch._foreach_lerp_(floats, values, 1 - min(decay, (step + 1) / (step + 10)))


def export_clip(model: CLIP, directory: Path) -> None:
    """Writes the directory layout that `open_clip.create_model('local-dir:...')` reads, floats as fp16."""
    directory.mkdir(parents=True, exist_ok=True)
    state: dict[str, Tensor] = {
        name: (t.half() if t.is_floating_point() else t).contiguous().cpu()
        for name, t in model.state_dict().items()
        if name != "attn_mask"
    }
    save_file(state, directory / "open_clip_model.safetensors.part", metadata={"format": "pt"})
    os.replace(directory / "open_clip_model.safetensors.part", directory / "open_clip_model.safetensors")
    content = {"model_cfg": MODEL_CONFIG, "preprocess_cfg": PREPROCESS_CONFIG}
    (directory / "open_clip_config.json").write_text(json.dumps(content, indent=2) + "\n")
