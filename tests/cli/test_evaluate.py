"""`evaluate segmentation`: scores of masks on a labelled set, as a table and as a file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from pyramid_tokenizer.evaluation import evaluate_segmentation, label_images
from pyramid_tokenizer.images.labelled import open_segmentation_set
from pyramid_tokenizer.segmentation.segmenter import Segmenter

SMALL = ("--data", "set", "--protocol", "folder")


@pytest.fixture
def labelled(here, photos):
    """set/: the three photos and another one as images, labels of three classes."""
    for folder in ("images", "labels", "splits"):
        (here / "set" / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index, name in enumerate(("a.png", "b.png", "trip/a.png", "b.png")):
        image = Image.open(photos / name)
        image.save(here / "set" / "images" / f"{index}.png")
        labels = np.repeat(np.repeat(rng.choice([0, 1, 2, 255], (6, 6)), 8, 0), 8, 1)[: image.height, : image.width]
        Image.fromarray(labels.astype(np.uint8)).save(here / "set" / "labels" / f"{index}.png")
    (here / "set" / "classes.txt").write_text("sky\ntree|bush\ncar\n")
    (here / "set" / "splits" / "few.txt").write_text("0\n2\n")
    return here / "set"


def test_the_table_and_the_file_hold_what_the_library_measures(run, head_model, labelled):
    done = run("evaluate", "segmentation", *SMALL, "--model", head_model, "--json", "figures/seg.json", "--per-class")
    assert done.exit_code == 0, done.stderr
    samples = open_segmentation_set(labelled)
    predict = label_images(Segmenter.from_pretrained(head_model), samples.protocol)
    names = ("sky", "tree", "car")
    wanted = evaluate_segmentation(predict, samples, num_classes=3, names=names).to_dict()
    saved = json.loads((labelled.parent / "figures" / "seg.json").read_text())
    assert {name: saved[name] for name in wanted} == wanted
    assert (saved["mode"], saved["protocol"], saved["split"], saved["limit"]) == ("decoder", "folder", None, None)
    low, high = wanted["intervals"]["miou_present"]
    row = f"{100 * wanted['miou_present']:.2f} {100 * low:.2f} to {100 * high:.2f}"
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert f"mIoU of the classes in the labels {row}" in lines
    assert "4 of 4 images, 3 of 3 classes in their labels" in lines
    assert any(line.startswith(f"tree {100 * wanted['classes'][1]['iou']:.2f} ") for line in lines)
    assert [path.name for path in (labelled.parent / "figures").iterdir()] == ["seg.json"]


def test_names_and_images_have_a_bar_each(run, model, labelled, bars):
    done = run("evaluate", "segmentation", *SMALL, "--model", model, "--mode", "lookup", "--text-cache", "none")
    assert done.exit_code == 0, done.stderr
    assert bars == {"words": (4, 4), "segment": (4, 4)}  # tree and bush are two words


def test_views_splits_and_limits_are_told_and_kept(run, model, labelled):
    options = ("--split", "few", "--limit", 1, "--size", 64, "--window", 48, "--mode", "dense", "--json", "x.json")
    done = run("evaluate", "segmentation", *SMALL, "--model", model, *options)
    assert done.exit_code == 0, done.stderr
    assert "1 of 2 images" in done.stdout
    assert "mode dense, short side 64 px, windows of 48 px every 24" in done.stdout
    saved = json.loads((labelled.parent / "x.json").read_text())
    view = {"split": "few", "limit": 1, "short_side_px": 64, "window_px": 48, "window_stride_px": 24, "mode": "dense"}
    assert {name: saved[name] for name in view} == view
    assert saved["num_images"] == 1


def test_a_background_class_is_found_by_words_or_a_threshold(run, model, labelled):
    (labelled / "classes.txt").write_text("background\ntree\ncar\n")
    for rule, told in (
        (("--background", "wall,floor"), "background: wall, floor"),
        (("--threshold", "0.5"), "below 0.5"),
    ):
        done = run("evaluate", "segmentation", *SMALL, "--model", model, *rule)
        assert done.exit_code == 0, done.stderr
        assert told in done.stdout


def test_masks_of_0_and_255_are_warned_of_on_the_terminal_and_in_the_report(run, model, labelled):
    for path in (labelled / "labels").iterdir():
        values = np.asarray(Image.open(path))
        Image.fromarray(np.where(values == 1, 255, 0).astype(np.uint8)).save(path)
    (labelled / "classes.txt").write_text("sky\nperson\n")
    done = run("evaluate", "segmentation", *SMALL, "--model", model, "--json", "x.json")
    assert done.exit_code == 0, done.stderr
    told = [line.removeprefix("warning: ") for line in done.stderr.splitlines()]
    assert told == json.loads((labelled.parent / "x.json").read_text())["warnings"]
    assert len(told) == 2
    assert "'person'" in told[0]
    assert "only 'sky'" in told[1]


def test_token_semantics_has_a_row_a_level(run, model, tok, labelled):
    done = run("evaluate", "segmentation", *SMALL, "--model", model, "--token-semantics", "--json", "x.json")
    assert done.exit_code == 0, done.stderr
    levels = json.loads((labelled.parent / "x.json").read_text())["token_semantics"]
    assert [level["codebook_size"] for level in levels] == list(tok.quantizer.codebook_sizes)
    assert "most frequent class %" in done.stdout
    assert all(0 <= level["majority_share"] <= level["purity"] <= 1 for level in levels)


def test_a_file_that_is_there_is_replaced_only_when_asked(run, model, labelled):
    file = labelled.parent / "x.json"
    file.write_text("mine")
    call = ("evaluate", "segmentation", *SMALL, "--model", model, "--limit", 1, "--json", "x.json")
    done = run(*call)
    assert (done.exit_code, done.stdout, file.read_text()) == (1, "", "mine")
    assert "'x.json'" in done.stderr
    assert run(*call, "--force").exit_code == 0
    assert json.loads(file.read_text())["num_images"] == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--protocol", "voc20"), "'voc-20' or 'voc-20b' or 'voc-21'"),
        (("--data", "nowhere"), "'nowhere'"),
        (("--split", "train"), "split of few"),
        (("--classes", "two.txt"), "2 in 'set/labels/0.png'"),
        (("--classes", "no.txt"), "'no.txt'"),
        (("--classes", "rest.txt"), "--threshold"),
        (("--threshold", "0.5"), "'folder'"),
        (("--threshold", "0.5", "--background", "wall"), "--background or --threshold"),
        (("--threshold", "5"), "[-1, 1], got 5.0"),
        (("--classes", "rest.txt", "--background", "wall,Car"), "'Car'"),
        (("--window-stride", "8"), "8 px"),
        (("--window", "16", "--window-stride", "24"), "24"),
        (("--mode", "decoder"), "segmentation head"),
        (("--json", "set"), "'set'"),
        (("--limit", "1", "--token-semantics"), "got 1"),
    ],
)
def test_what_does_not_fit_is_one_line(run, model, labelled, options, told):
    (labelled.parent / "two.txt").write_text("sky\ntree\n")
    (labelled.parent / "rest.txt").write_text("background\ntree\ncar\n")
    done = run("evaluate", "segmentation", *SMALL, "--model", model, *options)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith("error: expected ")
    assert told in done.stderr
