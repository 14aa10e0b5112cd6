from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import overhead, random_backbones
from pyramid_tokenizer.config.models import LevelConfig
from pyramid_tokenizer.images.pixels import to_pil
from tests.backbones.conftest import MODEL_CONFIGS
from tests.backbones.test_loading import register

GOLDEN = Path(__file__).parents[1] / "golden" / "toy-tokenizer"


def test_a_saved_tokenizer_is_timed_beside_its_backbone(capsys: pytest.CaptureFixture[str]) -> None:
    overhead.main([str(GOLDEN), "--px", "64", "--batch", "1", "--rounds", "1"])
    row = capsys.readouterr().out.strip().splitlines()[-1]
    assert re.search(r"\(backbone\) +\| \d+\.\d\d \(\d+\.\d\d to \d+\.\d\d\)", row), row


def test_a_name_of_open_clip_is_timed_beside_encode_image(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    register(monkeypatch, "ViT-Tiny", MODEL_CONFIGS["vit"])
    overhead.main(["ViT-Tiny", "--px", "64", "--batch", "1", "--rounds", "1"])
    assert "(encode_image)" in capsys.readouterr().out


def test_random_backbones_are_measured_by_prefix(
    monkeypatch, tmp_path, smooth, capsys: pytest.CaptureFixture[str]
) -> None:
    register(monkeypatch, "ViT-Tiny", MODEL_CONFIGS["vit"])
    small = [LevelConfig(stride=s, maps=(4,), codebook_size=8, dim=4, reads_dense=s > 8) for s in (32, 16, 8)]
    monkeypatch.setattr("pyramid_tokenizer.quantizer.recipe.preset_levels", lambda strides: tuple(small))
    for i, image in enumerate(to_pil(smooth(6, 64, 72, seed=4))):
        image.save(tmp_path / f"{i}.png")
    where = ["--images", str(tmp_path), "--test", str(tmp_path), "--px", "64", "--crops", "20", "--shown", "2"]
    random_backbones.main(["ViT-Tiny", *where])
    row = capsys.readouterr().out.strip().splitlines()[-1]
    decibels = [float(value) for value in row.split("|")[3].split()]
    assert decibels == sorted(decibels)
    assert len(decibels) == 3
