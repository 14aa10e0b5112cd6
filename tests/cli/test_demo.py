"""`demo`: the main job on four photos."""

from __future__ import annotations

import os
import re
import sys

import pytest
from PIL import Image

from pyramid_tokenizer.cli.demo import PHOTOS, WORDS
from pyramid_tokenizer.segmentation.segmenter import Segmenter
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.visualize import overlay


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def demo(run, model, folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return run("demo", "--model", model, "--size", 32)


def test_the_photos_become_token_files_and_a_sheet(demo, tok, folder):
    import skimage.data

    assert demo.exit_code == 0, demo.stderr
    assert sorted(os.listdir(folder / "out")) == ["demo.png", *(f"overlay-{name}.png" for name in WORDS), "tokens"]
    assert sorted(os.listdir(folder / "out" / "tokens")) == [f"{name}.tokens" for name in PHOTOS]
    for name in PHOTOS:
        expected = tok.encode(getattr(skimage.data, name)(), size=32)
        assert TokenPyramid.load(folder / "out" / "tokens" / f"{name}.tokens") == expected
    with Image.open(folder / "out" / "demo.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.height > 4 * 32


def test_the_table_has_every_figure_of_every_photo_and_the_files_are_told(demo, model):
    rows = {line.split()[0]: line.split()[1:] for line in demo.stdout.splitlines() if line.split()}
    for name in PHOTOS:
        tokens, bits, psnr, ssim, encode_ms, decode_ms = rows[name]
        assert re.fullmatch(r"\d+\+\d+", tokens)
        assert 0.05 < float(bits) < 0.2
        assert 3 < float(psnr) < 60
        assert -1 <= float(ssim) <= 1
        assert encode_ms.isdigit()
        assert decode_ms.isdigit()
    assert rows["images"] == ["out/demo.png"]
    assert rows["token"] == ["files", "out/tokens"]
    assert [line for line in demo.stdout.splitlines() if line.startswith("words ")] == [
        f"words        out/overlay-{name}.png: {', '.join(word.split('|')[0] for word in words)}"
        for name, words in WORDS.items()
    ]
    assert max(len(line.replace(str(model), "tiny")) for line in demo.stdout.splitlines()) <= 80


def test_words_are_found_in_three_photos_from_the_tokens_alone(demo, model, folder):
    segmenter = Segmenter.from_pretrained(model)
    assert len(WORDS) == 3
    for name, words in WORDS.items():
        tokens = TokenPyramid.load(folder / "out" / "tokens" / f"{name}.tokens")
        found = segmenter.segment(tokens, words)
        expected = overlay(segmenter.tok.decode(tokens), found.labels[0], found.names)
        with Image.open(folder / "out" / f"overlay-{name}.png") as stored:
            assert stored.tobytes() == expected.tobytes()


@pytest.mark.slow
def test_another_run_replaces_the_files_of_the_first(demo, run, model, folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "out" / "demo.png").write_bytes(b"")
    assert run("demo", "--model", model, "--size", 32).exit_code == 0
    assert os.path.getsize(folder / "out" / "demo.png") > 0


def test_without_scikit_image_the_pip_command_is_named(run, model, here, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    done = run("demo", "--model", model)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert 'pip install "pyramid-tokenizer[eval]"' in done.stderr
