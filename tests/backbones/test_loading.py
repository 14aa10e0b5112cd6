"""From a config to a backbone: every source, and every way it can go wrong."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import socket
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pyramid_tokenizer.backbones import load_backbone
from pyramid_tokenizer.config.models import BackboneConfig
from pyramid_tokenizer.errors import BackboneError, CheckpointError, ConfigError, MissingExtraError
from tests.backbones.conftest import MODEL_CONFIGS

WEIGHTS = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"
IMAGES = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(checkpoint_of: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the ViT's checkpoint that a test may spoil."""
    return Path(shutil.copytree(checkpoint_of("vit"), tmp_path / "backbone"))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS)


def load(folder: Path, **config: Any) -> Any:
    return load_backbone(BackboneConfig(**config), directory=folder)


def register(monkeypatch: pytest.MonkeyPatch, name: str, model_config: dict[str, Any], **tags: Any) -> None:
    """Makes open_clip know a model name and its weight tags, as a new release of it would."""
    import open_clip.factory
    import open_clip.pretrained

    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, model_config)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, tags)


def test_the_name_local_dir_reads_the_same_backbone_as_a_directory(folder: Path) -> None:
    one, other = load_backbone(BackboneConfig(name=f"local-dir:{folder}")), load(folder)
    assert one.fingerprint == other.fingerprint
    assert torch.equal(one(IMAGES).maps[0], other(IMAGES).maps[0])


def test_a_name_with_a_checkpoint_file_reads_the_same_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "ViT-Tiny", MODEL_CONFIGS["vit"], one={"mean": (0.5, 0.4, 0.3), "std": (0.3, 0.25, 0.2)})
    backbone = load_backbone(BackboneConfig(name="ViT-Tiny", pretrained=str(folder / WEIGHTS)))
    assert backbone.fingerprint == load(folder).fingerprint  # the only published tag told mean and std
    assert torch.equal(backbone(IMAGES).maps[0], load(folder)(IMAGES).maps[0])
    assert torch.equal(backbone.encode_text(["a cat"]), load(folder).encode_text(["a cat"]))


def test_a_checkpoint_file_without_any_published_normalisation_takes_open_clips_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip

    register(monkeypatch, "ViT-Tiny", MODEL_CONFIGS["vit"])
    backbone = load_backbone(BackboneConfig(name="ViT-Tiny", pretrained=str(folder / WEIGHTS)))
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    expected = load(folder).model.visual.forward_intermediates((IMAGES - mean) / std, indices=[4])
    torch.testing.assert_close(backbone(IMAGES).maps[0], expected["image_intermediates"][0])


def test_a_pickled_checkpoint_of_plain_tensors_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "ViT-Tiny", MODEL_CONFIGS["vit"], one={"mean": (0.5, 0.4, 0.3), "std": (0.3, 0.25, 0.2)})
    torch.save({"state_dict": load_file(folder / WEIGHTS)}, folder / "weights.pt")
    backbone = load_backbone(BackboneConfig(name="ViT-Tiny", pretrained=str(folder / "weights.pt")))
    assert backbone.fingerprint == load(folder).fingerprint


@pytest.mark.parametrize("quick", [False, True])
def test_a_tag_brings_its_normalisation_and_the_activation_it_was_trained_with(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quick: bool
) -> None:
    from open_clip.transformer import QuickGELU

    tag = {"file": str(folder / WEIGHTS), "mean": (0.5, 0.4, 0.3), "std": (0.3, 0.25, 0.2), "quick_gelu": quick}
    register(monkeypatch, "ViT-Tiny", MODEL_CONFIGS["vit"], fine_tag=tag)
    backbone: Any = load_backbone(BackboneConfig(name="ViT-Tiny", pretrained="fine-tag"))
    assert any(isinstance(module, QuickGELU) for module in backbone.modules()) is quick
    assert (backbone.fingerprint == load(folder).fingerprint) is not quick
    backbone.save(tmp_path / "saved")
    again = load(tmp_path / "saved", fingerprint=backbone.fingerprint)
    assert torch.equal(again(IMAGES).maps[0], backbone(IMAGES).maps[0])


