"""Tokenizers on disk: saved, loaded, altered, saved over each other."""

import copy
import dataclasses
import errno
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from pyramid_tokenizer import hub
from pyramid_tokenizer.config.models import BackboneConfig, SegmentationConfig
from pyramid_tokenizer.errors import BackboneError, CheckpointError, ConfigError, ModelNotFoundError
from pyramid_tokenizer.hub import directory as saving
from pyramid_tokenizer.hub.directory import backbone_folder, is_public, save_model
from pyramid_tokenizer.images.read import read_image
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.tokens.pyramid import TokenPyramid

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def model(toy_tokenizer, tmp_path):
    """A saved model to be altered."""
    return toy_tokenizer.save_pretrained(tmp_path / "model")


def alter(model, change):
    """Applies `change` to the tensors of a saved model."""
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file(tensors, model / "model.safetensors")


def test_a_saved_tokenizer_comes_back_the_same_bit_for_bit(toy_tokenizer, model, smooth):
    images = smooth(3, 40, 56, seed=2)
    loaded = PyramidTokenizer.from_pretrained(model)
    assert loaded.fingerprint == toy_tokenizer.fingerprint
    tokens = toy_tokenizer.encode(images)
    assert loaded.encode(images) == tokens
    for n in (1, 2, 3):
        assert torch.equal(loaded.decode(tokens[:n]), toy_tokenizer.decode(tokens[:n]))
    assert torch.equal(loaded.embedding(tokens), toy_tokenizer.embedding(tokens))
    for name, tensor in toy_tokenizer.own_tensors().items():
        assert torch.equal(loaded.own_tensors()[name], tensor), name


def test_a_saved_model_is_a_few_plain_files(toy_tokenizer, model):
    assert sorted(os.listdir(model)) == ["README.md", "config.json", "model.safetensors"]
    config = hub.read_config(model)
    assert config.fingerprint == toy_tokenizer.fingerprint
    assert config.backbone.fingerprint == toy_tokenizer.backbone.fingerprint
    cleared = dataclasses.replace(config, fingerprint="", backbone=dataclasses.replace(config.backbone, fingerprint=""))
    assert cleared == toy_tokenizer.config
    assert sorted(load_file(model / "model.safetensors")) == sorted(toy_tokenizer.own_tensors())


def test_saving_twice_writes_the_same_bytes(toy_tokenizer, model, tmp_path):
    again = PyramidTokenizer.from_pretrained(model).save_pretrained(tmp_path / "again")
    for name in os.listdir(model):
        assert (again / name).read_bytes() == (model / name).read_bytes(), name


