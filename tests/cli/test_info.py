"""`info`: what a model or a token file holds."""

from __future__ import annotations

import pytest
import torch


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_a_model_shows_its_levels_sizes_and_fingerprint(run, model, tok):
    done = run("info", model)
    assert done.exit_code == 0, done.stderr
    shown = rows(done.stdout)
    assert ["fingerprint", tok.fingerprint] in shown
    assert ["vocabulary", str(tok.vocabulary.size), "integers"] in shown
    assert ["0", "32", "8x8", "64", "4", "4", "2.00", "0.0020"] in shown
    assert ["1", "8", "32x32", "1,024", "16", "6", "4.00", "0.0625"] in shown
    assert ["all", "1,088", "20", "0.0645"] in shown
    for part in ("trunk", "pixel decoder"):
        count = sum(tensor.numel() for tensor in getattr(tok, part.replace(" ", "_")).state_dict().values())
        assert [*part.split(), f"{count:,}"] in shown
    for path in model.iterdir():
        assert [path.name, f"{path.stat().st_size:,}"] in shown


@pytest.mark.parametrize("size", [1, 32, 33])
def test_tokens_are_counted_for_an_image_of_the_given_size(run, model, tok, size):
    tokens = tok.encode(torch.zeros(3, size, size))
    last = next(row for row in rows(run("info", model, "--size", size).stdout) if row[:1] == ["all"])
    assert last == ["all", str(tokens.num_tokens), "20", f"{tokens.bits_per_pixel:.4f}"]


def test_a_token_file_shows_its_images_levels_and_fingerprint_without_a_model(run, tok, photos, here):
    tokens = tok.encode([photos / "b.png", photos / "trip" / "a.png"])
    tokens.save(here / "x.tokens")
    done = run("info", "x.tokens")
    assert done.exit_code == 0, done.stderr
    shown = rows(done.stdout)
    assert ["images", "2", "of", "48x48", "px"] in shown
    assert ["fingerprint", tok.fingerprint] in shown
    assert ["0", "2x2", "4", "4", "2.00", "0.0035"] in shown
    assert ["1", "8x8", "64", "16", "4.00", "0.1146"] in shown


def test_a_missing_or_damaged_token_file_is_one_line(run, tok, here):
    (here / "x.tokens").write_bytes(b"nothing")
    for name in ("x.tokens", "y.tokens"):
        done = run("info", name)
        assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert name in done.stderr
