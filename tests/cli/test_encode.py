"""`encode`: images -> token files."""

from __future__ import annotations

import os

import pytest

from pyramid_tokenizer.backbones import ToyBackbone
from pyramid_tokenizer.encoding import by_rows, by_windows, encoder
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from tests.cli.conftest import image


def files_below(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder_becomes_token_files_in_the_same_places_with_the_ids_of_the_library(run, model, tok, photos, here):
    done = run("encode", photos, "--model", model)
    assert done.exit_code == 0, done.stderr
    assert files_below(here / "tokens") == ["a.tokens", "b.tokens", "trip/a.tokens"]
    for name in ("a", "b", "trip/a"):
        assert TokenPyramid.load(here / "tokens" / f"{name}.tokens") == tok.encode(photos / f"{name}.png")


def test_each_image_gets_a_line_if_asked_and_all_together_another(run, model, photos):
    done = run("encode", "photos", "--model", model, "--verbose")
    sizes = {name: os.path.getsize(f"tokens/{name}.tokens") for name in ("a", "b", "trip/a")}
    figures = {"a": "40x32 px, 2+32 tokens, {} bytes, 0.103", "b": "48x48 px, 4+64 tokens, {} bytes, 0.115"}
    figures["trip/a"] = figures["b"]
    expected = [
        f"photos/{name}.png: {figures[name].format(size)} bits per pixel -> tokens/{name}.tokens"
        for name, size in sizes.items()
    ]
    summary = f"3 of 3 images, 170 tokens, {sum(sizes.values())} bytes -> tokens"
    assert done.stdout.splitlines() == [*expected, summary]
    assert run("encode", "photos", "--model", model, "--force").stdout.splitlines() == [summary]


def test_one_image_goes_to_the_file_that_is_named(run, model, tok, photos, here):
    done = run("encode", photos / "a.png", "--model", model, "--out", "deep/x.tokens", "--size", 16)
    assert done.exit_code == 0, done.stderr
    assert files_below(here / "deep") == ["x.tokens"]
    assert TokenPyramid.load("deep/x.tokens") == tok.encode(photos / "a.png", size=16)


@pytest.mark.parametrize("batch_size", [2])
def test_the_files_do_not_depend_on_the_batch_size(run, model, photos, here, batch_size):
    run("encode", photos, "--model", model, "--out", "one")
    assert run("encode", photos, "--model", model, "--out", "many", "--batch-size", batch_size).exit_code == 0
    assert files_below(here / "many") == files_below(here / "one")
    for name in files_below(here / "one"):
        assert (here / "many" / name).read_bytes() == (here / "one" / name).read_bytes()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_images_that_cannot_be_read_are_passed_over_named_and_counted(run, model, photos, here, batch_size):
    (photos / "aa.jpg").write_bytes(b"not an image")
    (photos / "c.png").write_bytes((photos / "b.png").read_bytes()[:200])
    done = run("encode", photos, "--model", model, "--batch-size", batch_size)
    assert done.exit_code == 1
    assert files_below(here / "tokens") == ["a.tokens", "b.tokens", "trip/a.tokens"]
    assert done.stdout.splitlines()[-1].startswith("3 of 5 images, ")
    told = done.stderr.splitlines()
    assert [line.startswith("error: ") for line in told] == [True] * 3
    assert "aa.jpg" in told[0]
    assert "c.png" in told[1]
    assert "2 of 5" in told[2]


def test_existing_token_files_stay_as_they_are_without_force(run, model, photos, here):
    (here / "tokens").mkdir()
    (here / "tokens" / "b.tokens").write_bytes(b"precious")
    refused = run("encode", photos, "--model", model)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith("error: ")
    assert "'tokens/b.tokens'" in refused.stderr
    assert files_below(here / "tokens") == ["b.tokens"]
    assert (here / "tokens" / "b.tokens").read_bytes() == b"precious"

    assert run("encode", photos, "--model", model, "--force").exit_code == 0
    assert files_below(here / "tokens") == ["a.tokens", "b.tokens", "trip/a.tokens"]
    assert TokenPyramid.load("tokens/b.tokens").image_size == (48, 48)


def test_a_missing_file_is_told_before_any_work(run, photos, here):
    done = run("encode", photos / "a.png", "photo.jpg", "--model", "no such model either")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "'photo.jpg'" in done.stderr
    assert not (here / "tokens").exists()


def test_names_that_look_like_markup_are_shown_as_they_are(run, model, photos):
    (photos / "a.png").rename(photos / "[red]:smile:.png")
    done = run("encode", "photos/[red]:smile:.png", "--model", model)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("photos/[red]:smile:.png: 40x32 px")
    assert os.path.exists("tokens/[red]:smile:.tokens")


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_limit_gives_the_tokens_of_the_library_and_a_line_of_those_that_are_there(
    run, model, tok, photos, batch_size
):
    done = run("encode", "photos", "--model", model, "--max-tokens", 40, "--batch-size", batch_size, "-v")
    assert done.exit_code == 0, done.stderr
    for name in ("a", "b", "trip/a"):
        assert TokenPyramid.load(f"tokens/{name}.tokens") == tok.encode(f"photos/{name}.png", max_tokens=40)
    lines = done.stdout.splitlines()
    assert "2+32 tokens" in lines[0]
    assert "4+32 of 4+64 tokens" in lines[1]
    assert f"{tok.encode('photos/b.png', max_tokens=40).bits_per_pixel:.3f} bits per pixel" in lines[1]
    assert lines[-1].startswith("3 of 3 images, 106 tokens")


def test_detail_levels_are_encoded_where_they_are_asked_for(run, detailed_model, detailed_tokenizer, photos):
    for options, limits in ([], {}), (["--levels", 3], {"levels": 3}), (["--quality", 0.5], {"quality": 0.5}):
        done = run("encode", photos / "b.png", "--model", detailed_model, *options, "--out", "x.tokens", "--force")
        assert done.exit_code == 0, done.stderr
        assert TokenPyramid.load("x.tokens") == detailed_tokenizer.encode(photos / "b.png", **limits)


def test_a_psnr_out_of_reach_is_told_with_the_name_of_the_photo(run, model, photos):
    done = run("encode", "photos", "--model", model, "--target-psnr", 55, "--batch-size", 3)
    assert done.exit_code == 0
    told = done.stderr.splitlines()
    assert [line.split(":")[:2] for line in told] == [
        ["warning", f" photos/{name}.png"] for name in ("a", "b", "trip/a")
    ]
    assert all("not 55 dB" in line for line in told)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--max-tokens", 9, "--quality", 0.5], "expected one of --max-tokens, --target-psnr and --quality"),
        (["--max-tokens", 0], "expected --max-tokens as a whole number of at least 1, got 0"),
        (["--quality", 1.5], "expected --quality from 0 to 1, got 1.5"),
        (["--target-psnr", 70], "expected --target-psnr from 10 to 60, got 70"),
        (["--levels", 0], "expected --levels of at least 1, got 0"),
        (["--levels", 3], "expected --levels of at most 2, got 3"),
        (["--window", 130], "expected --window of 128 or more in multiples of 32"),
    ],
)
@pytest.mark.parametrize("command", ["encode", "reconstruct"])
def test_limits_that_none_can_mean_are_told_by_their_options(run, model, photos, here, command, options, told):
    done = run(command, photos, "--model", model, *options)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert told in done.stderr
    assert [path.name for path in here.iterdir()] == ["photos"]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_limit_below_level_0_is_told_for_the_photos_that_it_concerns(run, model, photos, here, batch_size):
    done = run("encode", photos, "--model", model, "--max-tokens", 3, "--batch-size", batch_size)
    assert done.exit_code == 1
    assert files_below(here / "tokens") == ["a.tokens"]
    assert "b.png: expected --max-tokens of 4 or more" in done.stderr
    assert "--size:" not in done.stderr and "--size\n" in done.stderr


