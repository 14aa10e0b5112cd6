"""The clockwork of speed.py with a clock made by hand, and the script on a toy model."""

from __future__ import annotations

import builtins

import pytest
import torch

from benchmarks import speed
from benchmarks.speed import Spread


def test_cases_take_turns_after_one_call_each():
    now, calls = [0.0], []

    def case(name, seconds):
        def work():
            calls.append(name)
            now[0] += seconds

        return work

    cases = {"slow": case("slow", 3.0), "fast": case("fast", 1.0)}
    assert speed.take_turns(cases, 2, clock=lambda: now[0]) == {"slow": [3, 3], "fast": [1, 1]}
    assert calls == ["slow", "fast"] * 3


def test_a_spread_is_median_and_extremes():
    assert Spread.of([3, 1, 8]) == Spread(median=3, low=1, high=8)


def test_the_table_shows_each_case_by_threads():
    rate = Spread(median=40.0, low=38.5, high=41.25)
    assert speed.to_markdown([("encode", 2, rate)]).splitlines()[-1] == (
        "| encode            | 2       | 40.0   | 38.5          | 41.2          |"
    )


def test_photos_are_square_and_repeat():
    pytest.importorskip("skimage")
    found, what = speed.images(5, 32)
    assert found.shape == (5, 3, 32, 32)
    assert torch.equal(found[0], found[4])
    assert not torch.equal(found[0], found[1])
    assert "photos" in what


def test_without_scikit_image_images_are_made_up(monkeypatch):
    original = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "skimage":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    found, what = speed.images(2, 32)
    assert found.shape == (2, 3, 32, 32)
    assert bool((found >= 0).all() and (found <= 1).all())
    assert "random" in what


def test_the_script_measures_a_model_and_leaves_the_threads_as_they_were(toy_tokenizer, tmp_path, capsys):
    before = torch.get_num_threads()
    folder = toy_tokenizer.save_pretrained(tmp_path / "model")
    assert speed.main(["--model", str(folder), "--px", "32", "--batch", "2", "--rounds", "1"]) == 0
    shown = capsys.readouterr().out
    assert all(what in shown for what in ("encode", "decode", "backbone alone", "machine: ", "32 px, batches of 2"))
    assert torch.get_num_threads() == before


def test_an_unknown_model_is_an_error(tmp_path, capsys):
    assert speed.main(["--model", str(tmp_path / "none")]) == 1
    assert "error: " in capsys.readouterr().err
