"""`finetune --segmentation`: a head from masks of one's own, on the ids as they were."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
import torch
from PIL import Image

from pyramid_tokenizer.segmentation.segmenter import Segmenter
from pyramid_tokenizer.tokenizer import PyramidTokenizer

SHORT = ("--steps", 2, "--batch-size", 2, "--crop", 32)


@pytest.fixture
def masks(here):
    """masks/: four images whose dark half is one class and whose bright half is another."""
    for folder in ("images", "labels", "splits"):
        (here / "masks" / folder).mkdir(parents=True)
    for index in range(4):
        labels = np.zeros((40, 48), dtype=np.uint8)
        labels[:, 12 * (index % 3 + 1) :] = 1
        Image.fromarray(labels * 200).convert("RGB").save(here / "masks" / "images" / f"{index}.png")
        labels[:2] = 255
        Image.fromarray(labels).save(here / "masks" / "labels" / f"{index}.png")
    (here / "masks" / "classes.txt").write_text("night|dark\nsnow\n")
    (here / "masks" / "splits" / "train.txt").write_text("0\n1\n3\n")
    return here / "masks"


def finetune(run, model, *options):
    return run("finetune", model, "--segmentation", "masks", "--out", "my head", *SHORT, *options)


def test_a_head_is_trained_and_ids_and_pixels_stay(run, model, tok, masks, photos, bars):
    done = finetune(run, model, "--split", "train")
    assert done.exit_code == 0, done.stderr
    assert "finetune: 3 labelled images, 2 classes" in done.stdout
    assert bars["words"] == (3, 3)  # night, dark, snow: read before the training, with a bar
    assert "model written to my head\nids are the same: " in done.stdout
    mine = Segmenter.from_pretrained("my head")
    assert mine.head is not None
    assert mine.head.to_embedding.weight.abs().max() > 0
    tokens = tok.encode(photos / "a.png")
    assert mine.tok.encode(photos / "a.png") == tokens
    assert torch.equal(mine.tok.decode(tokens), tok.decode(tokens))


def test_the_command_that_is_told_shows_the_head(run, model, masks, photos):
    command = finetune(run, model).stdout.splitlines()[-1].partition("pyramid-tokenizer ")[2]
    assert "--classes 'night|dark,snow' --model 'my head'" in command
    done = run(*shlex.split(command.replace("IMAGES", "photos")))
    assert done.exit_code == 0, done.stderr


def test_a_background_class_is_no_word_and_the_command_has_a_threshold(run, model, masks):
    (masks / "classes.txt").write_text("background\nsnow\n")
    done = finetune(run, model)
    assert done.exit_code == 0, done.stderr
    assert "4 labelled images, 1 classes" in done.stdout
    assert "--classes snow --threshold 0.5 --model" in done.stdout


def test_class_names_may_come_from_another_file_and_share_words(run, model, masks):
    (masks.parent / "names.txt").write_text("dusk|night\nnight|snow\n")
    done = finetune(run, model, "--classes", "names.txt")
    assert done.exit_code == 0, done.stderr
    assert "--classes 'dusk,night|snow'" in done.stdout


@pytest.mark.parametrize(
    ("option", "shared"), [("--joint", True), pytest.param("--own-trunk", False, marks=pytest.mark.slow)]
)
def test_the_decoder_learns_too_or_the_head_has_its_own_trunk(run, model, tok, masks, option, shared):
    done = finetune(run, model, option)
    assert done.exit_code == 0, done.stderr
    mine = PyramidTokenizer.from_pretrained("my head")
    assert mine.fingerprint == tok.fingerprint
    assert mine.config.segmentation is not None
    assert mine.config.segmentation.shared_decoder == shared
    moved = any(not torch.equal(t, tok.own_tensors()[n]) for n, t in mine.own_tensors().items())
    assert moved == shared
    assert f"decoded pixels are {'new' if shared else 'the same'}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "--segmentation"),
        (("--images", "photos", "--segmentation", "masks"), "photos and masks"),
        (("--images", "photos", "--split", "train"), "--split"),
        (("--images", "photos", "--joint"), "--joint"),
        (("--segmentation", "masks", "--codebooks", "refit"), "--codebooks"),
        (("--segmentation", "masks", "--sheet-every", "0"), "--sheet-every"),
        (("--segmentation", "masks", "--tensorboard"), "--tensorboard"),
        (("--segmentation", "masks", "--joint", "--own-trunk"), "--joint or --own-trunk"),
        (("--segmentation", "nowhere"), "'nowhere'"),
        (("--segmentation", "masks", "--split", "val"), "split of train"),
        (("--segmentation", "masks", "--classes", "one.txt"), "1 in 'masks/labels/0.png'"),
        (("--segmentation", "masks", "--crop", "40"), "32, got 40"),
        (("--segmentation", "masks", "--steps", "0"), "head_steps"),
    ],
)
def test_what_does_not_fit_is_one_line(run, model, masks, photos, here, arguments, told):
    (here / "one.txt").write_text("night\n")
    done = run("finetune", model, "--out", "mine", *arguments)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith("error: expected ")
    assert told in done.stderr
    assert not (here / "mine" / "config.json").exists()


def test_a_model_that_is_there_is_not_replaced(run, model, masks):
    before = model.joinpath("config.json").read_bytes()
    done = run("finetune", model, "--segmentation", "masks", "--out", model, *SHORT)
    assert done.exit_code == 1
    assert str(model) in done.stderr
    assert model.joinpath("config.json").read_bytes() == before


@pytest.mark.slow
def test_a_few_hundred_steps_tell_dark_from_bright(run, model, masks):
    done = finetune(run, model, "--steps", 400, "--batch-size", 4, "--lr", "3e-3")
    assert done.exit_code == 0, done.stderr
    call = ("evaluate", "segmentation", "--data", "masks", "--protocol", "folder", "--per-class")
    before, after = (run(*call, "--model", name).stdout for name in (model, "my head"))
    accuracy = [float(text.partition("pixel accuracy")[2].split()[0]) for text in (before, after)]
    assert accuracy[1] > max(accuracy[0], 80)