def test_half_changes_no_id_and_decodes_nearly_the_same(toy_tokenizer, model, tmp_path, smooth):
    half = toy_tokenizer.save_pretrained(tmp_path / "half", half=True)
    assert (half / "model.safetensors").stat().st_size < 0.8 * (model / "model.safetensors").stat().st_size
    loaded, images = PyramidTokenizer.from_pretrained(half), smooth(3)
    assert loaded.dtype == torch.float32
    tokens = toy_tokenizer.encode(images)
    assert loaded.encode(images) == tokens
    assert loaded.fingerprint == toy_tokenizer.fingerprint
    decoded, exact = loaded.decode(tokens), toy_tokenizer.decode(tokens)
    torch.testing.assert_close(decoded, exact, rtol=0, atol=0.002)
    assert not torch.equal(decoded, exact)
    assert hub.read_config(half) == hub.read_config(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loading_casts_backbone_and_decoder(model, dtype, smooth):
    loaded = PyramidTokenizer.from_pretrained(model, dtype=dtype, device="cpu")
    assert loaded.dtype == dtype
    assert loaded.quantizer.level(0).codebook.dtype == torch.float32
    assert loaded.reconstruct(smooth(1)).shape == (1, 3, 64, 64)


def test_a_cast_tokenizer_is_not_saved(model, tmp_path):
    cast = PyramidTokenizer.from_pretrained(model, dtype=torch.bfloat16)
    with pytest.raises(CheckpointError, match="expected a float32 tokenizer to save, got torch.bfloat16"):
        cast.save_pretrained(tmp_path / "cast")
    assert not (tmp_path / "cast").exists()


def test_a_missing_weight_is_named(model):
    alter(model, lambda tensors: tensors.pop("trunk.carry.0.weight"))
    with pytest.raises(CheckpointError, match=r"missing: trunk\.carry\.0\.weight"):
        PyramidTokenizer.from_pretrained(model)


def test_an_extra_weight_is_named(model):
    alter(model, lambda tensors: tensors.update({"trunk.more": torch.ones(2)}))
    with pytest.raises(CheckpointError, match=r"unexpected: trunk\.more"):
        PyramidTokenizer.from_pretrained(model)


def test_a_misshapen_weight_is_named(model):
    alter(model, lambda tensors: tensors.update({"quantizer.levels.0.codebook": torch.ones(8, 5)}))
    with pytest.raises(CheckpointError, match=r"wrong shape: quantizer\.levels\.0\.codebook"):
        PyramidTokenizer.from_pretrained(model)


@pytest.mark.parametrize(
    "name", ["levels.2.codebook", "levels.0.adapter.weight", "levels.1.pixel_readout.bias", "levels.1.std"]
)
def test_an_altered_value_that_determines_ids_is_noticed(model, name):
    alter(model, lambda tensors: tensors[f"quantizer.{name}"].flatten()[3].add_(1e-4))
    with pytest.raises(CheckpointError, match="expected codebooks with fingerprint .* was altered; download or save"):
        PyramidTokenizer.from_pretrained(model)


def test_another_decoder_keeps_the_fingerprint_and_stored_tokens(toy_tokenizer, model, smooth):
    tokens = toy_tokenizer.encode(smooth(1))
    alter(model, lambda tensors: tensors["pixel_decoder.to_pixels.bias"].add_(0.1))
    better = PyramidTokenizer.from_pretrained(model)
    assert better.fingerprint == toy_tokenizer.fingerprint
    assert not torch.equal(better.decode(tokens), toy_tokenizer.decode(tokens))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"decoders": 1}, ConfigError, "got 'decoders': did you mean 'decoder'"),
        ({"format_version": 2}, ConfigError, "install the pyramid-tokenizer release that wrote it"),
        ({"fingerprint": "0" * 64}, CheckpointError, "expected codebooks with fingerprint 000000000000"),
    ],
)
def test_an_altered_config_is_refused(model, change, error, message):
    data = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(data | change))
    with pytest.raises(error, match=message):
        PyramidTokenizer.from_pretrained(model)


def test_another_backbone_is_refused(model):
    data = json.loads((model / "config.json").read_text())
    data["backbone"]["fingerprint"] = "1" * 64
    (model / "config.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match="expected the backbone with fingerprint 111111111111"):
        PyramidTokenizer.from_pretrained(model)


def test_a_missing_or_broken_weights_file_is_an_error(model):
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="expected a readable safetensors file"):
        PyramidTokenizer.from_pretrained(model)
    (model / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model.safetensors"):
        PyramidTokenizer.from_pretrained(model)
    with pytest.raises(ModelNotFoundError):
        PyramidTokenizer.from_pretrained(model / "nowhere")


def test_a_model_replaces_the_one_that_was_there(toy_tokenizer, toy_config, model, smooth):
    other = PyramidTokenizer.from_config(toy_config)
    other.fit([smooth(16, seed=5)])
    toy_tokenizer.save_pretrained(model, evaluation={"rows": []})
    assert json.loads((model / "evaluation.json").read_text()) == {"rows": []}
    (model / "notes.txt").write_text("mine")
    other.save_pretrained(model)
    assert PyramidTokenizer.from_pretrained(model).fingerprint == other.fingerprint
    assert not (model / "evaluation.json").exists()  # it was measured on the other model
    assert (model / "notes.txt").read_text() == "mine"
    assert not [path for path in model.parent.iterdir() if path != model]  # no rest of the writing


def test_figures_reach_the_card(toy_tokenizer, tmp_path):
    row = {"what": "all levels", "bits_per_pixel": 0.21, "psnr": 23.456, "ssim": 0.65}
    evaluation = {"rows": [row], "fingerprint": toy_tokenizer.fingerprint}
    folder = toy_tokenizer.save_pretrained(tmp_path / "model", evaluation=evaluation)
    assert "23.46" in (folder / "README.md").read_text(encoding="utf-8")
    assert json.loads((folder / "evaluation.json").read_text()) == evaluation


def test_a_full_disk_leaves_the_model_that_was_there(toy_config, toy_tokenizer, model, smooth, monkeypatch):
    other = PyramidTokenizer.from_config(toy_config)
    other.fit([smooth(16, seed=5)])

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub, "write_weights", full)
    with pytest.raises(OSError, match="No space left"):
        other.save_pretrained(model)
    assert PyramidTokenizer.from_pretrained(model).fingerprint == toy_tokenizer.fingerprint


