"""`inspect`: three sheets for every image or token file."""

from __future__ import annotations

import pytest
from PIL import Image


def test_images_and_token_files_give_three_sheets_each(run, model, tok, photos, here):
    done = run("inspect", photos / "a.png", "--model", model, "--text-cache", "none", "--out", "seen")
    assert done.exit_code == 0, done.stderr
    names = {path.relative_to(here / "seen").as_posix() for path in (here / "seen").rglob("*.png")}
    kinds = ("maps", "prefixes", "tokens")
    assert names == {f"{name}.{kind}.png" for name in ("a",) for kind in kinds}
    tok.encode(photos / "a.png").save(here / "a.tokens")
    done = run("inspect", here / "a.tokens", "--model", model, "--text-cache", "none", "--out", "seen", "--at", "5,3")
    assert done.exit_code == 1 and "a.maps.png" in done.stderr and "--force" in done.stderr
    done = run("inspect", here / "a.tokens", "--model", model, "--text-cache", "none", "--out", "stored", "--at", "5,3")
    assert done.exit_code == 0, done.stderr
    with Image.open(here / "stored" / "a.prefixes.png") as stored, Image.open(here / "seen" / "a.prefixes.png") as seen:
        assert stored.width < seen.width  # no original


def test_several_files_have_a_summary_and_lines_only_if_asked_for(run, model, photos, here):
    options = ["--model", model, "--text-cache", "none", "--levels", 1]
    done = run("inspect", "photos", *options)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines() == ["3 of 3 files -> inspected"]
    done = run("inspect", "photos", *options, "--verbose", "--force")
    assert [line.split(" -> ")[0] for line in done.stdout.splitlines()] == [
        *("photos/a.png", "photos/b.png", "photos/trip/a.png", "3 of 3 files")
    ]


@pytest.mark.parametrize("at", ["5", "a,b", "-1,3"])
def test_a_place_is_two_numbers(run, model, photos, at):
    done = run("inspect", photos / "a.png", "--model", model, f"--at={at}")
    assert done.exit_code == 1 and repr(at) in done.stderr
