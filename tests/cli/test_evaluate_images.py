"""`evaluate reconstruction` and `evaluate semantics`, and the report of `evaluate segmentation`."""

from __future__ import annotations

import json

import pytest


@pytest.mark.slow  # matplotlib takes seconds to import
def test_a_reconstruction_is_reported_for_the_images_that_can_be_read(run, model, photos, here):
    (photos / "bad.png").write_bytes(b"no image")
    options = ["--images", photos, "--model", model, "--size", 32, "--no-codecs", "--out", "report"]
    done = run("evaluate", "reconstruction", *options)
    assert done.exit_code == 0, done.stderr
    data = json.loads((here / "report" / "report.json").read_text())
    assert data["num_images"] == 3 and data["data"] == "photos"
    assert any("bad.png" in line for line in data["left_out"]) and "bad.png" in done.stdout
    again = run("evaluate", "reconstruction", *options)
    assert again.exit_code == 1 and "report.json" in again.stderr and "--force" in again.stderr


@pytest.mark.slow
def test_semantics_are_reported_for_labelled_images_and_each_stage_has_a_bar(run, model, photos, here, bars):
    rows = ["a.png,dog,a dog", "b.png,cat,a cat", "trip/a.png,dog,a dog outside", "trip/a.png,dog,another dog"]
    (here / "labels.csv").write_text("\n".join(["file,label,caption", *rows]))
    options = ["--images", photos, "--labels", "labels.csv", "--model", model, "--size", 32, "--text-cache", "none"]
    done = run("evaluate", "semantics", *options, "--out", "report")
    assert done.exit_code == 0, done.stderr
    data = json.loads((here / "report" / "report.json").read_text())
    assert data["num_images"] == 3 and data["data"] == "labels.csv"
    assert "zero-shot, top 1 of 2 names" in done.stdout
    assert bars == {"texts": (4, 4), "images": (3, 3)}  # the captions took the bar of the names


@pytest.mark.slow
def test_segmentation_has_a_report_of_the_same_form(run, head_model, photos, here):
    import numpy as np
    from PIL import Image

    for folder in ("images", "labels"):
        (here / "set" / folder).mkdir(parents=True)
    for name in ("a", "b"):
        image = Image.open(photos / f"{name}.png")
        image.save(here / "set" / "images" / f"{name}.png")
        labels = np.arange(image.height * image.width).reshape(image.height, image.width) // 700
        Image.fromarray(labels.astype(np.uint8)).save(here / "set" / "labels" / f"{name}.png")
    (here / "set" / "classes.txt").write_text("sky\ntree|bush\ncar\nroad\n")
    options = ["--data", "set", "--protocol", "folder", "--model", head_model, "--out", "report", "--json", "x.json"]
    done = run("evaluate", "segmentation", *options)
    assert done.exit_code == 0, done.stderr
    data, figures = (json.loads((here / name).read_text()) for name in ("report/report.json", "x.json"))
    assert data["kind"] == "segmentation" and data["classes"] == figures["classes"]
    names = {path.name for path in (here / "report").iterdir()}
    assert names == {"report.json", "report.md", "classes.png", "masks.png"}