def test_a_file_in_place_of_a_directory_is_refused(toy_tokenizer, tmp_path):
    (tmp_path / "model").write_text("not a folder")
    with pytest.raises(CheckpointError, match="expected a directory to save the model in, got the file"):
        toy_tokenizer.save_pretrained(tmp_path / "model")


def test_a_home_directory_is_understood(toy_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert toy_tokenizer.save_pretrained("~/model") == tmp_path / "model"
    assert PyramidTokenizer.from_pretrained("~/model").fingerprint == toy_tokenizer.fingerprint


def test_pushing_sends_a_whole_model(toy_tokenizer, monkeypatch):
    sent = {}

    def push(directory, repo_id, **options):
        sent["model"], sent["options"] = PyramidTokenizer.from_pretrained(directory), options
        return f"https://example.test/{repo_id}"

    monkeypatch.setattr("pyramid_tokenizer.hub.upload.push", push)
    assert toy_tokenizer.push_to_hub("user/repo", private=True) == "https://example.test/user/repo"
    assert sent["model"].fingerprint == toy_tokenizer.fingerprint
    assert sent["options"]["private"] is True


class PrivateBackbone(nn.Module):
    """Stands in for an open_clip backbone without a public address."""

    fingerprint = "f" * 64

    def save(self, directory):
        directory.mkdir()
        (directory / "open_clip_config.json").write_text("{}")


def test_a_head_lies_beside_the_model_and_is_declared(toy_tokenizer, model, tmp_path):
    plain = hub.read_config(model)
    assert plain.segmentation is None
    weight = torch.tensor([[1.0, 0.1]])
    head = hub.StoredHead(config=SegmentationConfig(), tensors={"weight": weight})
    toy_tokenizer.save_pretrained(model, head=head)
    assert torch.equal(load_file(model / saving.HEAD_FILE)["weight"], weight)
    assert hub.read_config(model) == dataclasses.replace(plain, segmentation=SegmentationConfig())
    half = toy_tokenizer.save_pretrained(tmp_path / "half", head=head, half=True)
    assert torch.equal(load_file(half / saving.HEAD_FILE)["weight"], weight.half())
    toy_tokenizer.save_pretrained(model)
    assert not (model / saving.HEAD_FILE).exists()
    assert hub.read_config(model) == plain


def test_the_head_of_the_config_is_declared_where_it_is_saved_and_only_there(toy_tokenizer, tmp_path):
    tok = copy.deepcopy(toy_tokenizer)
    tok.config = dataclasses.replace(tok.config, segmentation=SegmentationConfig(width=8, depth=1))
    stored = hub.StoredHead(config=SegmentationConfig(width=4, depth=0), tensors={"weight": torch.ones(2)})
    folder = tok.save_pretrained(tmp_path / "model", head=stored)
    assert hub.read_config(folder).segmentation == stored.config
    assert hub.read_config(tok.save_pretrained(folder)).segmentation is None
    assert tok.fingerprint == toy_tokenizer.fingerprint


def test_text_embeddings_are_saved_in_float32(toy_tokenizer, smooth, tmp_path):
    loaded = PyramidTokenizer.from_pretrained(toy_tokenizer.save_pretrained(tmp_path / "model", half=True))
    tokens = toy_tokenizer.encode(smooth(2, seed=3))
    assert torch.equal(loaded.embedding(tokens), toy_tokenizer.embedding(tokens))


def write(directory, config, **backbone):
    config = dataclasses.replace(config, backbone=BackboneConfig(**backbone), fingerprint="a" * 64)
    save_model(directory, config, backbone=PrivateBackbone(), tensors={"x": torch.ones(2)})
    return hub.read_config(directory).backbone


def test_a_backbone_without_a_public_address_is_saved_beside(toy_config, tmp_path):
    checkpoint = tmp_path / "mine.pt"
    checkpoint.write_bytes(b"weights")
    for i, (name, weights) in enumerate([("", None), ("ViT-B-16", str(checkpoint)), ("local-dir:/somewhere", None)]):
        folder = tmp_path / str(i)
        tower = write(folder, toy_config, kind="open_clip", name=name, pretrained=weights, blocks=(1, 2))
        assert tower == BackboneConfig(kind="open_clip", blocks=(1, 2), fingerprint="f" * 64)
        assert backbone_folder(folder, tower) == folder / "backbone"
        assert (folder / "backbone" / "open_clip_config.json").exists()


def test_a_public_backbone_is_named_and_a_stale_folder_is_not_read(toy_config, tmp_path):
    write(tmp_path / "model", toy_config, kind="open_clip", name="")
    for name, weights in (("ViT-B-16", "openai"), ("hf-hub:org/repo", None)):
        tower = write(tmp_path / "model", toy_config, kind="open_clip", name=name, pretrained=weights)
        assert (tower.name, tower.pretrained) == (name, weights)
        assert backbone_folder(tmp_path / "model", tower) is None
    assert backbone_folder(tmp_path, BackboneConfig(kind="toy")) is None
    assert is_public(BackboneConfig(kind="toy"))
    assert not is_public(BackboneConfig(name="ViT-B-16"))


def test_a_missing_backbone_folder_is_an_error(model):
    data = json.loads((model / "config.json").read_text())
    data["backbone"] |= {"kind": "open_clip", "fingerprint": ""}
    (model / "config.json").write_text(json.dumps(data))
    with pytest.raises(BackboneError, match="got no folder"):
        PyramidTokenizer.from_pretrained(model)


def test_files_of_a_model_have_fixed_names():
    assert (saving.WEIGHTS_FILE, saving.BACKBONE_FOLDER) == ("model.safetensors", "backbone")
    assert saving.HEAD_FILE == "segmentation_head.safetensors"


def test_the_golden_models_card_is_what_this_release_writes():
    config = hub.read_config(GOLDEN / "toy-tokenizer")
    card = hub.model_card(config, fingerprint=config.fingerprint)
    assert (GOLDEN / "toy-tokenizer" / "README.md").read_text(encoding="utf-8") == card


def test_the_golden_model_gives_the_recorded_ids_and_image():
    tok = PyramidTokenizer.from_pretrained(GOLDEN / "toy-tokenizer")
    recorded = TokenPyramid.load(GOLDEN / "toy-tokenizer.tokens")
    assert tok.encode(Image.open(GOLDEN / "toy-image.png")) == recorded
    assert all(len(ids.unique()) > 3 for ids in recorded.ids)
    decoded = tok.decode(recorded)[0]
    torch.testing.assert_close(decoded, read_image(GOLDEN / "toy-decoded.png"), rtol=0, atol=1.5 / 255)


def test_a_deep_copy_is_a_tokenizer_of_its_own(toy_tokenizer, smooth):
    other = copy.deepcopy(toy_tokenizer)
    other.fit([smooth(16, seed=8)], keep_adapters=True)
    assert other.fingerprint != toy_tokenizer.fingerprint
