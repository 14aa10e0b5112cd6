"""A model from elsewhere reads its own files only, runs no code, and takes no more memory than its weights justify."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import pytest
import torch

from pyramid_tokenizer.backbones.trust import check_numbers, refuse_remote_code
from pyramid_tokenizer.errors import BackboneError, CheckpointError, ConfigError
from pyramid_tokenizer.hub import bundled_models, read_config
from pyramid_tokenizer.hub.limits import _least_numbers, check_head_size, check_own_files, check_sizes
from pyramid_tokenizer.tokenizer import PyramidTokenizer


@pytest.fixture
def model(toy_tokenizer, tmp_path) -> Path:
    return toy_tokenizer.save_pretrained(tmp_path / "model")


def change(model: Path, *place: object, value: object) -> None:
    file = model / "config.json"
    config = json.loads(file.read_text())
    holder = config
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    file.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("decoder", "depths", 0), 10**9),  # would be built for hours
        (("decoder", "widths", 2), 10**7),  # would fill the memory
        (("decoder", "pixel_depth"), 10**9),
        (("decoder", "pixel_widths", 0), 10**9),
        (("quantizer", "levels", 1, "codebook_size"), 10**12),
        (("quantizer", "levels", 1, "dim"), 10**30),
    ],
)
def test_a_config_that_needs_more_than_the_weights_hold_is_refused_before_anything_is_built(model, place, value):
    change(model, *place, value=value)
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=r"more than \d+ bytes"):
        PyramidTokenizer.from_pretrained(model)
    assert time.perf_counter() - start < 10


def test_a_head_that_needs_more_than_its_file_holds_is_refused(model):
    change(model, "segmentation", value={"width": 10**6, "depth": 2, "shared_decoder": True})
    (model / "segmentation_head.safetensors").write_bytes(bytes(100))
    with pytest.raises(CheckpointError, match=r"more than \d+ bytes"):
        check_head_size(read_config(model), embedding_dim=16, file=model / "segmentation_head.safetensors")


def test_what_is_counted_is_less_than_what_models_have(toy_tokenizer, detailed_tokenizer):
    for tok in (toy_tokenizer, detailed_tokenizer):
        count = sum(tensor.numel() for tensor in tok.own_tensors().values())
        assert count / 3 < _least_numbers(tok.config, tok.backbone.embedding_dim) < count
    for directory in bundled_models().values():
        config = read_config(directory)
        check_sizes(config, embedding_dim=128, file=directory / "model.safetensors")
        check_head_size(config, embedding_dim=128, file=directory / "segmentation_head.safetensors")


@pytest.mark.parametrize("name", ["local-dir:/etc", "local-dir:../other", "ViT-B-16\0"])
def test_a_config_that_names_a_folder_of_this_machine_is_refused(model, name):
    change(model, "backbone", "kind", value="open_clip")
    change(model, "backbone", "name", value=name)
    with pytest.raises(ConfigError, match="public backbone"):
        PyramidTokenizer.from_pretrained(model)


def test_a_config_that_names_a_file_of_this_machine_is_refused(model, tmp_path):
    (tmp_path / "secret.bin").write_bytes(b"secret")
    change(model, "backbone", "kind", value="open_clip")
    change(model, "backbone", "name", value="ViT-B-16")
    change(model, "backbone", "pretrained", value=str(tmp_path / "secret.bin"))
    with pytest.raises(ConfigError, match=r"secret\.bin"):
        PyramidTokenizer.from_pretrained(model)


def test_a_pickle_in_place_of_the_backbones_weights_is_not_read(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(
        bundled_models()["tiny"], model, ignore=lambda _, names: [n for n in names if n.endswith("tensors")]
    )
    (model / "backbone" / "open_clip_pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(CheckpointError, match=r"open_clip_pytorch_model\.bin"):
        check_own_files(read_config(model), model)


@pytest.mark.parametrize(
    "description",
    [
        {"text_cfg": {"tokenizer_kwargs": {"trust_remote_code": True}}},
        {"vision_cfg": {"timm_args": [{"trust_remote_code": 1}]}},
    ],
)
def test_a_description_that_would_run_code_is_refused(description):
    with pytest.raises(BackboneError, match="trust_remote_code"):
        refuse_remote_code(description, "a/b")
    refuse_remote_code({"text_cfg": {"tokenizer_kwargs": {"trust_remote_code": False}}}, "a/b")


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("text_cfg", "width", 4096),
        ("text_cfg", "layers", 10**9),
        ("text_cfg", "vocab_size", 10**8),
        ("text_cfg", "context_length", 10**5),
        ("vision_cfg", "image_size", 10**6),
        ("vision_cfg", "layers", [10**9, 2]),
        (None, "embed_dim", 10**12),
    ],
)
def test_a_backbone_that_needs_more_than_its_weights_hold_is_refused(part, name, value):
    folder = bundled_models()["tiny"] / "backbone"
    description = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    check_numbers(description, folder)
    (description if part is None else description[part])[name] = value
    with pytest.raises(CheckpointError, match=name if name in ("context_length", "image_size") else "backbone's"):
        check_numbers(description, folder)


def with_trunk(folder: Path, name: str) -> Path:
    """A copy of the bundled model whose description names another network of timm."""
    model = Path(shutil.copytree(bundled_models()["tiny"], folder / "model"))
    file = model / "backbone" / "open_clip_config.json"
    description = json.loads(file.read_text())
    description["model_cfg"]["vision_cfg"]["timm_model_name"] = name
    file.write_text(json.dumps(description))
    return model


def test_a_trunk_of_more_numbers_than_its_weights_hold_is_refused_while_it_is_built(tmp_path, monkeypatch):
    import timm.models

    made = []

    def huge(**options):  # 40 layers of 1.6 GB, as the largest networks of timm have
        made.extend(torch.nn.Linear(20_000, 20_000) for _ in range(40))
        raise AssertionError("built")

    monkeypatch.setitem(timm.models._registry._model_entrypoints, "made_up_huge", huge)
    model = with_trunk(tmp_path, "made_up_huge")
    with pytest.raises(CheckpointError, match="numbers by the size of the weights"):
        PyramidTokenizer.from_pretrained(model)
    assert made == []


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet18.a1_in1k", "local-dir:/etc", "../fasternet_t0"])
def test_a_trunk_that_lies_at_another_place_is_refused_without_looking_there(name, tmp_path, monkeypatch):
    monkeypatch.setattr("timm.create_model", lambda *_, **__: pytest.fail("looked for the trunk"))
    with pytest.raises(BackboneError, match=re.escape(name)):
        PyramidTokenizer.from_pretrained(with_trunk(tmp_path, name))


@pytest.mark.parametrize("mean", ["abc", [[0.5], 1, 2], 7, [0.5]])
def test_a_backbone_whose_mean_is_no_three_numbers_is_refused(mean, tmp_path):
    model = shutil.copytree(bundled_models()["tiny"], tmp_path / "model")
    file = model / "backbone" / "open_clip_config.json"
    description = json.loads(file.read_text())
    description["preprocess_cfg"]["mean"] = mean
    file.write_text(json.dumps(description))
    with pytest.raises((BackboneError, CheckpointError)):
        PyramidTokenizer.from_pretrained(model)
