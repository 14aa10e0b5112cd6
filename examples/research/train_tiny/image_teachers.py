"""Computes the outputs of the image teachers for every fixed crop of every training image, once, and keeps them on disk.

MobileNetV2 (ImageNet): class logits, its last map's leading components (pooled and in 4 x 4 cells), its stride-16 map in
8 x 8 cells. DeepLab (PASCAL VOC): class probabilities over the whole image, from which crops are cut later.

    python examples/research/train_tiny/image_teachers.py --data DATA --cache build/parts/cache

Stop it at any time; the same command goes on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from images import CROPS, TrainingImage, crop_box, list_fingerprint, read_crop, training_images
from PIL import Image
from torch import Tensor, nn

TEACHER_PX = 224
COMPONENTS = 256
GROUP = 4
LOGITS_NODE, LAST_NODE, MIDDLE_NODE = 64, 61, 46
VOC_NODE = 68
VOC_PX = 256
VOC_GRID = 24
VOC_NAMES = (
    *("background", "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("dining table", "dog", "horse", "motorcycle", "person", "potted plant", "sheep", "couch", "train", "tv"),
)
SHAPES = {
    "logits": (1001,),
    "pooled": (COMPONENTS,),
    "cells": (COMPONENTS, 4, 4),
    "middle": (96, 8, 8),
}


def load_graph(data: Path, name: str) -> nn.Module:
    """Loads one of the exported graphs of the research data, by the loader that lies beside them."""
    spec = importlib.util.spec_from_file_location("tfgraph", data / "weights" / "tfgraph.py")
    if spec is None or spec.loader is None:
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


@torch.inference_mode()
def run_mobilenet(graph: nn.Module, batch: Tensor) -> dict[int, Tensor]:
    """Its logits (B, 1001), last map (B, 1280, 7, 7) and stride-16 map (B, 96, 14, 14), float32."""
    with torch.autocast("cpu", torch.bfloat16):
        kept = graph(batch, stop_at=LOGITS_NODE, keep=(LOGITS_NODE, LAST_NODE, MIDDLE_NODE))
    return {node: value.float() for node, value in kept.items()}


def image_crops(picture: TrainingImage, key: str) -> list[np.ndarray]:
    image = Image.open(picture.file).convert("RGB")
    return [read_crop(image, crop_box(image.size, key, k), TEACHER_PX) for k in range(CROPS)]


def fit_components(graph: nn.Module, images: list[TrainingImage]) -> dict[str, np.ndarray]:
    """Mean and leading principal components (1280, C) of the last map's cells, scaled to a total variance of 1."""
    rows = []
    for start in range(0, len(images), 8 * 32):
        part = images[start : start + 8 * 32 : 8]
        crops = [read_crop(Image.open(p.file).convert("RGB"), _centre(p), TEACHER_PX) for p in part]
        cells = run_mobilenet(graph, to_batch(crops))[LAST_NODE]
        rows.append(cells.flatten(2).transpose(1, 2)[:, ::3].reshape(-1, cells.shape[1]).numpy())
    values = np.concatenate(rows)
    mean = values.mean(0)
    spread, axes = np.linalg.eigh(np.cov((values - mean).T))
    axes = axes[:, ::-1][:, :COMPONENTS] / np.sqrt(spread.sum())
    return {"mean": mean.astype(np.float32), "axes": axes.astype(np.float32)}


def _centre(picture: TrainingImage) -> tuple[float, float, float, float]:
    with Image.open(picture.file) as image:
        return crop_box(image.size, "", 0)


def cache_mobilenet(data: Path, cache: Path, images: list[TrainingImage]) -> None:
    """Fills mobilenet_*.npy; `mobilenet_done.json` says how many images are in."""
    done_file = cache / "mobilenet_done.json"
    done = json.loads(done_file.read_text()) if done_file.exists() else 0
    graph = load_graph(data, "mobilenet_v2_1.0_224_quant")
    components_file = cache / "mobilenet_components.npz"
    if not components_file.exists():
        np.savez(components_file, **fit_components(graph, images))
    stored = np.load(components_file)
    mean, axes = torch.from_numpy(stored["mean"]).view(1, -1, 1, 1), torch.from_numpy(stored["axes"])
    axes = axes.T[:, :, None, None].contiguous()
    arrays = {
        name: np.lib.format.open_memmap(
            cache / f"mobilenet_{name}.npy",
            mode="r+" if done else "w+",
            dtype=np.float16,
            shape=(len(images), CROPS, *shape),
        )
        for name, shape in SHAPES.items()
    }
    began, first = time.time(), done
    for start in range(done, len(images), GROUP):
        group = images[start : start + GROUP]
        crops = [crop for p in group for crop in image_crops(p, str(p.file.relative_to(data)))]
        out = run_mobilenet(graph, to_batch(crops))
        reduced = F.conv2d(out[LAST_NODE] - mean, axes)
        found = {
            "logits": out[LOGITS_NODE],
            "pooled": reduced.mean((2, 3)),
            "cells": F.adaptive_avg_pool2d(reduced, 4),
            "middle": F.interpolate(out[MIDDLE_NODE], size=(8, 8), mode="area"),
        }
        for name, values in found.items():
            arrays[name][start : start + len(group)] = values.unflatten(0, (len(group), CROPS)).half().numpy()
        if (start // GROUP) % 64 == 63 or start + GROUP >= len(images):
            for array in arrays.values():
                array.flush()
            done_file.write_text(json.dumps(start + len(group)))
            rate = (start + len(group) - first) * CROPS / (time.time() - began)
            print(f"mobilenet: {start + len(group)} of {len(images)} images, {rate:.0f} crops/s", flush=True)


@torch.inference_mode()
def cache_deeplab(data: Path, cache: Path, images: list[TrainingImage]) -> None:
    """Writes voc.npy: (N, 21, G, G) fp16 class probabilities over the whole image, stretched to a square grid."""
    target = cache / "voc.npy"
    if target.exists():
        return
    graph = load_graph(data, "deeplabv3_mnv2_pascal_quant")
    rows = np.zeros((len(images), len(VOC_NAMES), VOC_GRID, VOC_GRID), np.float16)
    began = time.time()
    for index, picture in enumerate(images):
        image = Image.open(picture.file).convert("RGB")
        scale = VOC_PX / min(image.size)
        width, height = (max(32, round(side * scale / 16) * 16 + 1) for side in image.size)
        batch = to_batch([np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))])
        with torch.autocast("cpu", torch.bfloat16):
            logits = graph(batch, stop_at=VOC_NODE, keep=(VOC_NODE,))[VOC_NODE].float()
        fine = F.interpolate(logits, size=(4 * VOC_GRID, 4 * VOC_GRID), mode="bilinear", align_corners=True)
        rows[index] = F.avg_pool2d(fine.softmax(1), 4)[0].half().numpy()
        if (index + 1) % 500 == 0:
            print(f"deeplab: {index + 1} images, {(index + 1) / (time.time() - began):.0f} a second", flush=True)
    with open(target.with_suffix(".part"), "wb") as file:
        np.save(file, rows)
    target.with_suffix(".part").rename(target)


def make_image_targets(data: Path, cache: Path) -> Path:
    """Fills the folder of this list of images inside `cache` and returns it."""
    images = training_images(data)
    folder = cache / f"images-{list_fingerprint(images, data)}"
    folder.mkdir(parents=True, exist_ok=True)
    cache_deeplab(data, folder, images)
    cache_mobilenet(data, folder, images)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the research data with recon/, seg/ and weights/")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(make_image_targets(args.data, args.cache))


if __name__ == "__main__":
    main()
