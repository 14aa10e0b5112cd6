"""`atlas`: a page that shows every code of a model."""

from __future__ import annotations

import json


def test_a_model_and_a_folder_of_images_give_a_page(run, model, photos, here):
    (photos / "bad.png").write_bytes(b"no image")
    (here / "words.txt").write_text("dog\nsky\n")
    options = ["--images", photos, "--out", "atlas", "--size", 32, "--words-file", "words.txt", "--text-cache", "none"]
    done = run("atlas", model, *options)
    assert done.exit_code == 0, done.stderr
    assert "level 1: " in done.stdout and "1 of 4 images could not be read" in done.stdout
    data = json.loads((here / "atlas" / "data.js").read_text().removeprefix("const ATLAS = ").rstrip(";\n"))
    assert data["words"] == ["dog", "sky"] and data["images"] == 3 and data["skipped"] == 1
    again = run("atlas", model, *options)
    assert again.exit_code == 1 and "index.html" in again.stderr and "--force" in again.stderr


def test_every_stage_has_a_bar_with_all_of_its_steps(run, model, photos, here, bars):
    (here / "words.txt").write_text("dog\nsky\n")
    done = run(
        "atlas",
        model,
        "--images",
        photos,
        "--size",
        32,
        "--words-file",
        "words.txt",
        "--out",
        "x",
        "--text-cache",
        "none",
    )
    assert done.exit_code == 0, done.stderr
    assert bars == {"words": (2, 2), "encode": (3, 3), "patches": (3, 3), "sheets": (2, 2)}
