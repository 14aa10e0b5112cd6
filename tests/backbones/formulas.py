"""Tiny ViTs of every kind, and the formulas of their parts for one vector at a time: what slow references are made of."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pyramid_tokenizer.backbones import OpenClipBackbone
from pyramid_tokenizer.backbones.dense import DENSE_READINGS
from pyramid_tokenizer.config.models import BackboneConfig
from tests.backbones.conftest import MODEL_CONFIGS, make_model

TINY = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16}  # 2 heads


def pictures(height: int, width: int, count: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(height * 1000 + width))


def wrap(model: Any, **config: Any) -> OpenClipBackbone:
    model.visual.preprocess_cfg = {"mean": (0.5, 0.4, 0.3), "std": (0.3, 0.25, 0.2)}
    return OpenClipBackbone(model, config=BackboneConfig(**config), model_config={}, tokenizer=lambda: None)


def make_vit(*, config: dict[str, Any] | None = None, **vision: Any) -> OpenClipBackbone:
    """A tiny open_clip ViT; `vision` are fields of its "vision_cfg", `config` of the backbone's."""
    model_config = {"embed_dim": 24, "vision_cfg": {**TINY, **vision}, "text_cfg": MODEL_CONFIGS["vit"]["text_cfg"]}
    return wrap(make_model(model_config), **(config or {}))


def make_timm(*, kind: str = "VisionTransformer", proj: str = "", **trunk: Any) -> OpenClipBackbone:
    """A tiny timm ViT as open_clip wraps it.

    Args:
        kind: Name of timm's class, "VisionTransformer" or "Eva".
        proj: "linear" for a projection in open_clip's wrapper; "" for one in the trunk (24 classes) or none (0 classes).
        trunk: Arguments of the class.
    """
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    model_config = copy.deepcopy(MODEL_CONFIGS["timm_clip"])
    model_config["vision_cfg"] |= {"timm_proj": proj}
    model = make_model(model_config)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 24, **trunk}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.visual.trunk = {"VisionTransformer": VisionTransformer, "Eva": Eva}[kind](**options).eval()
        for parameter in model.visual.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        if proj:
            model.visual.head.proj = nn.Linear(32, 24)
    return wrap(model)


def tokens_before(block: nn.Module, run: Callable[[], Any]) -> Tensor:
    """What a block is given while `run` runs."""
    seen: list[Tensor] = []
    handle = block.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    run()
    handle.remove()
    return seen[0].double()


def layer_norm(x: Tensor, norm: Any) -> Tensor:
    """Of one vector."""
    if isinstance(norm, nn.Identity):
        return x
    centred = x - x.mean()
    return centred / (centred.square().mean() + norm.eps).sqrt() * norm.weight.double() + norm.bias.double()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return weight.double() @ x + (bias.double() if bias is not None else 0)


def read_head(
    q: list[Tensor], k: list[Tensor], v: list[Tensor], patch: int, grid: tuple[int, int], reading: str
) -> Tensor:
    """What one patch reads in one head, from the formulas; lists run over all tokens, prefix first."""
    if reading == "v":
        return v[patch]
    height, width = grid
    prefix = len(v) - height * width
    alike = {"q": q, "k": k, "v": v}[reading[0]]
    weights = []
    for other in range(len(v)):
        logit = float(alike[patch] @ alike[other]) / math.sqrt(len(v[0]))
        if reading == "kk_gaussian" and other >= prefix:
            (y, x), (oy, ox) = (divmod(token - prefix, width) for token in (patch, other))
            logit += math.exp(-((y - oy) ** 2 + (x - ox) ** 2) / (2 * 5.0**2))
        weights.append(math.exp(logit))
    mixed = torch.zeros_like(v[0])
    for weight, value in zip(weights, v, strict=True):
        mixed += weight / sum(weights) * value
    return mixed


def assert_every_reading_is_slow(backbone: OpenClipBackbone, slow: Callable[..., Tensor], blocks: str) -> None:
    """Each dense reading equals that of `slow(visual, tokens, grid, reading)`, from the tokens before the last of `blocks`."""
    visual, images, grid = backbone.model.visual, pictures(16, 24), (2, 3)
    tokens = tokens_before(visual.get_submodule(blocks)[-1], lambda: backbone(images, with_dense=True))
    assert backbone.dense_readings == DENSE_READINGS
    for reading in DENSE_READINGS:
        expected = slow(visual, tokens[0], grid, reading)
        found = backbone.dense(images, reading=reading)[0]
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
