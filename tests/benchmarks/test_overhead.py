from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import fit_cost, overhead, random_backbones
from pyramid_tokenizer.config.models import LevelConfig
from pyramid_tokenizer.images.pixels import to_pil
from tests.backbones.conftest import MODEL_CONFIGS
from tests.backbones.test_loading import register

GOLDEN = Path(__file__).parents[1] / "golden" / "toy-tokenizer"


RATIO = r"\d+\.\d: \d+\.\d\d \(\d+\.\d\d to \d+\.\d\d\)"


def rows_of(printed: str) -> list[list[str]]:
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_a_saved_tokenizer_is_timed_beside_its_backbone_at_every_size(capsys: pytest.CaptureFixture[str]) -> None:
    overhead.main([str(GOLDEN), "--px", "64", "128", "--batch", "1", "--rounds", "1"])
    small, large = rows_of(capsys.readouterr().out)
    assert (small[1], large[1]) == ("64", "128")
    assert int(large[2]) - 2 == 4 * (int(small[2]) - 2)  # two image tokens at every size
    assert small[3] == large[3]
    assert re.fullmatch(RATIO, small[5])
    assert small[6] == "–"


def test_a_name_of_open_clip_is_timed_beside_encode_image_where_that_reads_the_size(
    monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    register(monkeypatch, "ViT-Tiny", MODEL_CONFIGS["vit"])
    overhead.main(["ViT-Tiny", "--px", "0", "96", "--batch", "1", "--rounds", "1"])
    own, other = rows_of(capsys.readouterr().out)
    assert own[1] == str(MODEL_CONFIGS["vit"]["vision_cfg"]["image_size"])
    assert re.fullmatch(RATIO, own[6])
    assert other[6] == "–"


def test_a_fit_is_timed_by_stage_beside_one_pass(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    register(monkeypatch, "ViT-Tiny", MODEL_CONFIGS["vit"])
    small = [LevelConfig(stride=s, maps=(4,), codebook_size=8, dim=4, reads_dense=s > 8) for s in (32, 16, 8)]
    monkeypatch.setattr("pyramid_tokenizer.quantizer.recipe.preset_levels", lambda strides: tuple(small))
    fit_cost.main(["ViT-Tiny", "--crops", "20", "--px", "64"])
    ((name, one_pass, fit, ratio, stages),) = rows_of(capsys.readouterr().out)
    assert name == "ViT-Tiny"
    assert float(fit) > 0
    assert float(one_pass) >= 0
    assert ratio
    assert [stage.rsplit(" ", 1)[0] for stage in stages.split(", ")] == [
        "backbone",
        "level 0: k-means",
        "level 1: cells",
        "level 1: k-means",
        "level 2: cells",
        "level 2: k-means",
        "image embeddings",
    ]


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