def test_a_stored_fingerprint_is_checked(folder: Path) -> None:
    fingerprint = load(folder).fingerprint
    assert load(folder, fingerprint=fingerprint).fingerprint == fingerprint
    with pytest.raises(CheckpointError, match=f"000000000000.*{fingerprint[:12]}"):
        load(folder, fingerprint="0" * 64)
    with pytest.raises(CheckpointError, match=fingerprint[:12]):
        load(folder, fingerprint=fingerprint, blocks=(1,))
    with pytest.raises(CheckpointError, match=fingerprint[:12]):
        load_backbone(BackboneConfig(kind="toy", fingerprint=fingerprint))


def test_one_changed_number_of_the_image_backbone_changes_the_fingerprint(folder: Path) -> None:
    before = load(folder).fingerprint
    change_weights(folder, lambda state: state["visual.conv1.weight"][0, 0, 0].add_(1e-3))
    assert load(folder).fingerprint != before


def test_the_text_backbone_does_not_count_in_the_fingerprint(folder: Path) -> None:
    before = load(folder).fingerprint
    change_weights(folder, lambda state: state["text_projection"].add_(1.0))
    assert load(folder).fingerprint == before


def test_the_normalisation_counts_in_the_fingerprint(folder: Path) -> None:
    before = load(folder).fingerprint
    content = json.loads((folder / CONFIG).read_text())
    content["preprocess_cfg"]["std"] = [0.3, 0.25, 0.21]
    (folder / CONFIG).write_text(json.dumps(content))
    assert load(folder).fingerprint != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("visual.proj"), r"Missing key.*visual\.proj"),
        (lambda state: state.pop("ln_final.weight"), r"Missing key.*ln_final\.weight"),
        (lambda state: state.update(strange=torch.zeros(1)), r"Unexpected key.*strange"),
        (lambda state: state.update({"visual.proj": torch.zeros(3, 3)}), r"size mismatch for visual\.proj"),
    ],
)
def test_a_missing_extra_or_misshapen_weight_is_named(folder: Path, change: Any, message: str) -> None:
    change_weights(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_a_file_that_was_cut_short_is_refused(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="local-dir:"):
        load(folder)


class _Runs:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("it-ran"),)


def test_a_pickle_that_would_run_code_is_refused_unopened(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / WEIGHTS).unlink()
    torch.save({"visual.proj": _Runs()}, folder / "open_clip_pytorch_model.bin", pickle_module=pickle)
    with pytest.raises(CheckpointError, match="would run code"):
        load(folder)
    assert not Path("it-ran").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "got no folder"),
        (lambda folder: (folder / CONFIG).unlink(), "No such file"),
        (lambda folder: (folder / CONFIG).write_text("{"), "Expecting property name"),
        (lambda folder: (folder / CONFIG).write_text("{}"), '"model_cfg"'),
        (lambda folder: (folder / WEIGHTS).unlink(), "got no weights"),
    ],
)
def test_a_folder_that_lacks_a_part_is_refused_by_that_part(folder: Path, spoil: Any, message: str) -> None:
    spoil(folder)
    with pytest.raises(BackboneError, match=message):
        load(folder)


