"""What `OpenClipBackbone.save` writes, and that it writes it whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pyramid_tokenizer.errors import BackboneError

WEIGHTS = "open_clip_model.safetensors"
Load = Callable[..., Any]


@pytest.mark.parametrize("family", ["vit", "fasternet"])
def test_open_clip_itself_reads_what_was_saved(load: Load, tmp_path: Path, family: str) -> None:
    import open_clip

    backbone = load(family)
    backbone.save(tmp_path)
    model: Any = open_clip.create_model(f"local-dir:{tmp_path}", require_pretrained=True)
    state = backbone.model.state_dict()
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert list(model.visual.image_mean) == [0.5, 0.4, 0.3]
    assert list(model.visual.image_std) == [0.3, 0.25, 0.2]


def test_tensors_become_float16_only_where_nothing_is_lost(load: Load, tmp_path: Path) -> None:
    load("fasternet").save(tmp_path / "exact")
    floats = [t for t in load_file(tmp_path / "exact" / WEIGHTS).values() if t.is_floating_point()]
    assert {t.dtype for t in floats} == {torch.float16}
    backbone = load("vit")
    backbone.save(tmp_path / "mixed")
    stored = load_file(tmp_path / "mixed" / WEIGHTS)
    for name, tensor in backbone.model.state_dict().items():
        assert torch.equal(stored[name].to(tensor.dtype), tensor)
    assert stored["visual.conv1.weight"].dtype == torch.float32


def test_half_false_stores_every_tensor_as_it_is(load: Load, tmp_path: Path) -> None:
    backbone = load("fasternet")
    backbone.save(tmp_path, half=False)
    stored = load_file(tmp_path / WEIGHTS)
    for name, tensor in backbone.model.state_dict().items():
        assert stored[name].dtype == tensor.dtype
        assert torch.equal(stored[name], tensor)


def test_a_cast_backbone_is_not_saved_under_the_old_fingerprint(load: Load, tmp_path: Path) -> None:
    backbone = load("vit").to(torch.bfloat16)
    with pytest.raises(BackboneError, match="load the backbone again in float32"):
        backbone.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_save_that_breaks_off_leaves_the_old_files(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    load("fasternet").save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fill_the_disk(state: Any, path: Path, **_: Any) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", fill_the_disk)
    with pytest.raises(OSError, match="no space left"):
        load("vit").save(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_whoever_may_read_the_config_may_read_the_weights(load: Load, tmp_path: Path) -> None:
    load("vit").save(tmp_path)
    plain = tmp_path / "plain"
    plain.write_text("")
    assert {path.name: path.stat().st_mode for path in tmp_path.iterdir()} == dict.fromkeys(
        ["plain", WEIGHTS, "open_clip_config.json"], plain.stat().st_mode
    )


def test_saving_a_loaded_save_gives_the_same_bytes(load: Load, tmp_path: Path) -> None:
    from pyramid_tokenizer.backbones import load_backbone

    load("resnet").save(tmp_path / "one")
    load_backbone(load("resnet").config, directory=tmp_path / "one").save(tmp_path / "two")
    for name in (WEIGHTS, "open_clip_config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    content = json.loads((tmp_path / "one" / "open_clip_config.json").read_text())
    assert content["model_cfg"]["vision_cfg"]["layers"] == [1, 1, 1, 1]
