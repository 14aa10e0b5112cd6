"""Variants change what they name and nothing else; rows are measured as said, kept, and shown."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks import ablations, ablations_kept, backbones
from benchmarks import ablations_segmentation as heads
from benchmarks.variants import VARIANTS, nearest_grid
from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.config.models import BackboneConfig, LevelConfig, QuantizerConfig, TokenizerConfig
from pyramid_tokenizer.evaluation import psnr, ssim

BASE = TokenizerConfig(
    backbone=BackboneConfig(kind="toy"),
    quantizer=QuantizerConfig(
        levels=(
            LevelConfig(stride=32, maps=(0, 1), codebook_size=256, dim=16, semantic_weight=0.5),
            LevelConfig(stride=16, maps=(1, 2), codebook_size=1024, dim=12, semantic_weight=0.25),
            LevelConfig(stride=8, maps=(2, 3), codebook_size=8192, dim=8, semantic_weight=0.05),
        )
    ),
)
CHANGES = {
    "base": {},
    "last-layer": {"maps": [(0,), (0,), (0,)]},
    "bottom-up": {"composition": "bottom_up"},
    "no-composition": {"composition": "none"},
    "fsq": {
        "fsq": [(7, 6, 6), (8, 5, 5, 5), (8, 8, 5, 5, 5)],
        "codebook_size": [252, 1000, 8000],
        "dim": [3, 4, 5],
    },
    "cosine": {"distance": ["cosine", "euclidean", "euclidean"]},
    "refined": {},
    "dim-4": {"dim": [16, 12, 4]},
    "dim-16": {"dim": [16, 12, 16]},
    "half-codes": {"codebook_size": [256, 1024, 4096]},
    "double-codes": {"codebook_size": [256, 1024, 16384]},
    "batch-norm": {},
    "layer-norm": {},
    "middle-in-two": {
        "stride": [32, 16, 16, 8],
        "maps": [(0, 1), (1, 2), (1, 2), (2, 3)],
        "codebook_size": [256, 32, 32, 8192],
        "dim": [16, 12, 12, 8],
        "distance": ["euclidean"] * 4,
        "semantic_weight": [0.5, 0.25, 0.25, 0.05],
        "fsq": [()] * 4,
        "address": ["linear"] * 4,
        "reads_dense": [False] * 4,
        "widths": (160, 128, 128, 96),
        "depths": (2, 1, 1, 3),
    },
    "finest-in-two": {
        "stride": [32, 16, 8, 8],
        "maps": [(0, 1), (1, 2), (2, 3), (2, 3)],
        "codebook_size": [256, 1024, 128, 64],
        "dim": [16, 12, 8, 8],
        "distance": ["euclidean"] * 4,
        "semantic_weight": [0.5, 0.25, 0.05, 0.05],
        "fsq": [()] * 4,
        "address": ["linear"] * 4,
        "reads_dense": [False] * 4,
        "widths": (160, 128, 96, 96),
        "depths": (2, 2, 2, 1),
    },
}
SMALL = ablations.Settings(images=16, steps=2, backbone_steps=3, batch_size=4, crop_px=64, val_images=3, side_px=64)


def fields_of(config):
    levels = [dataclasses.asdict(level) for level in config.quantizer.levels]
    columns = {name: [level[name] for level in levels] for name in levels[0]}
    rest = dataclasses.asdict(config) | {"quantizer": None, "decoder": None}
    return columns | {"composition": config.quantizer.composition} | dataclasses.asdict(config.decoder) | rest


@pytest.fixture
def data(tmp_path, smooth):
    """A data folder of small images, two of three with a label."""
    lines = ["file,source,label,w,h"]
    for split, count in (("train", 9), ("val", 3)):
        folder = tmp_path / "data" / "recon" / split
        folder.mkdir(parents=True)
        for i, image in enumerate(smooth(count, 64, 64, seed=count)):
            pixels = image.mul(255).byte().permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(folder / f"{i}.png")
            lines += [f"train/{i}.png,made,{('', 'cat', 'dog')[i % 3]},64,64"] if split == "train" else []
    (tmp_path / "data" / "recon" / "train.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "data"


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_changes_what_it_names_and_nothing_else(name):
    before, after = fields_of(BASE), fields_of(VARIANTS[name].change(BASE))
    assert {field: after[field] for field in after if after[field] != before[field]} == CHANGES[name]


def test_only_the_variants_that_say_so_spend_other_bits():
    def bits(config):
        return sum(math.log2(level.codebook_size) / level.stride**2 for level in config.quantizer.levels)

    rates = {name: bits(variant.change(BASE)) / bits(BASE) for name, variant in VARIANTS.items()}
    assert rates.pop("half-codes") == pytest.approx(15 / 16)
    assert rates.pop("double-codes") == pytest.approx(17 / 16)
    assert rates.pop("fsq") == pytest.approx(1, abs=0.005)
    assert set(rates.values()) == {1}


@pytest.mark.parametrize("size", [5, 64, 1000, 1024, 65536])
def test_the_nearest_grid_is_within_a_tenth_of_a_bit_and_most_entries_come_first(size):
    grid = nearest_grid(size)
    assert abs(math.log2(math.prod(grid) / size)) < 0.1
    assert list(grid) == sorted(grid, reverse=True)
    assert set(grid) <= {5, 6, 7, 8}


def test_a_row_holds_the_figures_of_every_prefix_and_level(toy_tokenizer, smooth):
    pictures = smooth(3, seed=5).mul(255).byte()
    figures = ablations.measure(toy_tokenizer, pictures)
    tokens = toy_tokenizer.encode(pictures / 255)
    for levels, found in enumerate(figures["psnr"], start=1):
        assert found == pytest.approx(
            psnr(pictures / 255, toy_tokenizer.decode(tokens[:levels])).mean().item(), abs=0.01
        )
    assert figures["ssim"] == pytest.approx(ssim(pictures / 255, toy_tokenizer.decode(tokens)).mean().item(), abs=1e-3)
    assert figures["bits_per_pixel"] == tokens.bits_per_pixel
    assert figures["strides"] == [32, 16, 8]
    assert figures["usage"] == [len(ids.unique()) / k for ids, k in zip(tokens.ids, (8, 16, 64), strict=True)]
    assert figures["perplexity_share"] == [level.perplexity_share for level in toy_tokenizer.health(tokens).levels]


def test_alignment_is_the_mean_cosine_and_no_constant_beats_the_best_one(toy_tokenizer, smooth):
    pictures = smooth(3, seed=6).mul(255).byte()
    tokens = toy_tokenizer.encode(pictures / 255)
    found, constant = ablations.alignment(toy_tokenizer, pictures, tokens)
    dense = toy_tokenizer.backbone.dense(pictures / 255)
    for index, codes in enumerate(toy_tokenizer.codes(tokens)):
        level = toy_tokenizer.quantizer.level(index)
        wanted = F.interpolate(dense, codes.shape[-2:], mode="bilinear", align_corners=False)
        text_embeddings = (
            torch.einsum("ed,bdhw->behw", level.text_readout.weight, codes) + level.text_readout.bias[:, None, None]
        )
        assert found[index] == pytest.approx(
            F.cosine_similarity(text_embeddings, wanted, dim=1).mean().item(), abs=1e-5
        )
    directions = F.normalize(dense, dim=1).permute(0, 2, 3, 1).flatten(0, 2)  # (cells, D)
    others = F.normalize(torch.cat([torch.randn(100, 16), directions]), dim=1)
    reached = (others @ directions.T).mean(1)
    best = F.normalize(directions.mean(0), dim=0)
    assert constant == pytest.approx((directions @ best).mean().item(), abs=1e-5)
    assert reached.max() <= constant + 1e-6


def test_a_row_is_made_once_for_its_settings_and_survives_an_interruption(data, tmp_path, toy_tokenizer, monkeypatch):
    pictures = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    trained: list[str] = []

    def train(config, backbone, images, settings, *, refine):
        trained.append(config.quantizer.composition)
        return toy_tokenizer

    def row(name="bottom-up", settings=SMALL):
        return ablations.row_of(name, toy_tokenizer, pictures, data=data, out=tmp_path / "out", settings=settings)

    monkeypatch.setattr(ablations, "trained", train)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ablations_kept.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        row()
    assert not list((tmp_path / "out").glob("*.json"))
    first = row()
    assert row() == first
    assert trained == ["bottom_up", "bottom_up"]  # the interrupted one, and the one that was kept
    other = row(settings=dataclasses.replace(SMALL, steps=3))
    row("no-composition")
    assert trained[2:] == ["bottom_up", "none"]
    assert (first["settings"]["steps"], other["settings"]["steps"]) == (2, 3)
    assert len(list((tmp_path / "out").glob("bottom-up-*.json"))) == 2


def test_a_small_run_trains_a_variant_on_the_bases_backbone(data, tmp_path, toy_config):
    base, pictures = PyramidTokenizer.from_config(toy_config), torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    where = {"data": data, "out": tmp_path / "out", "settings": SMALL}
    row = ablations.row_of("finest-in-two", base, pictures, **where)
    assert row["bits_per_pixel"] == pytest.approx((3 / 32**2) + (4 / 16**2) + (6 / 8**2))
    assert row["strides"] == [32, 16, 8, 8]
    assert [len(row[name]) for name in ("psnr", "usage", "perplexity_share", "alignment")] == [4] * 4
    again = ablations.row_of("finest-in-two", base, pictures, **where | {"out": tmp_path / "anew"})
    assert {k: v for k, v in again.items() if k != "minutes"} == {k: v for k, v in row.items() if k != "minutes"}
    assert not base.quantizer.is_fitted  # the base itself stays as it was


def test_the_table_puts_psnr_under_the_grid_that_it_ends():
    row = {
        "variant": "base",
        "bits_per_pixel": 0.25,
        "strides": [32, 8],
        "psnr": [17.004, 23.456],
        "ssim": 0.65432,
        "usage": [1.0, 0.964],
        "perplexity_share": [0.701, 0.655],
        "alignment": [0.9, 0.8049],
        "constant_alignment": 0.77,
        "minutes": 3.14,
    }
    two = row | {"variant": "two", "strides": [32, 8, 8], "psnr": [17.0, 20.0, 23.0], "alignment": [0.9, 0.8, 0.7]}
    head, _, first, second = (line.split("|")[1:-1] for line in ablations.to_markdown([row, two]).split("\n"))
    figures = {title.strip(): (a.strip(), b.strip()) for title, a, b in zip(head, first, second, strict=True)}
    assert figures == {
        "variant": ("base", "two"),
        "bits per pixel": ("0.250", "0.250"),
        "PSNR to stride 32": ("17.00", "17.00"),
        "PSNR to stride 8": ("23.46", "23.00"),
        "SSIM": ("0.654", "0.654"),
        "used, %": ("100 / 96", "100 / 96"),
        "perplexity, % of K": ("70 / 66", "70 / 66"),
        "alignment": ("0.90 / 0.80", "0.90 / 0.80 / 0.70"),
        "of a constant": ("0.77", "0.77"),
        "minutes": ("3.1", "3.1"),
    }


def test_options_replace_settings_of_the_table_that_is_asked_for():
    given = ablations.parse(["--quick", "--steps", "7", "--bf16", "--variants", "base,fsq"])
    assert given.variants == ["base", "fsq"]
    assert ablations.settings_of(given) == dataclasses.replace(ablations.QUICK, steps=7, bf16=True)
    assert ablations.settings_of(ablations.parse([])) == ablations.Settings()
    given = ablations.parse(["--segmentation", "--quick", "--head-steps", "7", "--batch", "2", "--crop", "64"])
    assert given.variants == list(heads.VARIANTS)
    assert ablations.settings_of(given) == dataclasses.replace(heads.QUICK, head_steps=7, batch_size=2, crop_px=64)
    assert ablations.settings_of(ablations.parse(["--segmentation"])) == heads.HeadSettings()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--variants", "base,bas"], "expected some of base, .*, got bas: "),
        (["--segmentation", "--variants", "base"], "expected some of look-up, .*, got base: "),
        (["--head-steps", "5"], "expected options of this table, got --head-steps: "),
        (["--segmentation", "--steps", "5"], "expected options of this table, got --steps: "),
    ],
)
def test_rows_and_options_of_the_other_table_are_refused(options, message, capsys):
    with pytest.raises(SystemExit):
        ablations.parse(options)
    assert re.search(message, capsys.readouterr().err)


def test_the_list_has_the_rows_of_both_tables():
    lines = [line.split(" ")[0] for line in ablations.list_variants().split("\n")]
    assert set(lines) == {*VARIANTS, "", "with", *heads.VARIANTS}


def test_layer_norm_hides_contrast_and_batch_norm_keeps_it(smooth):
    images = smooth(2)
    maps = {}
    for norm in backbones.TRUNKS:
        model = backbones.BackboneTraining(norm, 2).eval()
        mean = torch.tensor(model.mean).view(1, 3, 1, 1)
        for name, pictures in (("full", images), ("faint", mean + 0.5 * (images - mean))):
            normed = (pictures - mean) / torch.tensor(model.std).view(1, 3, 1, 1)
            maps[norm, name] = model.clip.visual.forward_intermediates(normed)["image_intermediates"]
    for full, faint in zip(maps["layer", "full"], maps["layer", "faint"], strict=True):
        torch.testing.assert_close(faint, full, rtol=0.01, atol=0.01 * full.std().item())
    for full, faint in zip(maps["batch", "full"], maps["batch", "faint"], strict=True):
        assert (full - faint).norm() > 0.2 * full.norm()


@pytest.mark.slow
@pytest.mark.parametrize("norm", backbones.TRUNKS)
def test_a_stopped_backbone_goes_on_to_the_same_weights_and_loads(norm, data, tmp_path, monkeypatch):
    monkeypatch.setattr(backbones, "SAVE_EVERY", 2)
    whole = ablations.backbone_on(norm, data, tmp_path / "whole", SMALL)
    crops = iter(range(2 * SMALL.batch_size))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        cut = backbones.random_crop
        patch.setattr(backbones, "random_crop", lambda *args: cut(*args) if next(crops, None) is not None else _stop())
        ablations.backbone_on(norm, data, tmp_path / "stopped", SMALL)
    resumed = ablations.backbone_on(norm, data, tmp_path / "stopped", SMALL)
    assert resumed.fingerprint == whole.fingerprint
    assert (whole.strides, whole.channels, whole.has_dense) == ((32, 16, 8, 4), (320, 160, 80, 40), True)
    kinds = {type(module).__name__ for module in whole.model.visual.modules()}
    assert ("BatchNorm2d" in kinds, "LayerNorm2d" in kinds) == (norm == "batch", norm == "layer")
    monkeypatch.setattr(backbones, "read_rows", lambda _: _stop())  # a finished backbone is not trained again
    assert ablations.backbone_on(norm, data, tmp_path / "whole", SMALL).fingerprint == whole.fingerprint


def _stop():
    raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if not variant.norm])
def test_every_variant_trains(name, data, tmp_path, toy_config):
    base, pictures = PyramidTokenizer.from_config(toy_config), torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    row = ablations.row_of(name, base, pictures, data=data, out=tmp_path, settings=SMALL)
    assert all(math.isfinite(figure) for figure in (*row["psnr"], row["ssim"], *row["alignment"]))
