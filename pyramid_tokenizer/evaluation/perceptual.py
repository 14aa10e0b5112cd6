"""LPIPS and rFID by torchmetrics, where the weights of their networks are on this machine already: nothing is downloaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyramid_tokenizer.errors import MissingExtraError
from pyramid_tokenizer.evaluation.metrics import torchmetrics_images

LPIPS_FILE = "alexnet-owt-7be5be79.pth"
"""torchvision's file of AlexNet, the trunk of LPIPS; the last eight digits begin its SHA-256."""
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""The file of torch-fidelity's Inception network, whose features FID compares; the last eight digits begin its SHA-256."""
LPIPS_LEAST_PX = 31
"""Least side of an image for LPIPS: smaller ones leave nothing for AlexNet's second pooling."""


def find_weights(name: str, *, what: str, fix: str) -> Path:
    """The path of a file of weights in the folder where torch keeps downloaded ones, if its checksum is that of its name.

    The messages have no path of this machine, because they become part of reports.

    Raises:
        MissingExtraError: The file is not there, or its bytes are others: figures of other weights would look like LPIPS or FID.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    place = f"{what} as checkpoints/{name} in torch.hub.get_dir()"
    if not path.is_file():
        raise MissingExtraError(f"expected {place}, got no such file: {fix}")
    wanted, found = path.stem.rpartition("-")[2], _sha256(path)
    if not found.startswith(wanted):
        raise MissingExtraError(
            f"expected {place} with a SHA-256 that begins with {wanted}, got {found[: len(wanted)]}: delete that file; {fix}"
        )
    return path


def load_lpips() -> Callable[[Tensor, Tensor], Tensor]:
    """The function from two batches (B, 3, H, W) uint8 to their LPIPS (B,) float64, by AlexNet; sides from `LPIPS_LEAST_PX`.

    Raises:
        MissingExtraError: torchmetrics is not installed, or the weights of AlexNet are not on this machine.

    Source: R. Zhang et al., arXiv 1801.03924.
    """
    fix = 'torchvision.models.alexnet(weights="DEFAULT") puts it there'
    find_weights(LPIPS_FILE, what="AlexNet's weights for LPIPS", fix=fix)
    torchmetrics_images()
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    network = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).eval()

    @torch.no_grad()
    def lpips(a: Tensor, b: Tensor) -> Tensor:
        pairs = zip((a / 255).split(1), (b / 255).split(1), strict=True)  # one by one: equal in every batch
        return torch.stack([network(x, y).double().reshape(()) for x, y in pairs]).cpu()

    return lpips


def load_fid(features: int = 2048) -> Any:
    """An empty `torchmetrics` FID; `update(images, real=)` takes (B, 3, H, W) uint8.

    Args:
        features: Which features of the Inception network are compared: 2,048 is what is called FID; 64, 192 and 768 are cheaper.

    Raises:
        MissingExtraError: torchmetrics or torch-fidelity is not installed, or the weights are not on this machine.

    Source: M. Heusel et al., arXiv 1706.08500.
    """
    if find_spec("torch_fidelity") is None:
        raise MissingExtraError("expected torch-fidelity for rFID, got none: pip install torch-fidelity")
    weights = find_weights(INCEPTION_FILE, what="Inception's weights for rFID", fix="put torch-fidelity's file there")
    torchmetrics_images()
    from torchmetrics.image.fid import FrechetInceptionDistance

    return FrechetInceptionDistance(feature=features, feature_extractor_weights_path=str(weights))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
