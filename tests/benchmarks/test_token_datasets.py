"""The benchmark of token datasets runs and its figures belong together."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import token_datasets

GOLDEN = Path(__file__).parents[1] / "golden" / "toy-tokenizer"


@pytest.mark.slow
def test_a_dataset_is_timed_beside_its_images_one_by_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    token_datasets.main(["--images", str(folder), "--model", str(GOLDEN), "--size", "32", "--workers", "1"])
    told = capsys.readouterr().out
    assert told.startswith("5 images, one by one: ")
    (seconds,) = re.findall(r"workers: ([\d.]+) CPU s", told)
    assert float(seconds) > 0
