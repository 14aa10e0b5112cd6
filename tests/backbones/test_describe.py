"""A backbone's geometry by name: the same as the loaded one tells, without its weights and without any values."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pyramid_tokenizer.backbones import describe_backbone, name_backbone
from pyramid_tokenizer.config.models import BackboneConfig
from pyramid_tokenizer.errors import BackboneError, ConfigError
from tests.backbones.conftest import MODEL_CONFIGS, make_model

FAMILIES = {
    "vit": "VisionTransformer",
    "resnet": "ModifiedResNet",
    "fasternet": "timm FasterNet",
    "convnext": "timm ConvNeXt",
    "timm_vit": "timm VisionTransformer",
    "timm_clip": "timm VisionTransformer",
}


def _slow_but(name: str, *fast: str) -> Any:
    return name if name in fast else pytest.param(name, marks=pytest.mark.slow)


def assert_described(found: Any, backbone: Any) -> None:
    assert found.config.blocks == backbone.blocks
    assert found.channels == backbone.channels
    assert found.strides == backbone.strides
    assert found.multiple_px == backbone.multiple_px
    assert found.embedding_dim == backbone.embedding_dim
    assert found.dense_readings == backbone.dense_readings
    assert found.has_dense == backbone.has_dense


@pytest.mark.parametrize("family", [_slow_but(name, "vit", "convnext") for name in FAMILIES])
def test_a_backbone_is_described_as_it_is_when_loaded(
    checkpoint_of: Callable[[str], Path], load: Any, family: str
) -> None:
    backbone = load(family, stem=True)
    found = describe_backbone(f"local-dir:{checkpoint_of(family)}")
    assert_described(found, backbone)
    assert found.family == FAMILIES[family]
    assert found.num_parameters == sum(p.numel() for p in backbone.model.visual.parameters())
    assert found.pretrained == ()
    if family == "vit":
        assert_described(
            describe_backbone(str(checkpoint_of(family)), blocks=(1, 2)), load(family, blocks=(1, 2), stem=True)
        )


def test_the_toy_is_described_too(load: Any) -> None:
    assert_described(describe_backbone("toy"), load("toy", stem=True))
    assert describe_backbone("toy", blocks=(-1,)).strides == (32, 4)


@pytest.mark.parametrize(
    "vision_cfg",
    [
        pytest.param(
            {"timm_model_name": "test_convnext", "timm_pool": "max", "timm_proj": "linear"}, marks=pytest.mark.slow
        ),
        {"timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": "mlp"},
        pytest.param(
            {"timm_model_name": "test_vit2", "timm_pool": "avg", "timm_proj": "linear"}, marks=pytest.mark.slow
        ),
    ],
)
def test_a_head_is_tried_as_that_of_a_backbone_with_values(vision_cfg: dict[str, Any], tmp_path: Path) -> None:
    """Whether there are dense features depends on what the head computes, which nothing without values tells."""
    from pyramid_tokenizer.backbones.open_clip import find_reader

    model_config = {**MODEL_CONFIGS["convnext"], "vision_cfg": {**vision_cfg, "image_size": 160}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_config, "preprocess_cfg": {}}))
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"")
    with torch.no_grad():
        real = find_reader(make_model(model_config).visual)
    assert describe_backbone(str(tmp_path)).dense_readings == real.dense_readings


def test_nothing_of_a_backbone_has_values_and_chance_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip.model

    built = []
    original = open_clip.model.CLIP

    def build(**options: Any) -> Any:
        built.append(original(**options))
        return built[-1]

    monkeypatch.setattr(open_clip.model, "CLIP", build)
    state = torch.random.get_rng_state()
    found = describe_backbone("ViT-B-32")
    assert found.num_parameters > 8e7
    assert found.strides == (32, 32, 32, 32, 32)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(tensor.is_meta for tensor in built[0].visual.state_dict().values())


def test_published_weights_are_listed() -> None:
    found = describe_backbone("RN50")
    assert "openai" in found.pretrained
    assert found.config == BackboneConfig(name="RN50", blocks=(1, 2, 3, 4), stem=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B16", "'ViT-B16'.*'ViT-B-16'"),
        ("no/such/folder", "open_clip_config.json.*'no/such/folder'"),
        ("local-dir:nowhere", "'nowhere'"),
    ],
)
def test_a_name_that_cannot_be_described_is_refused(name: str, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        describe_backbone(name)


def test_a_trunk_that_timm_does_not_know_says_what_to_install(tmp_path: Path) -> None:
    model_config = {"embed_dim": 8, "vision_cfg": {"timm_model_name": "resnet_of_2031"}, "text_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_config}))
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"")
    with pytest.raises(BackboneError, match="resnet_of_2031.*install"):
        describe_backbone(str(tmp_path))


def test_blocks_outside_the_backbone_are_refused() -> None:
    with pytest.raises(ConfigError, match="below 5"):
        describe_backbone("RN50", blocks=(5,))


def test_a_hub_description_that_cannot_be_fetched_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(BackboneError, match="'hf-hub:someone/model'.*no route to host"):
        describe_backbone("hf-hub:someone/model")


def test_a_name_becomes_a_config_and_a_folder_needs_no_prefix(checkpoint_of: Callable[[str], Path]) -> None:
    folder = checkpoint_of("vit")
    assert name_backbone("ViT-B-16", pretrained="openai", blocks=[1, 2]) == BackboneConfig(
        name="ViT-B-16", pretrained="openai", blocks=(1, 2), stem=True
    )
    assert name_backbone("toy") == BackboneConfig(kind="toy", stem=True)
    assert name_backbone("RN50", dense_reading="values") == BackboneConfig(
        name="RN50", stem=True, dense_reading="values"
    )
    expected = BackboneConfig(name=f"local-dir:{folder}", stem=True)
    assert name_backbone(str(folder)) == name_backbone(f"local-dir:{folder}") == expected


@pytest.mark.parametrize("name", ["toy", "hf-hub:someone/model", "local-dir:somewhere"])
def test_weights_beside_a_name_that_brings_its_own_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}'.*pretrained"):
        name_backbone(name, pretrained="openai")
