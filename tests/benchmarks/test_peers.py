"""benchmarks/peers.py: rates are matched, and every peer that is there has a row."""

import json
import sys

import pytest
import torch

from benchmarks import peers
from pyramid_tokenizer.evaluation.codecs import CODECS, has_codec


@pytest.mark.parametrize("codec", [name for name in CODECS if has_codec(name)])
def test_a_codec_takes_the_best_quality_within_the_rate_and_else_its_lowest(codec, smooth):
    batch = smooth(1, 64, 64)
    rough, fine = (peers.codec_peer(codec, batch, rate) for rate in (0.0, 4.0))
    assert 0 < rough.bits_per_pixel < fine.bits_per_pixel <= 4
    assert rough.psnr < fine.psnr


def test_without_diffusers_the_others_are_measured(toy_tokenizer, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    folder = str(toy_tokenizer.save_pretrained(tmp_path / "model"))
    assert peers.main(["--model", folder, "--px", "32", "--batch", "2", "--rounds", "1"]) == 0
    done = capsys.readouterr()
    assert "diffusers" in done.err
    rows = json.loads(done.out.splitlines()[-1])["rows"]
    assert list(rows) == [folder, *(codec for codec in CODECS if has_codec(codec))]
    assert rows[folder]["encode_ratio"] == rows[folder]["decode_ratio"] == 1
    assert all(row["encode_ms"] > 0 and row["psnr"] > 0 for row in rows.values())


def test_the_mean_psnr_is_that_of_single_images():
    wanted = torch.zeros(2, 3, 4, 4)
    found = torch.stack([wanted[0] + 0.1, wanted[1] + 0.01])
    assert peers.mean_psnr(found, wanted) == pytest.approx(30)