def test_a_model_config_that_open_clip_does_not_know_is_refused(folder: Path) -> None:
    content = json.loads((folder / CONFIG).read_text())
    content["model_cfg"]["vision_cfg"]["strange_field"] = 1
    (folder / CONFIG).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="strange_field"):
        load(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "ViT-B16", "pretrained": "openai"}, r"'ViT-B16'.*'ViT-B-16'"),
        ({"name": "vit-b-16", "pretrained": "openai"}, r"'vit-b-16'.*'ViT-B-16'"),
        ({"name": "zzzzzz", "pretrained": "openai"}, "list_models"),
        ({"name": ""}, "open_clip model name"),
        ({"name": "ViT-B-16"}, "'ViT-B-16'.* openai, "),
        ({"name": "ViT-B-16", "pretrained": "opneai"}, "'opneai'.*'openai'"),
        ({"name": "ViT-B-16", "pretrained": "no/such/file.pt"}, "'no/such/file.pt'.* openai, "),
    ],
)
def test_a_name_or_tag_that_nobody_knows_is_refused_with_near_ones(config: dict[str, Any], message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        load_backbone(BackboneConfig(**config))


@pytest.mark.parametrize("name", ["hf-hub:someone/model", "local-dir:somewhere"])
def test_weights_beside_a_name_that_brings_its_own_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        load_backbone(BackboneConfig(name=name, pretrained="openai"))


class Hub:
    """The Hub's client, in place of `huggingface_hub.hf_hub_download`: knows the files of a folder, remembers the calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, names: Collection[str]):
        self.folder, self.names, self.calls = folder, names, []
        monkeypatch.setattr("huggingface_hub.hf_hub_download", self)

    def __call__(self, repo_id: str, filename: str, **options: Any) -> str:
        self.calls.append((repo_id, filename, options))
        if filename not in self.names:
            raise OSError("no route to host")
        return str(self.folder / filename)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"name": "ViT-B-16", "pretrained": "openai"}, "openai of ViT-B-16.*no route to host.*backbone.pretrained"),
        ({"name": "hf-hub:someone/model"}, "'hf-hub:someone/model'.*no route to host.*local-dir"),
    ],
)
def test_weights_that_cannot_be_fetched_are_named_with_the_way_on(
    config: dict[str, Any], told: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hub(monkeypatch, folder, ())
    with pytest.raises(BackboneError, match=told):
        load_backbone(BackboneConfig(**config))


def test_a_hub_model_whose_weights_alone_are_missing_is_no_random_backbone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hub(monkeypatch, folder, (CONFIG,))
    with pytest.raises(BackboneError, match="expected to fetch the weights"):
        load_backbone(BackboneConfig(name="hf-hub:someone/model"))


OPTIONS = {"token": "secret", "cache_dir": "somewhere", "local_files_only": True}


def test_every_file_of_a_hub_model_is_fetched_as_the_caller_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch, folder, (CONFIG, WEIGHTS))
    backbone = load_backbone(BackboneConfig(name="hf-hub:someone/model"), **OPTIONS)
    assert backbone.fingerprint == load(folder).fingerprint
    assert torch.equal(backbone.encode_text(["a cat"]), load(folder).encode_text(["a cat"]))
    assert hub.calls == [("someone/model", name, OPTIONS) for name in (CONFIG, WEIGHTS)]


@pytest.mark.parametrize("published", ["org/repo/", "org/repo/weights.bin", "org/repo/weights.pt"])
def test_the_weights_of_a_tag_are_fetched_as_the_caller_says_safetensors_first(
    published: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = {"hf_hub": published, "mean": (0.5, 0.4, 0.3), "std": (0.3, 0.25, 0.2)}
    register(monkeypatch, "ViT-Tiny", MODEL_CONFIGS["vit"], tag=tag)
    name = {"": WEIGHTS, "weights.bin": "weights.safetensors"}.get(published.removeprefix("org/repo/"))
    if name is None:  # a file that torch.save wrote, as its suffix says
        torch.save(load_file(folder / WEIGHTS), folder / (name := "weights.pt"))
    elif name != WEIGHTS:
        (folder / WEIGHTS).rename(folder / name)
    hub = Hub(monkeypatch, folder, (name,))
    backbone = load_backbone(BackboneConfig(name="ViT-Tiny", pretrained="tag"), **OPTIONS)
    assert hub.calls == [("org/repo", name, OPTIONS)]
    assert torch.equal(backbone.encode_text(["a cat"]), backbone.encode_text(["a cat"]))


def test_a_tag_with_an_address_is_read_from_the_cache_alone_where_the_network_must_not_be_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = f"https://example.test/models/{WEIGHTS}"
    tag = {"url": url, "mean": (0.5, 0.4, 0.3), "std": (0.3, 0.25, 0.2)}
    register(monkeypatch, "ViT-Tiny", MODEL_CONFIGS["vit"], tag=tag)
    config = BackboneConfig(name="ViT-Tiny", pretrained="tag")
    with pytest.raises(BackboneError, match=WEIGHTS):
        load_backbone(config, cache_dir=tmp_path / "empty", local_files_only=True)
    assert load_backbone(config, cache_dir=folder, local_files_only=True).fingerprint == load(folder).fingerprint


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The questions to a network, none of which is answered; HF_HUB_OFFLINE is not set."""
    questions: list[Any] = []

    def refuse(*question: Any, **_: Any) -> None:
        questions.append(question)
        raise OSError("no network in this test")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    return questions


def name_text_network(folder: Path, name: str) -> None:
    content = json.loads((folder / CONFIG).read_text())
    content["model_cfg"]["text_cfg"]["hf_model_name"] = name
    (folder / CONFIG).write_text(json.dumps(content))


def test_a_text_network_that_another_package_looks_up_is_refused_where_the_network_must_not_be_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, asked: list[Any]
) -> None:
    name_text_network(folder, "someone/text")
    with pytest.raises(BackboneError, match=r"someone/text.*backbone.*HF_HUB_OFFLINE"):
        load(folder)
    with pytest.raises(BackboneError, match=r"someone/text.*backbone.*HF_HUB_OFFLINE"):
        load_backbone(BackboneConfig(name=f"local-dir:{folder}"))
    Hub(monkeypatch, folder, (CONFIG, WEIGHTS))
    with pytest.raises(BackboneError, match=r"someone/text.*someone/model.*HF_HUB_OFFLINE"):
        load_backbone(BackboneConfig(name="hf-hub:someone/model"), local_files_only=True)
    assert asked == []


