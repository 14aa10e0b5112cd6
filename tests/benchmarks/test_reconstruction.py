import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import reconstruction
from pyramid_tokenizer import PyramidTokenizer, TokenPyramid
from pyramid_tokenizer.config.models import BackboneConfig, DecoderConfig, LevelConfig, QuantizerConfig, TokenizerConfig
from pyramid_tokenizer.hub.card import model_card

CONFIG = TokenizerConfig(
    backbone=BackboneConfig(kind="toy"),
    quantizer=QuantizerConfig(
        levels=(
            LevelConfig(stride=32, maps=(0,), codebook_size=4, dim=4),
            LevelConfig(stride=8, maps=(2,), codebook_size=8, dim=4),
        )
    ),
    decoder=DecoderConfig(widths=(8, 8), depths=(0, 1), pixel_widths=(8,), pixel_depth=0),
)

RESULT = {
    "model": "m",
    "date": "2025-01-02",
    "rows": [
        asdict(reconstruction.Row(what="ours", bits_per_pixel=0.23456, psnr=23.456, ssim=0.6789)),
        asdict(reconstruction.Row(what="not measured")),
    ],
    "levels": [{"codes": 8, "tokens": 1234, "usage": 0.875, "perplexity": 6.0}],
    "ids": [{"what": "batches of 1", "differing": 3, "ids": 20_000}],
}


def tokens(*ids):
    return TokenPyramid(
        ids=tuple(torch.tensor(level) for level in ids), codebook_sizes=(4, 9), image_size=(8, 8), fingerprint="f" * 64
    )


def test_differing_ids_are_counted_over_all_levels():
    left = tokens([[[0]]], [[[1, 2], [3, 4]]])
    assert reconstruction.differing(left, left) == 0
    assert reconstruction.differing(left, tokens([[[3]]], [[[1, 5], [3, 4]]])) == 2


def test_the_tables_show_what_was_measured_and_a_dash_for_what_was_not():
    expected = """\
- model: m
- date: 2025-01-02

| what         | bits per pixel | PSNR, dB | SSIM  |
|--------------|----------------|----------|-------|
| ours         | 0.235          | 23.46    | 0.679 |
| not measured | -              | -        | -     |

| level | codes | tokens | used  | perplexity | of K |
|-------|-------|--------|-------|------------|------|
| 0     | 8     | 1,234  | 87.5% | 6          | 75%  |

| ids that differ from batches of 8 | count       | per 10,000 |
|-----------------------------------|-------------|------------|
| batches of 1                      | 3 of 20,000 | 1.50       |
"""
    assert reconstruction.to_markdown(RESULT) == expected


def test_a_model_card_reads_the_result():
    card = model_card(CONFIG, fingerprint="f", evaluation=json.loads(json.dumps(RESULT)))
    assert "| ours | 0.235 | 23.46 | 0.679 |\n| not measured | – | – | – |" in card


def test_a_score_is_the_mean_of_each_images_own():
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    coded = images.clone()
    coded[0] += 1  # 48.13 dB
    coded[1] += 4  # 36.09 dB
    row = reconstruction.score("grey", images, coded, 0.5)
    assert (row.what, row.bits_per_pixel) == ("grey", 0.5)
    assert row.psnr == pytest.approx((20 * np.log10(255) + 20 * np.log10(255 / 4)) / 2, abs=1e-9)


@pytest.mark.slow
def test_the_script_measures_a_model_from_any_directory(tmp_path):
    folder = tmp_path / "my data" / "recon" / "val"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(3):
        small = Image.fromarray(rng.integers(0, 256, (16, 24, 3), dtype=np.uint8))
        small.resize((384, 256), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    tok = PyramidTokenizer.from_config(CONFIG)
    tok.fit([torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))])
    model = tok.save_pretrained(tmp_path / "model")
    script = Path(reconstruction.__file__).resolve()
    options = ["--data", "my data", "--model", str(model), "--split", "val", "--skip-baselines", "--json", "out.json"]
    done = subprocess.run(
        [sys.executable, script, *options], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert done.stdout.strip() == reconstruction.to_markdown(result).strip()
    assert result["fingerprint"] == tok.fingerprint
    rates = [row["bits_per_pixel"] for row in result["rows"]]
    assert rates == [2 / 1024, 2 / 1024 + 3 / 64, None]  # two prefixes and the features before quantisation
    assert [level["tokens"] for level in result["levels"]] == [3 * 64, 3 * 1024]
    assert {case["ids"] for case in result["ids"]} == {3 * 1088}
    assert [case["differing"] for case in result["ids"] if case["what"].startswith("model saved")] == [0]


def test_detail_levels_are_rows_of_their_own_and_their_usage_is_shown(detailed_tokenizer, smooth):
    images = (smooth(2) * 255).byte()
    tokens = reconstruction.encode(detailed_tokenizer, images, 2, detail=True)
    rows = list(reconstruction.tokenizer_rows(detailed_tokenizer, images, tokens))
    assert [row.what for row in rows[1:3]] == ["pyramid, levels 0-1", "pyramid, levels 0-2, with detail"]
    assert [row.bits_per_pixel for row in rows[:3]] == [tokens[:n].bits_per_pixel for n in (1, 2, 3)]
    assert [level["tokens"] for level in reconstruction.level_rows(detailed_tokenizer, tokens)] == [32, 128, 512]
    assert reconstruction.encode(detailed_tokenizer, images, 2) == tokens[:2]


def test_a_folder_of_images_is_enough_and_rows_that_need_training_images_are_left_out(tmp_path, smooth, monkeypatch):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(smooth(2)):
        Image.fromarray(image.mul(255).byte().permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    tok = PyramidTokenizer.from_config(CONFIG)
    tok.fit([smooth(4)])
    monkeypatch.setattr(reconstruction, "SIDE_PX", 64)
    monkeypatch.setattr(reconstruction, "id_agreement", lambda *_: [])  # starts processes; the slow test has it
    monkeypatch.setattr(reconstruction.baselines, "CODECS", {})
    model = tok.save_pretrained(tmp_path / "model")
    options = ["--images", str(folder), "--model", str(model), "--json", str(tmp_path / "out.json")]
    assert reconstruction.main(options) == 0
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["data"] == "photos, 2 images"
    assert [row["what"] for row in result["rows"]] == [
        "pyramid, level 0",
        "pyramid, levels 0-1",
        "pyramid, features not quantised",
        "bicubic thumbnail 16x16, 24 bit",
        "bicubic thumbnail 26x26, 24 bit",
    ]