@pytest.mark.parametrize("options", [(), ("--batch-size", 2), ("--target-psnr", 12)])
def test_windows_are_those_of_the_library(run, model, tok, here, monkeypatch, options):
    image(64, 200, seed=3).save(here / "wide.png")
    seen = []

    def encode_by_windows(*args, window_px, **rest):
        seen.append(window_px)
        return by_windows.encode_by_windows(*args, window_px=window_px, **rest)

    monkeypatch.setattr(encoder, "encode_by_windows", encode_by_windows)
    for command in ("encode", "reconstruct"):
        done = run(command, "wide.png", "--model", model, "--window", 128, *(options if command == "encode" else ()))
        assert (done.exit_code, done.stderr) == (0, "")
    limits = {"target_psnr": 12.0} if "--target-psnr" in options else {}
    assert TokenPyramid.load(here / "tokens" / "wide.tokens") == tok.encode(here / "wide.png", window_px=128, **limits)
    assert seen == [128] * 3


@pytest.mark.parametrize("options", [(), ("--target-psnr", 12)])
def test_a_large_image_that_is_read_whole_is_told_in_one_line(run, model, here, monkeypatch, options):
    monkeypatch.setattr(by_rows, "LARGE_PIXELS", 32 * 32)
    monkeypatch.setattr(ToyBackbone, "runs_by_rows", False)
    for name in ("a", "b"):
        image(64, 64, seed=3).save(here / f"{name}.png")
    done = run("encode", "a.png", "b.png", "--model", model, *options)
    (told,) = done.stderr.splitlines()
    assert told.startswith("warning: ") and "64 x 64 px" in told and "--window" in told
