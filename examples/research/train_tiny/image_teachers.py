"""The image teachers of the backbone, run on the crops of each step.

MobileNetV2 (ImageNet) gives class logits and its last map's leading components, pooled and in cells. DeepLab (PASCAL VOC) gives
class probabilities in cells, for crops of images without masks.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from images import TrainingImage, read_crop
from PIL import Image
from torch import Tensor, nn

TEACHER_PX = 160
COMPONENTS = 256
LOGITS_NODE, LAST_NODE = 64, 61
VOC_NODE = 68
VOC_NAMES = (
    *("background", "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("dining table", "dog", "horse", "motorcycle", "person", "potted plant", "sheep", "couch", "train", "tv"),
)
PART = 8
"""Crops that MobileNetV2 reads at once: more at once are slower each on a CPU."""
FITTED_IMAGES = 768
"""Images whose last maps give the components."""


def load_graph(data: Path, name: str) -> nn.Module:
    """Loads one of the exported graphs of the research data, by the loader that lies beside them."""
    spec = importlib.util.spec_from_file_location("tfgraph", data / "weights" / "tfgraph.py")
    if spec is None or spec.loader is None or not (data / "weights" / "tfgraph.py").exists():
        raise FileNotFoundError(
            f"expected tfgraph.py in {data / 'weights'}: examples/research/README.md says what the folder of --data contains"
        )
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TFGraph(str(data / "weights" / name)).eval()


def to_batch(crops: list[np.ndarray]) -> Tensor:
    """(B, 3, H, W) in [0, 1], channels last."""
    batch = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255
    return batch.contiguous(memory_format=torch.channels_last)


class ImageTeachers:
    """Both teachers.

    Args:
        data: The research data with weights/.
        photos: The training images; some of them give the components.
        kept: File of the components; written at the first call, read later.
    """

    def __init__(self, data: Path, photos: list[TrainingImage], kept: Path):
        self._mobilenet = load_graph(data, "mobilenet_v2_1.0_224_quant")
        self._deeplab = load_graph(data, "deeplabv3_mnv2_pascal_quant")
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            with open(kept.with_suffix(".part"), "wb") as file:
                np.savez(file, **self._fit_components(photos))
            os.replace(kept.with_suffix(".part"), kept)
        stored = np.load(kept)
        self._mean = torch.from_numpy(stored["mean"]).view(1, -1, 1, 1)
        self._axes = torch.from_numpy(stored["axes"]).T[:, :, None, None].contiguous()

    @torch.no_grad()
    def kinds(self, images: Tensor, cells: int) -> tuple[Tensor, Tensor, Tensor]:
        """MobileNet on (B, 3, P, P) in [0, 1]: logits (B, 1001), components pooled (B, 256) and in cells (B, 256, C, C)."""
        parts = [
            self._mobilenet(part, stop_at=LOGITS_NODE, keep=(LOGITS_NODE, LAST_NODE)) for part in images.split(PART)
        ]
        reduced = F.conv2d(torch.cat([part[LAST_NODE] for part in parts]) - self._mean, self._axes)
        grid = F.interpolate(reduced, size=(cells, cells), mode="bilinear", align_corners=False)
        return torch.cat([part[LOGITS_NODE] for part in parts]), reduced.mean((2, 3)), grid

    @torch.no_grad()
    def voc(self, images: Tensor, cells: int) -> Tensor:
        """DeepLab's class probabilities on (B, 3, P, P) in [0, 1], (B, 21, C, C)."""
        side = images.shape[-1] // 16 * 16 + 1
        images = F.interpolate(images, size=(side, side), mode="bilinear", align_corners=True)
        logits = self._deeplab(images, stop_at=VOC_NODE, keep=(VOC_NODE,))[VOC_NODE]
        fine = F.interpolate(logits, size=(4 * cells, 4 * cells), mode="bilinear", align_corners=False)
        return F.avg_pool2d(fine.softmax(1), 4)

    @torch.no_grad()
    def _fit_components(self, photos: list[TrainingImage]) -> dict[str, np.ndarray]:
        """Mean and leading principal components (1280, C) of the last map's cells, scaled to a total variance of 1."""
        rows = []
        chosen = photos[:: max(1, len(photos) // FITTED_IMAGES)]
        for start in range(0, len(chosen), 32):
            crops = []
            for photo in chosen[start : start + 32]:
                image = Image.open(photo.file).convert("RGB")
                crops.append(read_crop(image, (0.0, 0.0, *map(float, image.size)), TEACHER_PX))
            last = self._mobilenet(to_batch(crops), stop_at=LAST_NODE, keep=(LAST_NODE,))[LAST_NODE]
            rows.append(last.flatten(2).transpose(1, 2).reshape(-1, last.shape[1]).numpy())
        values = np.concatenate(rows)
        spread, axes = np.linalg.eigh(np.cov((values - values.mean(0)).T))
        axes = axes[:, ::-1][:, :COMPONENTS] / np.sqrt(spread.sum())
        return {"mean": values.mean(0).astype(np.float32), "axes": axes.astype(np.float32)}
