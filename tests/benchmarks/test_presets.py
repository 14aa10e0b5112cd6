"""The table of backbones: what a row tells, and that docs/backbones.md tells the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import presets
from pyramid_tokenizer import PyramidTokenizer

DOCS = Path(__file__).parents[2] / "docs" / "backbones.md"


def test_a_row_tells_levels_and_the_cost_of_an_image() -> None:
    tok = PyramidTokenizer.from_backbone("toy")
    for index in range(3):
        tok.quantizer.level(index).codebook.normal_()
    tokens = tok.encode(torch.zeros(3, 256, 256))
    assert presets.row_of("toy") == (
        "toy",
        "ToyBackbone",
        "32 16 8 4 4",
        "32 4096 · 16 1024 · 8 8192",
        str(tokens.num_tokens),
        f"{tokens.bits_per_pixel:.3f}",
    )


def test_a_backbone_that_cannot_be_used_is_told_and_leaves_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    lines = presets.table_of(["toy", "no_backbone"]).splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["| name", "| ---", "| toy"]
    assert "no_backbone: expected an open_clip model name" in capsys.readouterr().err


def test_names_are_counted_by_family_and_dense_readings(capsys: pytest.CaptureFixture[str]) -> None:
    lines = presets.readings_of(["toy", "no_backbone", "toy"]).splitlines()
    assert lines == [
        "| family | dense readings | names |",
        "| --- | --- | --- |",
        "| ToyBackbone | projection | 2 |",
    ]
    assert "no_backbone" in capsys.readouterr().err


@pytest.mark.slow
def test_the_table_of_the_docs_is_what_the_script_prints() -> None:
    assert presets.table_of(presets.NAMES) in DOCS.read_text(encoding="utf-8")
