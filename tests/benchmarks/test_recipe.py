"""The table of the recipe, on a small labelled folder and codebooks of few entries."""

import csv
import dataclasses
import json
from pathlib import Path

import pytest
import torch

from benchmarks import recipe
from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.config.models import QuantizerConfig
from pyramid_tokenizer.images.pixels import to_pil
from pyramid_tokenizer.quantizer.recipe import preset_levels
from tests.backbones.conftest import MODEL_CONFIGS, make_model, write_directory
from tests.backbones.test_loading import register

COUNT = 120
LABELS = ("red_thing", "green thing", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, smooth):
    """Images in a folder, two of three with a label, and the CSV."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = []
    for i, image in enumerate(to_pil(smooth(COUNT, 36, 40, seed=4))):
        image.save(folder / f"{i:03}.png")
        rows.append((f"{i:03}.png", LABELS[i % 3]))
    with open(folder / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "label"), *rows])
    return folder


@pytest.fixture
def few_entries(monkeypatch):
    def small(change):
        few = {"codebook_size": 8, "dim": 4}
        return lambda config, strides: recipe._with_levels(change(config, strides), [few] * len(config.levels))

    monkeypatch.setattr(recipe, "VARIANTS", {name: small(change) for name, change in recipe.VARIANTS.items()})


def test_images_that_are_measured_are_not_fitted_on(folder):
    labelled = recipe.read_labels(folder, folder / "labels.csv", limit=200)
    assert labelled.names == ["green thing", "red thing"]
    assert not set(labelled.fit) & set(labelled.test)
    assert len(labelled.fit) + len(labelled.test) == COUNT
    assert 3 <= len(labelled.test) <= 20
    for file, target in zip(labelled.test, labelled.targets, strict=True):
        assert labelled.names[target] == LABELS[int(file.stem) % 3].replace("_", " ")


def test_a_split_of_ones_own_says_which_images_are_measured(folder, tmp_path):
    rows = ["file,label,split", "000.png,red_thing,test", "001.png,,test", "002.png,green_thing,train"]
    (tmp_path / "split.csv").write_text("\n".join(rows) + "\n")
    labelled = recipe.read_labels(folder, tmp_path / "split.csv", limit=9)
    assert [file.name for file in labelled.test] == ["000.png"]
    assert [file.name for file in labelled.fit] == ["001.png", "002.png"]
    assert labelled.names == ["green thing", "red thing"]


def test_images_beyond_the_limit_are_left_out_of_both(folder):
    every, one = (recipe.read_labels(folder, folder / "labels.csv", limit=limit) for limit in (200, 1))
    assert one.fit == every.fit
    assert one.test == every.test[:1]


def test_labels_of_which_none_can_be_kept_out_are_refused(folder, tmp_path):
    (tmp_path / "none.csv").write_text("file,label\n000.png,\n")
    with pytest.raises(SystemExit, match="got 1 rows"):
        recipe.read_labels(folder, tmp_path / "none.csv", limit=9)


VIT = {**MODEL_CONFIGS["vit"], "text_cfg": {**MODEL_CONFIGS["vit"]["text_cfg"], "context_length": 16}}


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory):
    """A small ViT with random weights, in open_clip's local-directory layout."""
    return write_directory(tmp_path_factory.mktemp("vit"), VIT, make_model(VIT).state_dict())


@pytest.fixture
def backbone_arguments(request, monkeypatch, vit_folder):
    """As a user gives them: the toy, a folder of open_clip's layout, and a model's name with a file of weights."""
    register(monkeypatch, "ViT-Tiny", VIT)
    weights = vit_folder / "open_clip_model.safetensors"
    return {
        "toy": ["--backbone", "toy"],
        "folder": ["--backbone", str(vit_folder)],
        "name": ["--backbone", "ViT-Tiny", "--pretrained", str(weights)],
    }[request.param]


