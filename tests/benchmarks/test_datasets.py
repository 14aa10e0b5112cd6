"""benchmarks/datasets.py prints a row for each way to read, for search, and for recall."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("pyarrow")

from benchmarks import datasets as benchmark
from pyramid_tokenizer.tokenizer import PyramidTokenizer


def test_recall_counts_the_shared_nearest_and_not_the_row_itself():
    rows = torch.eye(4)[[0, 0, 1, 1]] + 0.1 * torch.eye(4)
    assert benchmark.recall_at(rows, rows, 1) == 1
    assert benchmark.recall_at(rows, rows[[0, 2, 1, 3]], 1) == 0


@pytest.mark.slow
def test_every_figure_is_printed(monkeypatch, toy_tokenizer, shared_smooth_folder, capsys):
    monkeypatch.setattr(PyramidTokenizer, "from_pretrained", classmethod(lambda cls, name: toy_tokenizer))
    benchmark.main(["--rows", "1024", "--search-rows", "3000", "--px", "64", "--images", str(shared_smooth_folder)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 5 + 1 + 1
    assert "recall at 10" in lines[-1]


@pytest.fixture
def shared_smooth_folder(tmp_path, smooth):
    from pyramid_tokenizer.images import to_pil

    for number, image in enumerate(smooth(12, seed=3)):
        to_pil(image[None])[0].save(tmp_path / f"{number:02d}.png")
    return tmp_path
