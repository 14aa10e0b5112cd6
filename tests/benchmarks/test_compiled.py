"""What compiled.py counts, and its table; tests/test_compiled.py measures with it."""

from __future__ import annotations

import pytest
import torch

from benchmarks import compiled


def test_differences_are_counted_in_ids_and_measured_in_numbers(toy_tokenizer):
    images = torch.rand(2, 3, 64, 64)
    other = compiled.compare(toy_tokenizer.encode, lambda x: toy_tokenizer.encode(1 - x), [images])
    assert 0 < other["ids_that_differ"] <= other["compared"]
    assert compiled.compare(lambda x: x, lambda x: x + 0.5, [images])["largest"] == pytest.approx(0.5)


def test_the_table_has_a_row_for_each_part_and_batch_size():
    row = {
        "part": "encode",
        "batch": 8,
        "first_call": {"clock": 212.4, "processor": 95.2},
        "images_per_second": {"plain": 20.0, "compiled": 25.0},
        "compared": 67200,
        "ids_that_differ": 3,
        "largest": 0.0,
    }
    decode = {**row, "part": "decode", "largest": 4.2e-7}
    lines = compiled.to_markdown([row, decode]).splitlines()
    assert all(fact in lines[2] for fact in ("encode", "212", "95", "3 of 67,200 ids", "20.0", "25.0", "1.25"))
    assert "by 4.2e-07 at most" in lines[3]


def test_crops_are_the_same_at_each_call():
    pytest.importorskip("skimage")
    found = compiled.crops(5, 32)
    assert found.shape == (5, 3, 32, 32)
    assert torch.equal(found, compiled.crops(5, 32))
    assert not torch.equal(found[0], found[4])