@pytest.mark.slow
@pytest.mark.parametrize("backbone_arguments", ["toy", "folder", "name"], indirect=True)
def test_the_table_and_the_file_tell_the_same(folder, few_entries, tmp_path, capsys, backbone_arguments):
    where = [*backbone_arguments, "--images", str(folder), "--labels", str(folder / "labels.csv")]
    small = ["--variants", "recipe,bottom-up", "--crops", "20", "--px", "32", "--shown", "2"]
    recipe.main([*where, *small, "--json", str(tmp_path / "x.json")])
    head, _, *lines = capsys.readouterr().out.splitlines()
    told = json.loads((tmp_path / "x.json").read_text())
    assert (told["crops"], told["px"], told["names"]) == (20, 32, 2)
    assert [row["variant"] for row in told["rows"]] == ["recipe", "bottom-up"]
    assert "zero-shot, tokens" in head
    for line, row in zip(lines, told["rows"], strict=True):
        assert row["kept"] == pytest.approx(row["zero_shot_tokens"] / row["zero_shot_backbone"])
        assert row["psnr"] == sorted(row["psnr"])
        assert 0 <= row["as_dense"] <= 1
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[3] == f"{100 * row['zero_shot_tokens']:.1f} %"
        assert cells[5] == " ".join(f"{value:.2f}" for value in row["psnr"])


def test_figures_are_of_the_tokens_and_of_the_backbone(folder, few_entries):
    base = PyramidTokenizer.from_backbone("toy")
    labelled = recipe.read_labels(folder, folder / "labels.csv", limit=6)
    images = recipe.read_images(labelled, num_crops=20, px=32, num_shown=3)
    assert [len(batch) for batch in images.crops] == [16, 4]
    assert (images.test.shape, images.shown.shape) == ((len(labelled.test), 3, 32, 32), (3, 3, 32, 32))
    quantizer = recipe.VARIANTS["recipe"](base.config.quantizer, base.backbone.strides)
    tok = PyramidTokenizer.from_config(dataclasses.replace(base.config, quantizer=quantizer), backbone=base.backbone)
    tok.fit(images.crops)
    found = recipe.measure(tok, images)
    words = tok.text.encode(images.names)
    own = (tok.features(images.test, with_dense=True).embedding @ words.T).argmax(1)
    read = (tok.embedding(tok.encode(images.test)) @ words.T).argmax(1)
    assert found["zero_shot_backbone"] == pytest.approx(float((own == images.targets).double().mean()))
    assert found["zero_shot_tokens"] == pytest.approx(float((read == images.targets).double().mean()))


@pytest.mark.parametrize("name", recipe.VARIANTS)
def test_every_variant_but_the_first_changes_the_recipe(name):
    base = PyramidTokenizer.from_backbone("toy")
    config = base.config.quantizer
    assert (recipe.VARIANTS[name](config, base.backbone.strides) == config) == (name == "recipe")


def test_without_the_stem_levels_read_blocks_from_deep_to_shallow():
    for strides, expected in (((32, 16, 8, 4, 4), [(0, 1), (1, 2), (2, 3)]), ((16,) * 5, [(0, 1), (1, 2), (3,)])):
        config = recipe.without_stem(QuantizerConfig(levels=preset_levels(strides)), strides)
        assert [level.maps for level in config.levels] == expected
    assert {level.maps for level in recipe.last_layer(config, strides).levels} == {(0,)}


def test_an_unknown_variant_is_refused(capsys):
    with pytest.raises(SystemExit):
        recipe.parse(["--backbone", "toy", "--images", ".", "--labels", "x", "--variants", "recipe,other"])
    assert "got 'other'" in capsys.readouterr().err


def test_the_share_kept_has_an_interval_of_redrawn_images():
    right, wrong = torch.ones(50, dtype=torch.float64), torch.zeros(50, dtype=torch.float64)
    assert recipe.kept_interval(right, right) == [1, 1]
    assert recipe.kept_interval(wrong, right) is None
    low, high = recipe.kept_interval(right, torch.cat([right[:40], wrong[:10]]))
    assert 0.6 < low < 0.8 < high < 0.95


def test_masks_are_scored_by_tokens_and_by_dense_features(labelled, toy_tokenizer):
    made = labelled(("sky", "grass"), 3, size=(64, 64))
    folder = Path(made[0].image).parents[1]
    (folder / "splits").mkdir(exist_ok=True)
    (folder / "splits" / "test.txt").write_text("00\n01\n02\n")
    found = recipe.measure_masks(toy_tokenizer, folder, limit=2)
    assert (found["set"], found["images"]) == (folder.name, 2)
    assert 0 <= found["lookup"] <= 1
    assert found["kept"] == found["lookup"] / found["dense"]
