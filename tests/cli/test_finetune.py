"""`finetune`: a model that knows one's own images better, and whether stored tokens stay valid."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE

import pytest
import torch
from PIL import Image

from pyramid_tokenizer.tokenizer import PyramidTokenizer
from tests.cli.conftest import image

SHORT = ("--steps", 2, "--batch-size", 4, "--crop", 32, "--fit-images", 32, "--sheet-every", 0)


@pytest.mark.parametrize(
    ("codebooks", "ending"),
    [("frozen", "the same"), ("refit", "new"), pytest.param("continue", "new", marks=pytest.mark.slow)],
)
def test_it_says_whether_ids_are_the_same(run, model, tok, photos, codebooks, ending):
    more = ("--codebook-steps", 2) if codebooks == "continue" else ()
    done = run("finetune", model, "--images", photos, "--out", "mine", "--codebooks", codebooks, *SHORT, *more)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"ids are {ending}: ")
    mine = PyramidTokenizer.from_pretrained("mine")
    assert (mine.fingerprint == tok.fingerprint) == (codebooks == "frozen")
    assert any(not torch.equal(t, tok.own_tensors()[n]) for n, t in mine.own_tensors().items() if n.startswith("trunk"))


def test_what_it_could_not_use_is_counted_and_named(run, model, photos, here):
    Image.new("RGB", (40, 12)).save(photos / "strip.png")
    done = run("finetune", model, "--images", photos, "--out", "mine", "--codebooks", "frozen", *SHORT, "--steps", 6)
    assert done.exit_code == 0, done.stderr
    assert "images skipped: mine/skipped.tsv says which and why" in done.stdout
    assert "strip.png" in (here / "mine" / "skipped.tsv").read_text()


@pytest.mark.parametrize(
    ("codebooks", "steps", "lost"),
    [("frozen", 0, False), pytest.param("frozen", 2, True, marks=pytest.mark.slow), ("refit", 0, True)],
)
def test_a_head_that_no_longer_fits_is_told_in_one_line_with_the_command_that_trains_another(
    run, head_model, photos, here, codebooks, steps, lost
):
    options = ("--out", "mine", "--codebooks", codebooks, *SHORT, "--steps", steps)
    done = run("finetune", head_model, "--images", photos, *options)
    assert done.exit_code == 0, done.stderr
    assert (here / "mine" / "segmentation_head.safetensors").exists() != lost
    lines = done.stderr.splitlines()
    assert len(lines) == lost
    assert all(line.startswith("warning: ") and "finetune MODEL --segmentation FOLDER" in line for line in lines)


def test_sheets_are_written_by_default(run, model, photos, here):
    done = run("finetune", model, "--images", photos, "--out", "mine", "--codebooks", "frozen", *SHORT[:-2])
    assert done.exit_code == 0, done.stderr
    assert [path.name for path in (here / "mine" / "sheets").iterdir()] == ["decoder-000002.png"]


def test_no_steps_leave_trunk_and_decoder_as_they_are(run, model, tok, photos):
    done = run("finetune", model, "--images", photos, "--out", "mine", "--codebooks", "frozen", *SHORT, "--steps", 0)
    assert done.exit_code == 0, done.stderr
    mine = PyramidTokenizer.from_pretrained("mine").own_tensors()
    assert [name for name, tensor in mine.items() if not torch.equal(tensor, tok.own_tensors()[name])] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere", "--images", "photos"), "'nowhere'"),
        (("{model}", "--images", "empty"), "'empty'"),
        (("{model}", "--images", "photos", "--codebooks", "frozen", "--codebook-steps", 3), "codebook_steps 0"),
        (("{model}", "--images", "photos", "--column", "jpg"), "column"),
    ],
)
def test_what_does_not_fit_is_one_line(run, model, photos, here, arguments, message):
    (here / "empty").mkdir()
    done = run("finetune", *(str(a).format(model=model) for a in arguments), "--out", "mine")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith("error: expected ")
    assert message in done.stderr
    assert not (here / "mine" / "config.json").exists()


@pytest.mark.parametrize(
    ("command", "options"),
    [("finetune", ()), ("finetune", ("--codebooks", "continue", "--codebook-steps", 1)), ("train", ())],
)
def test_where_an_image_is_too_small_for_the_codebooks_the_command_in_the_message_works(
    run, model, here, command, options
):
    (here / "my one").mkdir()
    image(32, 32, seed=3).save(here / "my one" / "a.png")
    start = ("finetune", model) if command == "finetune" else ("train", "--model", model)
    few = ("--images", "my one", "--steps", 2, "--batch-size", 4, "--crop", 32, "--half", "--out", "new model")
    failed = run(*start, *few, *options)
    assert failed.exit_code == 1
    assert "4 different cells for the 4 codes of level 0, got 2" in failed.stderr
    name, *works = shlex.split(failed.stderr.splitlines()[-1].split("works: ")[1])
    assert name == "pyramid-tokenizer"
    assert {"my one", "--half", "--steps", "32", "frozen"} <= set(works)
    done = run(*works)
    assert done.exit_code == 0, done.stderr
    assert "ids are the same" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_told_to_stop_goes_on_to_the_same_model(model, photos, here, number, code):
    def start(out, wait=None):
        arguments = [str(a) for a in (model, "--images", photos, "--out", out, "--codebooks", "frozen", *SHORT)]
        arguments[arguments.index("--steps") + 1] = "60"
        command = [sys.executable, "-m", "pyramid_tokenizer.cli", "finetune", *arguments, "--workers", "1"]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        process = subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True, env=environment)
        if wait:
            assert process.stdout is not None
            while wait not in process.stdout.readline():
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.01)
            process.send_signal(number)
        out, errors = process.communicate(timeout=120)
        return process.returncode, out, errors

    code_of_all, _, errors = start("whole")
    assert code_of_all == 0, errors
    stopped, _, errors = start("cut", wait="decoder 9/60")
    assert stopped == code, errors
    assert "saved: the same call goes on" in errors
    assert not (here / "cut" / "config.json").exists()
    resumed, out, errors = start("cut")
    assert resumed == 0, errors
    assert "decoder 9/60" not in out
    assert "decoder 60/60" in out
    whole, cut = (PyramidTokenizer.from_pretrained(name).own_tensors() for name in ("whole", "cut"))
    for name, tensor in whole.items():
        assert torch.equal(tensor, cut[name]), name
