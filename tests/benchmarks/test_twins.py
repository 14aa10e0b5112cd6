"""Twins differ from their tokenizer in what they name, and in nothing else."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image

from benchmarks import twins
from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.config.models import BackboneConfig, DecoderConfig, LevelConfig, QuantizerConfig, TokenizerConfig

LEVELS = (
    LevelConfig(stride=32, maps=(0, 1), codebook_size=4, dim=3),
    LevelConfig(stride=8, maps=(2, 3), codebook_size=8, dim=3),
)
CONFIG = TokenizerConfig(
    backbone=BackboneConfig(kind="toy"),
    quantizer=QuantizerConfig(levels=LEVELS),
    decoder=DecoderConfig(widths=(4, 4), depths=(0, 0), pixel_widths=(4,), pixel_depth=0),
)


def test_the_last_layer_twin_reads_one_map_and_spends_the_same_bits() -> None:
    twin = twins.last_layer(CONFIG)
    assert [level.maps for level in twin.quantizer.levels] == [(0,), (0,)]
    kept = tuple(dataclasses.replace(a, maps=b.maps) for a, b in zip(twin.quantizer.levels, LEVELS, strict=True))
    assert dataclasses.replace(twin, quantizer=dataclasses.replace(twin.quantizer, levels=kept)) == CONFIG


def test_a_twin_without_detail_levels_has_the_others() -> None:
    detail = dataclasses.replace(LEVELS[-1], stride=LEVELS[-1].stride // 2, reads_dense=False, semantic_weight=0.0)
    quantizer = dataclasses.replace(CONFIG.quantizer, levels=(*LEVELS, detail), detail_levels=1)
    assert twins.without_detail(dataclasses.replace(CONFIG, quantizer=quantizer, fingerprint="f" * 64)) == CONFIG


@pytest.mark.slow
def test_a_fitted_twin_stands_on_the_same_backbone_and_shows_its_linear_reconstruction(tmp_path, monkeypatch) -> None:
    for i in range(8):
        noise = torch.rand(8, 8, 3, generator=torch.Generator().manual_seed(i)).mul(255).byte().numpy()
        Image.fromarray(noise).resize((160, 128), Image.Resampling.BICUBIC).save(tmp_path / f"{i}.png")
    monkeypatch.setattr(twins, "FIT_IMAGES", 8)
    monkeypatch.setattr(twins, "BATCH", 4)
    tok = PyramidTokenizer.from_config(CONFIG)
    twin = twins.fitted(tok, twins.last_layer(CONFIG), tmp_path)
    assert twin.backbone is tok.backbone
    images = torch.rand(1, 3, 64, 64)
    tokens = twin.encode(images)
    torch.testing.assert_close(
        twin.decode(tokens), twin.quantizer.linear_reconstruction(twin.codes(tokens)).clamp(0, 1)
    )
