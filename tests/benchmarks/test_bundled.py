"""The table of the bundled model's figures, on the toy backbone."""

import json

import pytest

from benchmarks import bundled, reconstruction
from benchmarks.by_content import Photos
from pyramid_tokenizer.images.pixels import to_pil


@pytest.fixture
def data(smooth, tmp_path):
    folder = tmp_path / "data" / "recon" / "heldout"
    folder.mkdir(parents=True)
    for i, image in enumerate(to_pil(smooth(3, 64, 64, seed=3))):
        image.save(folder / f"{i}.png")
    return tmp_path / "data"


def test_sparse_pyramids_use_the_bits_that_they_may(detailed_tokenizer, smooth, monkeypatch):
    photos = Photos(detailed_tokenizer, smooth(9, 64, 64, seed=3))
    parts = photos.of_levels(len(photos.full[0]))
    rates = {}
    for most in (0.1, 0.2):
        monkeypatch.setattr(bundled, "MOST_BITS", most)
        pyramids, quality = bundled.within_bits(photos, parts)
        found = [one.bits_per_pixel for tokens in pyramids for one in tokens.unbind()]
        assert len(found) == 9
        assert 0 < quality < 1
        rates[most] = bundled.mean_bits(pyramids)
        assert rates[most] == pytest.approx(sum(found) / 9)
        assert 0.7 * most < rates[most] <= most
    assert rates[0.1] < rates[0.2]


def test_a_model_is_shown_beside_one_that_was_measured_before(detailed_tokenizer, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reconstruction, "SIDE_PX", 64)
    model = str(detailed_tokenizer.save_pretrained(tmp_path / "model"))
    options = ["--data", str(data), "--model", model, "--parts", "pixels"]
    bundled.main([*options, "--json", str(tmp_path / "before.json")])
    assert "| before" not in capsys.readouterr().out
    kept = json.loads((tmp_path / "before.json").read_text())
    assert kept["fingerprint"] == detailed_tokenizer.fingerprint
    kept["rows"] = [[what, source, "before: " + figure] for what, source, figure in kept["rows"]]
    (tmp_path / "before.json").write_text(json.dumps(kept))
    bundled.main([*options, "--beside", str(tmp_path / "before.json")])
    lines = [line for line in capsys.readouterr().out.splitlines() if " dB, " in line]
    assert len(lines) == len(kept["rows"])
    for line, (_, _, figure) in zip(lines, kept["rows"], strict=True):
        assert figure in line
        assert line.count(figure.removeprefix("before: ")) == 2  # the same model gives the same figures


def test_figures_that_the_other_model_lacks_are_a_dash():
    now = {"model": "b", "fingerprint": "1", "machine": "m", "date": "d", "rows": [("a", "x", "1"), ("a", "y", "2")]}
    shown = bundled.to_markdown(now, {"rows": [["a", "x", "0"]]})
    assert "| a    | x    | 0      | 1   |" in shown
    assert "|      | y    | -      | 2   |" in shown
