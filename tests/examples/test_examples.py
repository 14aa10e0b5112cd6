"""The numbered examples run as their docstrings say, and what they write can be used."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pyramid_tokenizer import PyramidTokenizer, TokenPyramid
from pyramid_tokenizer.datasets import TokenDataset

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("0*.py"))
LONG = {"08_train_a_generator.py": 170}  # it has a model and its training


@pytest.fixture(scope="module")
def tiny() -> PyramidTokenizer:
    return PyramidTokenizer.from_pretrained("tiny")


@pytest.fixture
def photos(tmp_path, smooth) -> Path:
    """A folder of four images of 64 x 64 px."""
    return write_photos(tmp_path / "photos", smooth(4))


def write_photos(folder: Path, images: torch.Tensor) -> Path:
    folder.mkdir()
    for i, image in enumerate(images):
        pixels = image.mul(255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run(name, *arguments) -> what the example prints; its files are written below tmp_path."""
    monkeypatch.chdir(tmp_path)

    def call(name: str, *arguments: object) -> str:
        runpy.run_path(str(EXAMPLES / name))["main"]([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return call


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_is_short_and_begins_with_how_to_run_it(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONG.get(script.name, 60)
    assert f"python examples/{script.name}" in text.split('"""')[1]


def test_encoded_arrays_are_the_ids(run, photos, tmp_path, tiny) -> None:
    shown = run("01_encode_folder.py", "--images", photos, "--size", 64)
    assert len(shown.splitlines()) == 4
    stored = np.load(tmp_path / "ids" / "00002.npz")
    assert str(stored["fingerprint"]) == tiny.fingerprint
    for level, ids in enumerate(tiny.encode(photos / "2.png").ids):
        assert np.array_equal(stored[f"level_{level}"], ids[0].numpy())


def test_a_sequence_and_its_coarse_part_become_images(run, photos, tmp_path, tiny) -> None:
    shown = run("02_language_model.py", "--image", photos / "0.png", "--size", 64)
    vocabulary = tiny.vocabulary
    assert f"vocabulary of {vocabulary.size} integers" in shown
    assert f"sequence of {vocabulary.sequence_length((64, 64), levels=tiny.quantizer.base_levels)}" in shown
    whole, coarse = (np.asarray(Image.open(tmp_path / "decoded" / f"{name}.png")) for name in ("all", "coarse"))
    assert whole.shape == coarse.shape == (64, 64, 3)
    assert not np.array_equal(whole, coarse)


def test_simple_photos_get_fewer_tokens_than_complex_ones(run, smooth, tmp_path, tiny) -> None:
    images = smooth(2)
    images[0] = 0.5
    folder = write_photos(tmp_path / "two", images)
    lines = run("07_tokens_by_content.py", "--images", folder, "--size", 64).splitlines()
    assert [line.split()[0] for line in lines] == ["tokens/00000.tokens", "tokens/00001.tokens"]
    for i, line in enumerate(lines):
        stored = TokenPyramid.load(tmp_path / "tokens" / f"0000{i}.tokens")
        assert stored == tiny.encode(folder / f"{i}.png", quality=0.5)
        assert line.split()[1] == str(stored.num_tokens)
        with Image.open(tmp_path / "tokens" / f"0000{i}.png") as where:
            assert where.height > 64  # with its legend
    assert int(lines[0].split()[1]) < int(lines[1].split()[1])


@pytest.mark.slow
def test_a_backbone_becomes_a_tokenizer_that_loads(run, smooth, tmp_path) -> None:
    photos = write_photos(tmp_path / "large", smooth(4, 160, 200))  # crops of smaller ones would be alike
    few = ("--crops", 300, "--crop-px", 128, "--vectors-per-code", 1)
    shown = run("03_your_clip.py", "--clip", "toy", "--images", photos, *few)
    assert len(re.findall(r"level \d: \d+ tokens use", shown)) == 3
    assert PyramidTokenizer.from_pretrained(tmp_path / "my-tok").quantizer.is_fitted


@pytest.mark.slow
def test_words_are_found_in_a_folder(run, photos, tmp_path) -> None:
    shown = run("04_segment_folder.py", "--images", photos, "--words", "sky,tree|bush", "--size", 64)
    shares = [sum(map(int, re.findall(r"(\d+)%", line))) for line in shown.splitlines()]
    assert len(shares) == len(list((tmp_path / "masks").glob("*.png"))) == 4
    assert all(99 <= share <= 101 for share in shares)  # rounded


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the model's segmentation head is left out")
def test_fine_tuning_keeps_the_ids(run, photos, tmp_path, tiny) -> None:
    shown = run("05_finetune.py", "--images", photos, "--steps", 1, "--batch", 2, "--crop-px", 32)
    assert re.search(r"\d+\.\d\d dB before, \d+\.\d\d dB after", shown)
    assert PyramidTokenizer.from_pretrained(tmp_path / "my-tok").fingerprint == tiny.fingerprint


def test_stored_tokens_come_in_batches(run, photos, tmp_path, tiny) -> None:
    (tmp_path / "tokens").mkdir()
    for i in range(3):
        tiny.encode(photos / f"{i}.png").save(tmp_path / "tokens" / f"{i}.tokens")
    shown = run("06_dataloader.py", "--tokens", tmp_path / "tokens").splitlines()
    length = tiny.vocabulary.sequence_length((64, 64), levels=tiny.quantizer.base_levels)
    assert [line.split("sequences ")[1] for line in shown] == [f"(2, {length})", f"(1, {length})"]


@pytest.mark.slow
def test_a_generator_is_trained_and_writes_whole_images(run, smooth, tmp_path, tiny) -> None:
    for name, seed in (("photos", 0), ("others", 1)):
        write_photos(tmp_path / name, smooth(4, 96, 96, seed=seed))
    folders = ("--images", tmp_path / "photos", "--heldout", tmp_path / "others")
    shown = run("08_train_a_generator.py", *folders, "--crops", 16, "--steps", 2, "--out", "new")
    needed, fixed = map(float, re.search(r"needs (\d+\.\d) bits, .* fixed rate (\d+\.\d):", shown).groups())
    stored = TokenDataset(tmp_path / "new" / "heldout", cache_dir=tmp_path)
    assert (len(stored), stored.plan.limit) == (2, {"quality": 0.5})
    assert fixed == pytest.approx(64 * 64 * sum(row.tokens.bits_per_pixel for row in stored) / 2, abs=0.05)
    assert (
        fixed < needed < 1.3 * fixed
    )  # two steps teach nothing: every choice costs its fixed rate, and every mark too
    with Image.open(tmp_path / "new" / "samples.png") as sheet:
        assert sheet.width > 8 * 128


@pytest.mark.slow
def test_without_a_folder_the_photos_of_scikit_image_are_taken(run) -> None:
    pytest.importorskip("skimage")
    assert "cat" in run("04_segment_folder.py", "--size", 64)


def test_images_stand_among_the_texts_of_a_language_model(run, photos, tmp_path, tiny) -> None:
    shown = run("09_tokens_in_a_language_model.py", "--images", photos, "--size", 64).splitlines()
    length = tiny.vocabulary.sequence_length((64, 64), levels=tiny.quantizer.base_levels)
    assert f"resize_token_embeddings({257 + tiny.vocabulary.size})" in shown[0]
    assert shown[1] == f"captioning: input_ids (4, {length + 1}), of which 4 are learned"  # names of one letter
    assert shown[2] == f"generation: input_ids (4, {length + 1}), of which {4 * length} are learned"
    with Image.open(tmp_path / "made.png") as made:
        assert made.size == (64, 64)
