"""`search`: words or an example -> the best images of a dataset, as a table and as a sheet."""

from __future__ import annotations

import pytest
from PIL import Image

pytest.importorskip("pyarrow")


@pytest.fixture
def dataset(run, model, photos, here, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    assert run("tokenize", "--images", "photos", "--model", model, "--workers", 0, "--out", "set").exit_code == 0
    return here / "set"


def test_the_best_images_are_listed_and_drawn_decoded_or_as_they_were(run, model, dataset, photos, here):
    common = ("search", "set", "a red flower", "--top", 2, "--model", model, "--text-cache", "none")
    done = run(*common, "--sheet", "decoded.png")
    assert done.exit_code == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if "0." in line]) == 2
    assert run(*common, "--sheet", "originals.png", "--images", "photos").exit_code == 0
    decoded, originals = (Image.open(here / name) for name in ("decoded.png", "originals.png"))
    assert decoded.size == originals.size
    assert decoded.tobytes() != originals.tobytes()


def test_the_first_search_and_drawing_have_a_bar_each(run, model, dataset, bars):
    common = ("search", "set", "a red flower", "--top", 2, "--model", model, "--text-cache", "none", "--sheet", "x.png")
    assert run(*common).exit_code == 0
    assert bars == {"read tokens": (3, 3), "draw": (2, 2)}
    bars.clear()
    assert run(*common).exit_code == 0
    assert bars == {"draw": (2, 2)}


def test_words_or_an_example_and_not_both(run, model, dataset, photos):
    example = min(path for path in photos.iterdir() if path.is_file())
    done = run("search", "set", "--image", example, "--top", 1, "--model", model)
    assert done.exit_code == 0, done.stderr
    assert example.name in done.stdout
    for bad in ((), ("sky", "--image", example), ("sky", "--images", "photos")):
        assert run("search", "set", *bad, "--model", model).exit_code == 1
