"""Shrunken backbones of every family, with made-up weights in open_clip's local-directory layout."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pyramid_tokenizer.backbones import Backbone, ToyBackbone, load_backbone
from pyramid_tokenizer.config.models import BackboneConfig

_TEXT = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
_PREPROCESS = {"mean": [0.5, 0.4, 0.3], "std": [0.3, 0.25, 0.2], "interpolation": "bicubic", "resize_mode": "shortest"}


def _timm(name: str, **options: Any) -> dict[str, Any]:
    return {"timm_model_name": name, "timm_model_pretrained": False, **options}


MODEL_CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 5, "head_width": 16},
    },
    "resnet": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64},
    },
    "fasternet": {
        "embed_dim": 24,
        "vision_cfg": _timm("fasternet_t0", timm_pool="avg", timm_proj="", image_size=64),
    },
    "convnext": {
        "embed_dim": 24,
        "vision_cfg": _timm("test_convnext", timm_pool="avg", timm_proj="linear", image_size=64),
    },
    "timm_vit": {
        "embed_dim": 64,
        "vision_cfg": _timm("test_vit", timm_pool="map", timm_proj="none", image_size=160),
    },
    "timm_clip": {
        "embed_dim": 24,
        "vision_cfg": _timm("test_vit", timm_pool="token", timm_proj="", image_size=160),
    },
}
for _config in MODEL_CONFIGS.values():
    _config["text_cfg"] = _TEXT


def make_model(model_config: dict[str, Any]) -> Any:
    """An open_clip model in which no layer is the identity: zero and tiny initial scales are moved away from zero."""
    from open_clip.model import CLIP

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIP(**copy.deepcopy(model_config)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
            for name, buffer in model.named_buffers():
                if name.endswith("running_mean"):
                    buffer.add_(0.1 * torch.randn_like(buffer))
                if name.endswith("running_var"):
                    buffer.mul_(0.5 + torch.rand_like(buffer))
    return model


def write_directory(directory: Path, model_config: dict[str, Any], state: dict[str, torch.Tensor]) -> Path:
    """open_clip's local-directory layout, written without the code under test."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous().clone() for k, v in state.items()}, directory / "open_clip_model.safetensors")
    content = {"model_cfg": model_config, "preprocess_cfg": _PREPROCESS}
    (directory / "open_clip_config.json").write_text(json.dumps(content))
    return directory


@pytest.fixture(scope="session", autouse=True)
def _one_text_tokenizer() -> Iterator[None]:
    """open_clip reads its list of words once, not once a backbone (0.1 s)."""
    import open_clip.factory

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_clip.factory, "SimpleTokenizer", functools.cache(open_clip.factory.SimpleTokenizer))
        yield


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a family's checkpoint, written at the first call. FasterNet's tensors are float16."""
    made: dict[str, Path] = {}

    def checkpoint(family: str) -> Path:
        if family not in made:
            state = make_model(MODEL_CONFIGS[family]).state_dict()
            if family == "fasternet":
                state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
            made[family] = write_directory(tmp_path_factory.mktemp(family), MODEL_CONFIGS[family], state)
        return made[family]

    return checkpoint


@pytest.fixture(scope="session")
def load(checkpoint_of: Callable[[str], Path]) -> Callable[..., Any]:
    """`load("vit", blocks=(1,))`: a fresh backbone of a family, "toy" among them."""

    def load_family(family: str, **config: Any) -> Backbone:
        if family == "toy":
            return ToyBackbone(BackboneConfig(kind="toy", **config))
        return load_backbone(BackboneConfig(**config), directory=checkpoint_of(family))

    return load_family
