"""The fingerprint covers exactly what determines ids: every field of every config and every tensor is declared here.

Each is changed, saved and loaded: the fingerprint moves where it is declared to determine ids, and stays where it is not. A field
or a tensor without a declaration fails.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pyramid_tokenizer.backbones import load_backbone
from pyramid_tokenizer.backbones.base import compute_fingerprint
from pyramid_tokenizer.config import models
from pyramid_tokenizer.config.models import (
    BackboneConfig,
    DecoderConfig,
    LevelConfig,
    QuantizerConfig,
    SegmentationConfig,
    TokenizerConfig,
)
from pyramid_tokenizer.errors import CheckpointError, ConfigError
from pyramid_tokenizer.hub import pretrained
from pyramid_tokenizer.images import read
from pyramid_tokenizer.segmentation.head import build_head
from pyramid_tokenizer.segmentation.segmenter import Segmenter
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from tests.backbones.conftest import make_model, write_directory
from tests.backbones.test_loading import register

MODEL_CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 16, "layers": 3, "head_width": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 16, "width": 8, "heads": 2, "layers": 1},
}
CONFIG = TokenizerConfig(
    backbone=BackboneConfig(blocks=(0, 2)),
    quantizer=QuantizerConfig(
        levels=(
            LevelConfig(stride=16, maps=(0,), codebook_size=8, dim=4, distance="cosine", reads_dense=True),
            LevelConfig(stride=8, maps=(1,), codebook_size=16, dim=4),
        )
    ),
    decoder=DecoderConfig(widths=(4, 4), depths=(1, 1), pixel_widths=(4,), pixel_depth=1),
    segmentation=SegmentationConfig(width=8, depth=1),
)
IMAGES = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(3))


def backbone(**changes: Any) -> Callable[[TokenizerConfig], TokenizerConfig]:
    return lambda config: dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, **changes))


def level(index: int, **changes: Any) -> Callable[[TokenizerConfig], TokenizerConfig]:
    def change(config: TokenizerConfig) -> TokenizerConfig:
        levels = list(config.quantizer.levels)
        levels[index] = dataclasses.replace(levels[index], **changes)
        return dataclasses.replace(config, quantizer=dataclasses.replace(config.quantizer, levels=tuple(levels)))

    return change


def part(name: str, **changes: Any) -> Callable[[TokenizerConfig], TokenizerConfig]:
    return lambda config: dataclasses.replace(config, **{name: dataclasses.replace(getattr(config, name), **changes)})


def whole(**changes: Any) -> Callable[[TokenizerConfig], TokenizerConfig]:
    return lambda config: dataclasses.replace(config, **changes)


def one_level(config: TokenizerConfig) -> TokenizerConfig:
    quantizer = dataclasses.replace(config.quantizer, levels=config.quantizer.levels[:1])
    return dataclasses.replace(config, quantizer=quantizer, decoder=DecoderConfig(widths=(4,), depths=(1,)))


def one_detail_level(config: TokenizerConfig) -> TokenizerConfig:
    quantizer = dataclasses.replace(config.quantizer, detail_levels=1)
    return dataclasses.replace(config, quantizer=quantizer, decoder=DecoderConfig(widths=(4,), depths=(1,)))


DETERMINES, HARMLESS, FIXED = "determines ids", "does not determine ids", "has one value only"
FIELDS: dict[str, tuple[str, Callable[[TokenizerConfig], TokenizerConfig]]] = {
    "BackboneConfig.kind": (DETERMINES, backbone(kind="toy", blocks=())),
    "BackboneConfig.name": (HARMLESS, backbone(name="local-dir:{folder}")),
    "BackboneConfig.pretrained": (
        HARMLESS,
        backbone(name="ViT-Tiny", pretrained="{folder}/open_clip_model.safetensors"),
    ),
    "BackboneConfig.blocks": (DETERMINES, backbone(blocks=(1, 2))),
    "BackboneConfig.fingerprint": (HARMLESS, backbone(fingerprint="{fingerprint}")),
    "BackboneConfig.stem": (DETERMINES, backbone(stem=True)),
    "BackboneConfig.dense_reading": (DETERMINES, backbone(dense_reading="v")),
    "LevelConfig.stride": (DETERMINES, level(0, stride=32)),
    "LevelConfig.maps": (DETERMINES, level(1, maps=(0,))),
    "LevelConfig.codebook_size": (DETERMINES, level(1, codebook_size=12)),
    "LevelConfig.dim": (DETERMINES, level(1, dim=5)),
    "LevelConfig.distance": (DETERMINES, level(1, distance="cosine")),
    "LevelConfig.semantic_weight": (HARMLESS, level(1, semantic_weight=0.5)),
    "LevelConfig.fsq": (DETERMINES, level(1, fsq=(2, 2, 2, 2))),
    "LevelConfig.reads_dense": (DETERMINES, level(1, reads_dense=True)),
    "QuantizerConfig.levels": (DETERMINES, one_level),
    "QuantizerConfig.composition": (DETERMINES, part("quantizer", composition="none")),
    "QuantizerConfig.image_codebooks": (DETERMINES, part("quantizer", image_codebooks=(4, 3))),
    "QuantizerConfig.detail_levels": (DETERMINES, one_detail_level),  # the patches of the coarser levels grow
    "DecoderConfig.widths": (HARMLESS, part("decoder", widths=(6, 5))),
    "DecoderConfig.depths": (HARMLESS, part("decoder", depths=(0, 2))),
    "DecoderConfig.pixel_widths": (HARMLESS, part("decoder", pixel_widths=(5,))),
    "DecoderConfig.pixel_depth": (HARMLESS, part("decoder", pixel_depth=2)),
    "SegmentationConfig.width": (HARMLESS, part("segmentation", width=4)),
    "SegmentationConfig.depth": (HARMLESS, part("segmentation", depth=2)),
    "SegmentationConfig.shared_decoder": (HARMLESS, part("segmentation", shared_decoder=False)),
    "TokenizerConfig.backbone": (DETERMINES, whole(backbone=BackboneConfig(kind="toy"))),
    "TokenizerConfig.quantizer": (DETERMINES, part("quantizer", levels=CONFIG.quantizer.levels[::-1][:1] * 2)),
    "TokenizerConfig.decoder": (HARMLESS, whole(decoder=DecoderConfig(widths=(3, 3), depths=(0, 0)))),
    "TokenizerConfig.segmentation": (HARMLESS, whole(segmentation=None)),
    "TokenizerConfig.fingerprint": (HARMLESS, whole(fingerprint="ab" * 32)),
    "TokenizerConfig.format_version": (FIXED, whole(format_version=models.FORMAT_VERSION + 1)),
}

TENSORS = {
    r"tok\.backbone\.model\.visual\..*": DETERMINES,  # the image network counts as a whole
    r"tok\.backbone\.model\.(?!visual\.).*": HARMLESS,  # the text encoder
    r"tok\.quantizer\.levels\.\d\.(mean|std|codebook|adapter\.(weight|bias))": DETERMINES,
    r"tok\.quantizer\.levels\.0\.pixel_readout\.(weight|bias)": DETERMINES,  # level 1 reads the linear reconstruction
    r"tok\.quantizer\.levels\.1\.pixel_readout\.(weight|bias)": HARMLESS,  # no finer level reads it
    r"tok\.quantizer\.levels\.\d\.(text_weight|text_readout\.(weight|bias))": HARMLESS,
    r"tok\.quantizer\.image\.codebook_\d": DETERMINES,
    r"tok\.quantizer\.to_embedding\.(weight|bias)": HARMLESS,
    r"tok\.(trunk|pixel_decoder)\..*": HARMLESS,
    r"head\..*": HARMLESS,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ViT in open_clip's layout."""
    state = make_model(MODEL_CONFIG).state_dict()
    return write_directory(tmp_path_factory.mktemp("backbone"), MODEL_CONFIG, state)


