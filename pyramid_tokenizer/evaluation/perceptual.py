"""LPIPS and rFID by torchmetrics, where the weights of their networks are on this machine already: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyramid_tokenizer.errors import MissingExtraError
from pyramid_tokenizer.evaluation.metrics import torchmetrics_images

LPIPS_FILE = "alexnet-owt-7be5be79.pth"
"""torchvision's file of AlexNet, the trunk of LPIPS."""
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""The file of torch-fidelity's Inception network, whose features FID compares."""


def check_weights(name: str, *, what: str, fix: str) -> None:
    """Raises MissingExtraError if a file of weights is not in the folder where torch keeps downloaded ones.

    The message has no path of this machine, because it becomes part of reports.
    """
    if not (Path(torch.hub.get_dir()) / "checkpoints" / name).is_file():
        raise MissingExtraError(
            f"expected {what} as checkpoints/{name} in torch.hub.get_dir(), got no such file: {fix}"
        )


def load_lpips() -> Callable[[Tensor, Tensor], Tensor]:
    """The function from two batches (B, 3, H, W) uint8 to their LPIPS (B,) float64, by AlexNet.

    Raises:
        MissingExtraError: torchmetrics is not installed, or the weights of AlexNet are not on this machine.

    Source: R. Zhang et al., arXiv 1801.03924.
    """
    fix = 'torchvision.models.alexnet(weights="DEFAULT") puts it there'
    check_weights(LPIPS_FILE, what="AlexNet's weights for LPIPS", fix=fix)
    torchmetrics_images()
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    network = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).eval()

    @torch.no_grad()
    def lpips(a: Tensor, b: Tensor) -> Tensor:
        pairs = zip((a / 255).split(1), (b / 255).split(1), strict=True)  # one by one: equal in every batch
        return torch.stack([network(x, y).double().reshape(()) for x, y in pairs]).cpu()

    return lpips


def load_fid() -> Any:
    """An empty `torchmetrics` FID over 2,048 features; `update(images, real=)` takes (B, 3, H, W) uint8.

    Raises:
        MissingExtraError: torchmetrics or torch-fidelity is not installed, or the weights are not on this machine.

    Source: M. Heusel et al., arXiv 1706.08500.
    """
    if find_spec("torch_fidelity") is None:
        raise MissingExtraError("expected torch-fidelity for rFID, got none: pip install torch-fidelity")
    check_weights(INCEPTION_FILE, what="Inception's weights for rFID", fix="put torch-fidelity's file there")
    torchmetrics_images()
    from torchmetrics.image.fid import FrechetInceptionDistance

    return FrechetInceptionDistance(feature=2048)
