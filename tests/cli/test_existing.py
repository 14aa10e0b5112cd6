"""`--skip-existing`: a run that was stopped goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pyramid_tokenizer.tokens.pyramid import TokenPyramid


def stamps(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def changed(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """Names of files that were written since; writing gives a file another number."""
    return sorted(name for name in after if before.get(name) != after[name])


def test_encode_makes_what_is_missing_and_damaged_and_keeps_the_rest(run, model, photos, tokens):
    before = stamps(tokens)  # a and trip/a; b is missing
    cut(tokens / "trip/a.tokens")
    done = run("encode", photos, "--model", model, "--skip-existing")
    assert done.exit_code == 0, done.stderr
    assert changed(before, stamps(tokens)) == ["b.tokens", "trip/a.tokens"]
    assert done.stdout.splitlines()[-2].startswith("1 of 3 files ")
    assert done.stdout.splitlines()[-1].startswith("2 of 3 images, ")
    assert TokenPyramid.load(tokens / "trip/a.tokens").image_size == (48, 48)


@pytest.mark.parametrize("options", [["--size", 16], ["other"]])
def test_whole_tokens_that_do_not_fit_are_named_and_replaced_by_force_alone(
    run, model, other_model, photos, tokens, options
):
    chosen = ["--model", other_model] if options == ["other"] else ["--model", model, *options]
    before = stamps(tokens)
    refused = run("encode", photos, *chosen, "--skip-existing")
    assert refused.exit_code == 1
    assert "2 of 3 files" in refused.stderr
    assert changed(before, stamps(tokens)) == ["b.tokens"]
    forced = run("encode", photos, *chosen, "--skip-existing", "--force")
    assert forced.exit_code == 0, forced.stderr
    assert changed(before, stamps(tokens)) == ["a.tokens", "b.tokens", "trip/a.tokens"]


def test_tokens_of_a_part_of_the_levels_are_no_result(run, model, photos, tokens):
    TokenPyramid.load(tokens / "a.tokens")[:1].save(tokens / "a.tokens")
    refused = run("encode", photos / "a.png", "--model", model, "--skip-existing")
    assert refused.exit_code == 1
    assert "2 levels" in refused.stderr
    assert "got 1 level " in refused.stderr


def test_tokens_beyond_a_limit_or_sparse_without_one_are_no_result(run, model, tok, photos, tokens):
    name = photos / "b.png"
    for stored, options, told in (
        (tok.encode(name, max_tokens=40), [], "4+32 of 4+64 tokens"),
        (tok.encode(name), ["--max-tokens", 40], "got 68"),
    ):
        stored.save(tokens / "b.tokens")
        refused = run("encode", name, "--model", model, "--skip-existing", *options)
        assert refused.exit_code == 1
        assert told in refused.stderr
    tok.encode(name, max_tokens=40).save(tokens / "b.tokens")
    kept = run("encode", name, "--model", model, "--skip-existing", "--max-tokens", 40)
    assert "1 of 1 files" in kept.stdout


def test_a_turned_photo_is_done_in_the_size_of_its_tokens(run, model, photos):
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(photos / "a.png") as photo:
        photo.save("turned.jpg", exif=exif)
    for kept in (0, 1):
        done = run("encode", "turned.jpg", "--model", model, "--size", 30, "--skip-existing")
        assert done.exit_code == 0, done.stderr
        assert ("1 of 1 files" in done.stdout) == (kept == 1)


def test_a_damaged_photo_is_named_although_its_tokens_are_there(run, model, photos, tokens):
    (photos / "a.png").write_bytes(b"damaged")
    done = run("encode", photos, "--model", model, "--skip-existing")
    assert done.exit_code == 1
    assert "a.png" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "decode",
        "segment",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("reconstruct", "segment --tokens")),
    ],
)
def test_images_are_made_where_they_are_missing_or_not_complete(run, model, photos, tokens, here, command):
    source = [tokens] if "--tokens" in command or command == "decode" else [photos / "a.png", photos / "b.png"]
    name = "trip/a" if source == [tokens] else "b"
    words = ["--classes", "cat,dog", "--labels"] if "segment" in command else []
    options = [*command.split(), *source, "--model", model, *words, "--out", "out"]
    assert run(*options).exit_code == 0
    before = stamps(here / "out")
    last = Path("out", f"{name}.labels.png" if words else f"{name}.png")
    cut(last)
    done = run(*options, "--skip-existing")
    assert done.exit_code == 0, done.stderr
    again = [f"{name}.labels.png", f"{name}.png"] if words else [f"{name}.png"]
    assert changed(before, stamps(here / "out")) == again
    assert "1 of 2 files" in done.stdout
    with Image.open(last) as image:
        image.load()


def test_a_label_map_of_another_size_is_no_result(run, model, photos, here):
    options = ["segment", photos / "a.png", "--classes", "cat,dog", "--labels", "--model", model]
    assert run(*options).exit_code == 0
    with Image.open("segmented/a.labels.png") as stored:
        stored.resize((20, 16)).save("segmented/a.labels.png")
    refused = run(*options, "--skip-existing")
    assert refused.exit_code == 1
    assert "40x32" in refused.stderr
    assert "20x16" in refused.stderr
    assert run(*options, "--skip-existing", "--force").exit_code == 0
    with Image.open("segmented/a.labels.png") as stored:
        assert stored.size == (40, 32)