def build(config: TokenizerConfig, folder: Path) -> Segmenter:
    """Every tensor is filled by its name and shape alone, so that what a change does not touch stays."""
    tok = PyramidTokenizer.from_config(config, directory=folder if not config.backbone.name else None)
    shape = dataclasses.asdict(config.segmentation or SegmentationConfig())
    seg = Segmenter(tok, build_head(tok.trunk, embedding_dim=tok.backbone.embedding_dim, **shape))
    for name, tensor in seg.state_dict().items():
        if not name.startswith("tok.backbone"):
            generator = torch.Generator().manual_seed(len(name) + sum(name.encode()))
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return seg


def saved_and_loaded(seg: Segmenter, directory: Path) -> Segmenter:
    """Through files, as another process would see it."""
    if seg.tok.config.segmentation is None:
        seg.tok.save_pretrained(directory)
    else:
        seg.save_pretrained(directory)
    loaded = Segmenter.from_pretrained(directory)
    assert loaded.tok.fingerprint == loaded.tok.config.fingerprint == loaded.tok.update_fingerprint()
    return loaded


@pytest.fixture(scope="module")
def base(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return saved_and_loaded(build(CONFIG, folder), tmp_path_factory.mktemp("base"))


def with_places(config: TokenizerConfig, folder: Path, base: Segmenter) -> TokenizerConfig:
    places = {"folder": str(folder), "fingerprint": base.tok.backbone.fingerprint}
    texts = {name: getattr(config.backbone, name) for name in ("name", "pretrained", "fingerprint")}
    filled = {name: text and text.format(**places) for name, text in texts.items()}
    return dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, **filled))