def test_a_text_network_is_looked_up_in_the_cache_alone_where_the_client_asks_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, asked: list[Any]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    name_text_network(folder, "someone/text")
    with pytest.raises(CheckpointError):  # it is not in the cache
        load(folder)
    assert asked == []


@pytest.mark.parametrize("place", ["/etc/text", "../text", "https://example.test/text", "a/b/c", "~/text", "C:\\text"])
def test_a_text_network_at_an_address_or_a_path_is_refused(folder: Path, place: str) -> None:
    name_text_network(folder, place)
    with pytest.raises(BackboneError, match=re.escape(repr(place))):
        load(folder)


def test_a_copy_of_a_backbone_does_not_hold_the_token(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Hub(monkeypatch, folder, (CONFIG, WEIGHTS))
    backbone = load_backbone(BackboneConfig(name="hf-hub:someone/model"), **OPTIONS)
    stored = pickle.dumps(backbone)
    assert b"secret" not in stored
    again = pickle.loads(stored)
    assert torch.equal(again.encode_text(["a cat"]), backbone.encode_text(["a cat"]))
    assert torch.equal(again(IMAGES).maps[0], backbone(IMAGES).maps[0])


def test_a_model_whose_text_tokenizer_needs_another_package_names_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.loads((folder / CONFIG).read_text())
    content["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "someone/tokenizer"
    (folder / CONFIG).write_text(json.dumps(content))
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    backbone = load(folder)
    assert backbone(IMAGES).maps[0].shape == (1, 32, 4, 4)  # images do not need it
    with pytest.raises(MissingExtraError, match="pip install transformers"):
        backbone.encode_text(["a cat"])
