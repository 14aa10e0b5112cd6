"""benchmarks/decode.py: what it measures, and its JSON line."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import decode


def test_every_prefix_and_scale_has_a_ratio_and_a_psnr(toy_tokenizer, tmp_path, capsys):
    folder = toy_tokenizer.save_pretrained(tmp_path / "model")
    assert decode.main(["--model", str(folder), "--px", "32", "--batch", "2", "--rounds", "1"]) == 0
    shown = capsys.readouterr().out
    rows = json.loads(shown.splitlines()[-1])["rows"]
    assert list(rows) == ["prefix of 1", "prefix of 2", "full", "scale 1/2", "scale 1/4", "scale 1/8"]
    assert rows["full"]["ratio"] == 1
    assert all(row["ms"] > 0 and 0 < row["db"] <= 100 for row in rows.values())


@pytest.mark.slow
def test_another_checkout_decodes_the_same_tokens_in_a_process_of_its_own(toy_tokenizer, tmp_path):
    folder = toy_tokenizer.save_pretrained(tmp_path / "model")
    tokens = toy_tokenizer.encode(torch.rand(1, 3, 32, 32))
    with decode.other_checkout(Path(decode.__file__).parents[1], str(folder), tokens, tmp_path) as other:
        assert all(ratio > 0 for ratio in decode.beside(toy_tokenizer, tokens, other, 1))