def test_every_field_of_every_config_is_declared() -> None:
    configs = [found for found in vars(models).values() if dataclasses.is_dataclass(found)]
    fields = [f"{config.__name__}.{field.name}" for config in configs for field in dataclasses.fields(config)]
    assert sorted(FIELDS) == sorted(fields)


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_moves_the_fingerprint_if_and_only_if_it_determines_ids(
    field: str, base: Segmenter, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, "ViT-Tiny", MODEL_CONFIG, one={"mean": (0.5, 0.4, 0.3), "std": (0.3, 0.25, 0.2)})
    declared, change = FIELDS[field]
    if declared == FIXED:
        with pytest.raises(ConfigError, match=str(models.FORMAT_VERSION)):
            change(CONFIG)
        return
    config = with_places(change(CONFIG), folder, base)
    assert config != CONFIG
    loaded = saved_and_loaded(build(config, folder), tmp_path / "model")
    assert (loaded.tok.fingerprint != base.tok.fingerprint) == (declared == DETERMINES)
    if declared == HARMLESS:
        assert loaded.tok.encode(IMAGES) == base.tok.encode(IMAGES)


def declared_as(kind: str, base: Segmenter) -> list[str]:
    declarations = {name: [d for p, d in TENSORS.items() if re.fullmatch(p, name)] for name in base.state_dict()}
    assert {name for name, found in declarations.items() if len(found) != 1} == set()
    return [name for name, (found,) in declarations.items() if found == kind]


def test_tensors_that_do_not_determine_ids_leave_the_fingerprint_and_the_ids(
    base: Segmenter, folder: Path, tmp_path: Path
) -> None:
    harmless = declared_as(HARMLESS, base)
    change_backbone(folder, tmp_path / "backbone", [name for name in harmless if name.startswith("tok.backbone")])
    seg = build(CONFIG, tmp_path / "backbone")
    for name in harmless:
        if not name.startswith("tok.backbone"):
            seg.state_dict()[name].add_(1)
    loaded = saved_and_loaded(seg, tmp_path / "model")
    assert all(not torch.equal(loaded.state_dict()[name], base.state_dict()[name]) for name in harmless)
    assert loaded.tok.fingerprint == base.tok.fingerprint
    assert loaded.tok.encode(IMAGES) == base.tok.encode(IMAGES)


