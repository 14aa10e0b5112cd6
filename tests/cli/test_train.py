"""`train`: images -> a model of one's own."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from typer.main import get_command

from pyramid_tokenizer.cli import app
from pyramid_tokenizer.config.plain import to_dict
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.training import TrainConfig

SHORT = ("--steps", 2, "--batch-size", 4, "--crop", 32, "--fit-images", 32)


@pytest.fixture
def config(here, toy_config):
    path = here / "tokenizer.json"
    path.write_text(json.dumps(to_dict(toy_config)))
    return path


@pytest.mark.parametrize("command", ["train", "finetune"])
def test_defaults_are_those_of_the_library(command):
    defaults = {parameter.name: parameter.default for parameter in get_command(app).commands[command].params}
    library = TrainConfig()
    if command == "finetune":  # asks the library for those that depend on what it trains, and tells them in its help
        told = {parameter.name: parameter.help for parameter in get_command(app).commands[command].params}
        assert told["steps"].endswith("[default: 2000; head 1500]")
        assert told["lr"].endswith("[default: 0.0007; head 0.001]")
        assert told["batch_size"].endswith("[default: 32; head 8]")
        assert told["crop"].endswith("[default: 128; head 192]")
        assert (library.decoder_steps, library.head_steps) == (2000, 1500)
        assert (library.decoder_lr, library.head_lr) == (7e-4, 1e-3)
    else:
        assert defaults["steps"] == library.decoder_steps
        assert defaults["batch_size"] == library.batch_size
        assert defaults["crop"] == library.crop_px
        assert defaults["lr"] == library.decoder_lr
    assert defaults["accumulate"] == library.accumulate
    assert defaults["perceptual"] == library.perceptual
    assert defaults["codebook_steps"] == library.codebook_steps
    assert defaults["fit_images"] == library.fit_images
    assert defaults["codebook_lr"] == library.codebook_lr
    assert defaults["seed"] == library.seed
    assert defaults["workers"] == library.workers


def test_a_config_gives_a_model_that_loads_and_a_second_call_the_same_one(run, config, toy_config, photos):
    arguments = ("train", "--images", photos, "--out", "mine", "--config", config, *SHORT)
    first = run(*arguments)
    assert first.exit_code == 0, first.stderr
    words = [line.split(":")[0] for line in first.stdout.splitlines()]
    assert words == [
        "train",
        "fit 1/2",
        "fit 2/2",
        "decoder 1/2",
        "decoder 2/2",
        "model written to mine",
        "see what it does",
    ]
    tok = PyramidTokenizer.from_pretrained("mine")
    assert tok.config.quantizer == toy_config.quantizer
    assert tok.encode(photos / "a.png").num_tokens == 34

    again = run(*arguments)
    assert again.exit_code == 0, again.stderr
    for name, tensor in PyramidTokenizer.from_pretrained("mine").own_tensors().items():
        assert torch.equal(tensor, tok.own_tensors()[name]), name

    other = run(*arguments, "--seed", 1)
    assert (other.exit_code, other.stderr.count("\n")) == (1, 1)
    assert "seed" in other.stderr


def test_a_model_lends_its_backbone_and_layout_and_its_codebooks_are_fitted_anew(run, model, tok, photos):
    done = run("train", "--images", photos, "--out", "mine", "--model", model, *SHORT[2:], "--steps", 0)
    assert done.exit_code == 0, done.stderr
    mine = PyramidTokenizer.from_pretrained("mine")
    assert mine.config.quantizer == tok.config.quantizer
    assert mine.backbone.fingerprint == tok.backbone.fingerprint
    assert mine.fingerprint != tok.fingerprint


def test_a_model_that_was_not_trained_there_is_not_replaced(run, other_model, model, photos):
    before = (other_model / "model.safetensors").read_bytes()
    done = run("train", "--images", photos, "--out", other_model, "--model", model, *SHORT)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert str(other_model) in done.stderr
    assert (other_model / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--images", "nowhere"), "'nowhere'"),
        (("--images", "photos", "--config", "no.json"), "no.json"),
        (("--images", "photos", "--config", "wrong.json"), "'quantizer'"),
        (("--images", "photos", "--config", "tokenizer.json", "--model", "tiny"), "--model"),
        (("--images", "photos", "--backbone", "RN50", "--model", "tiny"), "--backbone RN50 and --model tiny"),
        (("--images", "photos", "--backbone", "RN50"), "'RN50'"),
        (("--images", "photos", "--pretrained", "openai"), "--pretrained openai"),
        (("--images", "photos", "--backbone-dir", "backbone"), "--backbone-dir backbone"),
        (("--images", "photos", "--config", "tokenizer.json", "--crop", 48), "crop"),
    ],
)
def test_what_does_not_fit_is_one_line(run, config, photos, here, arguments, message):
    (here / "wrong.json").write_text(config.read_text().replace('"quantizer"', '"quantiser"'))
    done = run("train", "--out", "mine", *arguments)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: expected ")
    assert message in done.stderr
    assert not (here / "mine" / "config.json").exists()


def test_without_accelerate_the_pip_command_is_named(run, config, photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    for name in [name for name in sys.modules if name.startswith("pyramid_tokenizer.training")]:
        monkeypatch.delitem(sys.modules, name)
    done = run("train", "--images", photos, "--out", "mine", "--config", config)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert 'pip install "pyramid-tokenizer[train]"' in done.stderr
