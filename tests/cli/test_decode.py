"""`decode`: token files -> PNGs."""

from __future__ import annotations

import numpy as np
from PIL import Image

from pyramid_tokenizer.images.pixels import to_pil
from pyramid_tokenizer.tokens.pyramid import TokenPyramid


def assert_same_image(path, image) -> None:
    with Image.open(path) as stored:
        assert (stored.format, stored.mode) == ("PNG", "RGB")
        assert np.array_equal(np.asarray(stored), np.asarray(image))


def test_a_folder_becomes_images_in_the_same_places_with_the_pixels_of_the_library(run, model, tok, tokens, here):
    done = run("decode", tokens, "--model", model)
    assert done.exit_code == 0, done.stderr
    for name in ("a", "trip/a"):
        expected = to_pil(tok.decode(TokenPyramid.load(tokens / f"{name}.tokens")))[0]
        assert_same_image(here / "decoded" / f"{name}.png", expected)


def test_levels_decodes_the_prefix_to_the_named_file(run, model, tok, tokens, here):
    done = run("decode", tokens / "a.tokens", "--model", model, "--levels", 1, "--out", "x.png")
    assert done.exit_code == 0, done.stderr
    assert_same_image(here / "x.png", to_pil(tok.decode(TokenPyramid.load(tokens / "a.tokens")[:1]))[0])
    assert done.stdout == f"{tokens / 'a.tokens'}: 1 level, 40x32 px, 0.003 bits per pixel -> x.png\n"


def test_a_file_of_several_images_becomes_numbered_images(run, model, tok, tokens, here):
    both = TokenPyramid.cat([tok.encode(here / "photos" / name) for name in ("b.png", "trip/a.png")])
    both.save(tokens / "both.tokens")
    assert run("decode", tokens / "both.tokens", "--model", model).exit_code == 0
    for i, expected in enumerate(to_pil(tok.decode(both))):
        assert_same_image(here / "decoded" / f"both-{i}.png", expected)
    again = run("decode", tokens / "both.tokens", "--model", model)
    assert again.exit_code == 1
    assert "'decoded/both-0.png' and 1 more" in again.stderr


def test_tokens_of_another_tokenizer_are_refused_by_file_and_fingerprint(run, other_model, tok, tokens, here):
    done = run("decode", tokens / "a.tokens", "--model", other_model)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {tokens / 'a.tokens'}: ")
    assert tok.fingerprint[:8] in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (here / "decoded").exists()


def test_damaged_files_and_files_with_too_few_levels_are_passed_over_and_named(run, model, tok, tokens, here):
    data = bytearray((tokens / "a.tokens").read_bytes())
    data[70] ^= 1
    (tokens / "damaged.tokens").write_bytes(data)
    tok.encode(here / "photos" / "b.png")[:1].save(tokens / "short.tokens")
    done = run("decode", tokens, "--model", model, "--levels", 2)
    assert done.exit_code == 1
    assert sorted(path.name for path in (here / "decoded").rglob("*.png")) == ["a.png", "a.png"]
    told = done.stderr.splitlines()
    assert len(told) == 3
    assert "damaged.tokens" in told[0]
    assert "short.tokens: " in told[1]
    assert "--levels" in told[1]
    assert "2 of 4" in told[2]


def test_existing_images_are_replaced_by_force_alone(run, model, tokens, here):
    (here / "decoded").mkdir()
    (here / "decoded" / "a.png").write_bytes(b"precious")
    assert run("decode", tokens, "--model", model).exit_code == 1
    assert (here / "decoded" / "a.png").read_bytes() == b"precious"
    assert run("decode", tokens, "--model", model, "--force").exit_code == 0
    assert (here / "decoded" / "a.png").read_bytes() != b"precious"


def test_scale_gives_thumbnails(run, model, tok, tokens, here):
    done = run("decode", tokens / "a.tokens", "--model", model, "--scale", 0.25, "--out", "x.png")
    assert done.exit_code == 0, done.stderr
    assert_same_image(here / "x.png", to_pil(tok.decode(TokenPyramid.load(tokens / "a.tokens"), scale=1 / 4))[0])
    assert "10x8 px" in done.stdout
    refused = run("decode", tokens / "a.tokens", "--model", model, "--scale", 0.3, "--out", "y.png")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "1/4" in refused.stderr and "0.3" in refused.stderr