def test_each_tensor_of_the_quantizer_that_determines_ids_moves_the_fingerprint(
    base: Segmenter, tmp_path: Path
) -> None:
    found = {base.tok.fingerprint: "unchanged"}
    names = [name for name in declared_as(DETERMINES, base) if not name.startswith("tok.backbone")]
    seg = copy.deepcopy(base)
    for name in names:
        number = seg.state_dict()[name].view(-1)[:1]
        before = number.clone()
        number.add_(1)
        found[seg.tok.update_fingerprint()] = name
        if name == names[-1]:
            assert saved_and_loaded(seg, tmp_path / "model").tok.fingerprint == seg.tok.fingerprint
        number.copy_(before)
    assert seg.tok.update_fingerprint() == base.tok.fingerprint
    assert list(found.values()) == ["unchanged", *names]


def test_each_tensor_of_the_image_network_moves_the_fingerprint(base: Segmenter, folder: Path, tmp_path: Path) -> None:
    names = [name for name in declared_as(DETERMINES, base) if name.startswith("tok.backbone")]
    names = [name for name in names if "resblocks" not in name or "resblocks.1" in name]  # the blocks are alike
    assert len(names) > 15
    found = {base.tok.backbone.fingerprint: "unchanged"}
    for name in names:
        change_backbone(folder, tmp_path / "backbone", [name])
        found[load_backbone(CONFIG.backbone, directory=tmp_path / "backbone").fingerprint] = name
    assert list(found.values()) == ["unchanged", *names]
    with pytest.raises(CheckpointError, match="fingerprint"):
        load_backbone(base.tok.config.backbone, directory=tmp_path / "backbone")
    assert build(CONFIG, tmp_path / "backbone").tok.fingerprint != base.tok.fingerprint


def change_backbone(source: Path, target: Path, names: list[str]) -> None:
    """Writes a copy of a backbone's folder with one number of some tensors changed."""
    state = load_file(source / "open_clip_model.safetensors")
    for name in names:
        tensor = state[name.removeprefix("tok.backbone.model.")]
        tensor.view(-1)[0] += 1
    write_directory(target, MODEL_CONFIG, state)


def test_the_dense_reading_counts_only_where_a_level_reads_it(folder: Path, tmp_path: Path) -> None:
    plain = level(0, reads_dense=False)(CONFIG)
    loaded = [
        saved_and_loaded(build(backbone(dense_reading=reading)(plain), folder), tmp_path / f"{reading}model").tok
        for reading in ("", "v")
    ]
    assert loaded[0].backbone.dense_readings != loaded[1].backbone.dense_readings
    assert loaded[0].fingerprint == loaded[1].fingerprint
    assert loaded[0].encode(IMAGES) == loaded[1].encode(IMAGES)


def test_it_is_taken_once_at_loading_and_at_a_fit_and_a_cast_keeps_it(
    base: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base.save_pretrained(tmp_path)
    taken = []
    monkeypatch.setattr(
        pretrained, "compute_fingerprint", lambda *a, **k: taken.append(1) or compute_fingerprint(*a, **k)
    )
    seg = Segmenter.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert seg.tok.precision == "bfloat16"
    assert len(taken) == 1
    tokens = seg.tok.encode(IMAGES)
    for call in (seg.tok.decode, seg.tok.embedding, seg.tok.vocabulary.flatten, seg.tok.health):
        call(tokens)
    assert seg.guidance(tokens).refined is not None
    assert copy.deepcopy(seg.tok).encode(IMAGES) == tokens
    assert len(taken) == 1
    assert seg.tok.fingerprint == base.tok.fingerprint == seg.tok.update_fingerprint()
    taken.clear()
    with pytest.warns(UserWarning, match="decoder was reset"):
        seg.tok.fit([torch.rand(8, 3, 32, 32)])
    assert len(taken) == 1
    assert seg.tok.fingerprint != base.tok.fingerprint


def test_altered_weights_are_refused_at_loading(base: Segmenter, tmp_path: Path) -> None:
    base.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["quantizer.levels.1.codebook"][3, 2] += 1e-3
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=base.tok.fingerprint[:12]):
        PyramidTokenizer.from_pretrained(tmp_path)


def test_the_version_of_the_image_recipe_moves_it(base: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    tok = copy.deepcopy(base.tok)
    monkeypatch.setattr(pretrained, "IMAGE_RECIPE_VERSION", read.IMAGE_RECIPE_VERSION + 1)
    assert tok.update_fingerprint() != base.tok.fingerprint
