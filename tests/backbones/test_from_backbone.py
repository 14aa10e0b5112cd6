"""From a backbone's name to a tokenizer: preset, fit, ids, images, and back from disk, for every family."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pyramid_tokenizer.backbones import describe_backbone
from pyramid_tokenizer.config.models import LevelConfig
from pyramid_tokenizer.errors import BackboneError, CheckpointError, ConfigError
from pyramid_tokenizer.quantizer.recipe import preset_levels
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from tests.backbones.conftest import MODEL_CONFIGS, make_model, write_directory
from tests.backbones.test_loading import register

STRIDES = {
    "vit14": (28, 14, 7),
    "vit32": (32, 16, 16),
    "resnet": (32, 16, 8),
    "timm_vit": (32, 16, 8),  # pools by attention
}
SIZES = (6, 12, 48)


@pytest.fixture(scope="module")
def folder_of(checkpoint_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """As `checkpoint_of`, with ViTs of other patches."""

    def folder(family: str) -> Path:
        if family in MODEL_CONFIGS:
            return checkpoint_of(family)
        patch = int(family.removeprefix("vit"))
        vision = {**MODEL_CONFIGS["vit"]["vision_cfg"], "patch_size": patch, "image_size": 2 * patch, "layers": 4}
        model_config = {**MODEL_CONFIGS["vit"], "vision_cfg": vision}
        return write_directory(tmp_path_factory.mktemp(family), model_config, make_model(model_config).state_dict())

    return folder


def small_levels(name: str) -> list[LevelConfig]:
    """The preset with few entries: tests have few images."""
    tower = describe_backbone(name)
    levels = preset_levels(tower.strides)
    return [dataclasses.replace(v, codebook_size=size) for v, size in zip(levels, SIZES, strict=True)]


@pytest.mark.parametrize(
    "family", ["timm_vit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vit14", "vit32", "resnet"))]
)
def test_a_backbone_of_every_family_becomes_a_tokenizer_that_comes_back_from_disk(
    folder_of: Callable[[str], Path], smooth: Callable[..., torch.Tensor], tmp_path: Path, family: str
) -> None:
    folder = folder_of(family)
    images = smooth(12)
    tok = PyramidTokenizer.from_backbone(str(folder), levels=small_levels(str(folder)))
    assert tok.quantizer.strides == STRIDES[family]
    tok.fit([images])
    tokens = tok.encode(images[:2])
    assert all(len(ids.unique()) > 2 for ids in tokens.ids)
    errors = [(tok.decode(tokens[:n]) - images[:2]).square().mean().item() for n in (1, 2, 3)]
    flat = images[:2].var((2, 3), correction=0).mean().item()
    assert flat > errors[0] > errors[1] > errors[2]

    again = PyramidTokenizer.from_pretrained(tok.save_pretrained(tmp_path / "model"))
    assert again.fingerprint == tok.fingerprint
    assert again.config.backbone.name == ""  # the backbone lies in the model's own folder
    assert again.config.backbone.blocks == tok.backbone.blocks
    assert all(torch.equal(a, b) for a, b in zip(again.encode(images[:2]).ids, tokens.ids, strict=True))
    assert torch.equal(again.decode(tokens), tok.decode(tokens))


def test_without_levels_it_is_the_preset(checkpoint_of: Callable[[str], Path]) -> None:
    folder = str(checkpoint_of("convnext"))
    tower = describe_backbone(folder)
    tok = PyramidTokenizer.from_backbone(folder)
    assert tok.config.quantizer.levels == preset_levels(tower.strides)
    assert tok.config.quantizer.composition == "residual"
    assert tok.config.backbone == tower.config
    assert PyramidTokenizer.from_backbone(folder, composition="none").config.quantizer.composition == "none"


def test_the_levels_read_the_stem_and_chosen_blocks_are_there_for_levels_of_ones_own(
    checkpoint_of: Callable[[str], Path],
) -> None:
    folder = str(checkpoint_of("vit"))
    tok = PyramidTokenizer.from_backbone(folder, blocks=(0, 4))
    assert tok.config.backbone.blocks == (0, 4)
    assert [level.maps for level in tok.config.quantizer.levels] == [(2,), (2,), (2,)]
    own = [LevelConfig(stride=16, maps=(0, 1), codebook_size=4, dim=2)]
    assert PyramidTokenizer.from_backbone(folder, blocks=(0, 4), levels=own).quantizer.reads[0].maps == (0, 1)


def test_a_name_with_a_checkpoint_file_is_saved_with_its_backbone(
    checkpoint_of: Callable[[str], Path],
    smooth: Callable[..., torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register(monkeypatch, "ViT-Tiny", MODEL_CONFIGS["vit"])
    weights = checkpoint_of("vit") / "open_clip_model.safetensors"
    tok = PyramidTokenizer.from_backbone("ViT-Tiny", pretrained=weights, levels=small_levels("ViT-Tiny"))
    assert tok.config.backbone.pretrained == str(weights)
    tok.fit([smooth(8)])
    tok.save_pretrained(tmp_path / "model")
    monkeypatch.undo()  # a machine whose open_clip never heard of it
    again = PyramidTokenizer.from_pretrained(tmp_path / "model")
    tokens = tok.encode(smooth(2, seed=1))
    assert all(torch.equal(a, b) for a, b in zip(again.encode(smooth(2, seed=1)).ids, tokens.ids, strict=True))


def test_a_checkpoint_of_another_architecture_is_refused(
    checkpoint_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, "ConvNeXt-Tiny", MODEL_CONFIGS["convnext"])
    register(monkeypatch, "ViT-Wide", {**MODEL_CONFIGS["vit"], "text_cfg": {"width": 64, "layers": 1}})
    weights = checkpoint_of("vit") / "open_clip_model.safetensors"
    for name in ("ConvNeXt-Tiny", "ViT-Wide"):
        with pytest.raises(CheckpointError, match=f"open_clip_model.safetensors of {name}.*architecture"):
            PyramidTokenizer.from_backbone(name, pretrained=weights)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("ViT-B16", {}, BackboneError, "'ViT-B-16'"),
        ("RN50", {}, BackboneError, "'RN50'.*openai, yfcc15m, cc12m"),
        ("RN50", {"pretrained": "yfcc15"}, BackboneError, "'yfcc15'.*'yfcc15m'"),
        ("toy", {"pretrained": "openai"}, ConfigError, "pretrained"),
        ("toy", {"blocks": (0, 9)}, ConfigError, "below 4"),
        (
            "toy",
            {"levels": [LevelConfig(stride=8, maps=(7,), codebook_size=4, dim=2)]},
            ConfigError,
            r"maps in \[0, 5\)",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(name: str, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        PyramidTokenizer.from_backbone(name, **options)
