"""`reconstruct`: images beside what their tokens decode to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyramid_tokenizer.cli.prefixes import decode_prefixes
from pyramid_tokenizer.evaluation import psnr, ssim
from pyramid_tokenizer.images.pixels import to_pil
from pyramid_tokenizer.images.read import read_image
from pyramid_tokenizer.visualize import overlay_tokens


def holds(sheet: Image.Image, picture: Image.Image) -> bool:
    """Whether the image lies somewhere on the sheet, pixel by pixel."""
    pixels, wanted = np.asarray(sheet), np.asarray(picture)
    height, width, _ = wanted.shape
    starts = np.argwhere((pixels[: len(pixels) - height + 1, : pixels.shape[1] - width + 1] == wanted[0, 0]).all(2))
    return any(np.array_equal(pixels[y : y + height, x : x + width], wanted) for y, x in starts)


def test_the_sheet_holds_the_original_and_every_prefix(run, model, tok, photos, here):
    done = run("reconstruct", photos / "a.png", "--model", model, "--out", "x.png")
    assert done.exit_code == 0, done.stderr
    tokens = tok.encode(photos / "a.png")
    with Image.open(here / "x.png") as sheet:
        assert holds(sheet, Image.open(photos / "a.png"))
        for n in (1, 2):
            assert holds(sheet, to_pil(tok.decode(tokens[:n]))[0])


def test_the_table_has_a_row_for_every_prefix_of_every_image(run, model, tok, photos, here):
    done = run("reconstruct", photos, "--model", model, "--verbose")
    assert done.exit_code == 0, done.stderr
    expected, figures_of = [], {1: [], 2: []}
    for name in ("a.png", "b.png", "trip/a.png"):
        original = read_image(photos / name)[None]
        tokens = tok.encode(original)
        for n in (1, 2):
            decoded, part = tok.decode(tokens[:n]), tokens[:n]
            figures = psnr(original, decoded).item(), ssim(original, decoded).item()
            figures_of[n].append((part.num_tokens, part.bits_per_pixel, *figures))
            first = [name] if n == 1 else []
            expected.append([*first, str(n), str(part.num_tokens), f"{part.bits_per_pixel:.3f}"])
            expected[-1] += [f"{figures[0]:.2f}", f"{figures[1]:.3f}"]
    rows = [line.split() for line in done.stdout.splitlines()]
    start = rows.index(expected[0])
    assert rows[start : start + 6] == expected
    means = [np.mean(figures_of[n], axis=0) for n in (1, 2)]
    assert rows[-3:-1] == [
        ["3", str(n + 1), f"{mean[0]:.0f}", f"{mean[1]:.3f}", f"{mean[2]:.2f}", f"{mean[3]:.3f}"]
        for n, mean in enumerate(means)
    ]
    assert [f"{photos / name}" for name in ("a.png", "b.png", "trip/a.png")] == [
        str(here / row[0]) for row in rows[:3] if row[1] == "->"
    ]


def test_several_images_have_no_line_each_but_means_and_a_summary(run, model, photos, here):
    done = run("reconstruct", "photos", "--model", model)
    assert done.exit_code == 0, done.stderr
    assert ".png" not in done.stdout
    assert done.stdout.splitlines()[-1] == "3 of 3 images -> reconstructed"
    assert run("reconstruct", "photos", "--model", model, "--skip-existing").stdout.splitlines() == [
        "3 of 3 files have their results already, see --skip-existing",
        "0 of 3 images -> reconstructed",
    ]


def test_json_has_the_figures_of_each_image(run, model, tok, photos):
    done = run("reconstruct", photos, "--model", model, "--json")
    files = {Path(one["image"]).relative_to(photos).as_posix(): one for one in json.loads(done.stdout)["files"]}
    original = read_image(photos / "b.png")[None]
    tokens = tok.encode(original)
    assert set(files) == {"a.png", "b.png", "trip/a.png"}
    assert files["b.png"]["tokens"] == tokens.num_tokens
    assert files["b.png"]["psnr"] == pytest.approx(psnr(original, tok.decode(tokens)).item())


def test_levels_and_size_limit_what_is_shown(run, model, photos):
    done = run("reconstruct", photos / "b.png", "--model", model, "--levels", 1, "--size", 32)
    assert done.exit_code == 0, done.stderr
    assert [line.split()[:3] for line in done.stdout.splitlines()[-1:]] == [["b.png", "1", "1"]]


def test_the_sheet_of_a_limit_also_shows_where_the_tokens_are(run, model, tok, photos, here):
    done = run("reconstruct", photos / "b.png", "--model", model, "--max-tokens", 40, "--out", "x.png")
    assert done.exit_code == 0, done.stderr
    tokens = tok.encode(photos / "b.png", max_tokens=40)
    with Image.open(here / "x.png") as sheet:
        assert holds(sheet, to_pil(tok.decode(tokens))[0])
        where = overlay_tokens(photos / "b.png", tokens, strides=tok.quantizer.strides, legend=False)
        assert holds(sheet, where)
    last = done.stdout.splitlines()[-1].split()
    assert last[:3] == ["2", "36", f"{tokens.bits_per_pixel:.3f}"]


def test_an_image_smaller_than_the_window_has_no_ssim(tok):
    image = read_image(Image.new("RGB", (16, 10), "red"))
    prefixes = decode_prefixes(tok, tok.encode(image), image)
    assert [prefix.ssim for prefix in prefixes] == [None, None]
    assert [prefix.cells[3] for prefix in prefixes] == ["-", "-"]
    assert [prefix.title for prefix in prefixes] == ["1 level", "2 levels"]


@pytest.mark.parametrize("name", ["a.png", "z.png"])
def test_an_image_that_cannot_be_read_is_named_and_the_others_are_shown(run, model, photos, here, name):
    (photos / name).write_bytes(b"")
    done = run("reconstruct", photos / "b.png", photos / name, "--model", model)
    assert done.exit_code == 1
    assert name in done.stderr.splitlines()[0]
    assert [path.name for path in (here / "reconstructed").iterdir()] == ["b.png"]
    assert done.stdout.splitlines()[-1] == "1 of 2 images -> reconstructed"


def test_more_levels_than_there_are_is_an_error(run, model, photos, here):
    done = run("reconstruct", photos, "--model", model, "--levels", 3)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "expected --levels of at most 2, got 3" in done.stderr
    assert not (here / "reconstructed").exists()
