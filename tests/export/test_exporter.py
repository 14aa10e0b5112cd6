"""Exported files against the model, for every family of backbones, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.export import Dim

from pyramid_tokenizer.config.models import LevelConfig
from pyramid_tokenizer.errors import ConfigError, ExportError, NotFittedError
from pyramid_tokenizer.export import OnnxTokenizer, export_model, programs
from pyramid_tokenizer.export.checking import Differences
from pyramid_tokenizer.export.folding import fold_constants
from pyramid_tokenizer.export.graphs import EncodeGraph
from pyramid_tokenizer.images import to_pil
from pyramid_tokenizer.tokenizer import PyramidTokenizer

Smooth = Callable[..., torch.Tensor]


class _Resampled(torch.nn.Module):
    """A position embedding that is resampled in the graph, as a ViT's."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = torch.nn.Parameter(torch.rand(1, 2, 4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.nn.functional.interpolate(self.positions, (6, 6), mode="bicubic", antialias=True).exp()


def test_what_depends_on_weights_alone_is_computed_before_the_export() -> None:
    module, x = _Resampled(), torch.rand(2, 2, 6, 6)
    with torch.no_grad():
        program = torch.export.export(module, (x,), dynamic_shapes=({0: Dim("batch", min=1, max=8)},), strict=False)
        folded = fold_constants(program)
        assert torch.equal(folded(x), module(x))
    assert [str(node.target) for node in folded.graph.nodes if node.op == "call_function"] == ["aten.mul.Tensor"]
    assert [tuple(tensor.shape) for tensor in folded.state_dict().values()] == [(1, 2, 6, 6)]


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"size": 60}, "64 x 64"),
        ({"to": "tflite"}, "tflite"),
        ({"parts": ("encode", "segment")}, "segment"),
        ({"parts": ()}, "none"),
    ],
)
def test_a_size_format_or_part_that_there_is_not_is_refused(
    toy_tokenizer, tmp_path: Path, options: Any, fact: str
) -> None:
    with pytest.raises(ConfigError, match=fact):
        export_model(toy_tokenizer, tmp_path, **options)


def test_an_unfitted_or_a_cast_tokenizer_is_refused(toy_config, toy_tokenizer, tmp_path: Path) -> None:
    import copy

    with pytest.raises(NotFittedError):
        export_model(PyramidTokenizer.from_config(toy_config), tmp_path)
    with pytest.raises(ConfigError, match="bfloat16"):
        export_model(copy.deepcopy(toy_tokenizer).to(dtype=torch.bfloat16), tmp_path)


@pytest.mark.parametrize(("differ", "passes"), [(1, True), (2, False)])
def test_one_id_in_ten_thousand_may_differ(differ: int, passes: bool) -> None:
    found = Differences(part="encode", compared=10_000, differ=differ)
    assert found.passes == passes
    if not passes:
        with pytest.raises(ExportError, match="2 of 10,000"):
            found.require()


@pytest.mark.parametrize(("part", "largest"), [("decode", 1.1e-3), ("embed", 1.1e-4), ("decode", float("nan"))])
def test_pixels_and_embeddings_that_differ_are_refused(part: str, largest: float) -> None:
    with pytest.raises(ExportError, match="differ"):
        Differences(part=part, compared=8, largest=largest).require()


@pytest.mark.slow
def test_the_files_give_what_the_tokenizer_gives_at_any_size(
    detailed_tokenizer, smooth: Smooth, tmp_path: Path
) -> None:
    names = ["dog|puppy", "cat", "bicycle"]
    report = export_model(detailed_tokenizer, tmp_path, names=names)
    assert sorted(path.name for path in report.files) == sorted(path.name for path in tmp_path.iterdir())
    assert sorted(path.name for path in report.files) == ["decode.onnx", "embed.onnx", "encode.onnx", "words.npz"]
    exported = OnnxTokenizer(tmp_path, threads=1)
    assert exported.fingerprint == detailed_tokenizer.fingerprint
    images = smooth(3, 50, 84, seed=5)
    tokens = detailed_tokenizer.encode(images, levels=3)
    found = exported.encode(images.numpy(), levels=3)
    assert all(np.array_equal(a, b) for a, b in zip(found, tokens.ids, strict=True))
    assert len(exported.encode(images.numpy())) == 2  # without the detail level
    for levels in (1, 2, 3):
        decoded = detailed_tokenizer.decode(tokens[:levels]).numpy()
        np.testing.assert_allclose(exported.decode(found[:levels], (50, 84)), decoded, atol=1e-4)
    expected = detailed_tokenizer.classify(tokens, names)
    shown, scores = exported.classify(found)
    assert shown == list(expected.names)
    np.testing.assert_allclose(scores, expected.scores.numpy(), atol=1e-5)
    _check_what_the_reader_refuses(exported, found)


def _check_what_the_reader_refuses(exported: OnnxTokenizer, found: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"level 1.*\(3, 8, 12\)"):
        exported.decode([found[0], found[1][:, :4]])
    with pytest.raises(ValueError, match=r"level 0 of .* in \[0, 8\), got .* in \[\d+, 1\d\]"):
        exported.decode([found[0] + 8])
    with pytest.raises(ValueError, match="from 1 to 3"):
        exported.encode(np.zeros((1, 3, 16, 16), np.float32), levels=4)
    with pytest.raises(ValueError, match=r"\[0, 2\]"):
        exported.encode(np.full((1, 3, 16, 16), 2, np.float32) * np.arange(16, dtype=np.float32).clip(0, 1))


@pytest.mark.slow
@pytest.mark.parametrize(("family", "size"), [("vit", 64), ("convnext", None), ("timm_vit", 160), ("resnet", 64)])
def test_every_family_of_backbones_is_exported(family: str, size: int | None, smooth: Smooth, tmp_path: Path) -> None:
    from tests.backbones.conftest import MODEL_CONFIGS, make_model, write_directory

    state = make_model(MODEL_CONFIGS[family]).state_dict()
    directory = write_directory(tmp_path / "backbone", MODEL_CONFIGS[family], state)
    first = PyramidTokenizer.from_backbone(directory)
    maps = (len(first.backbone.strides) - 1,)
    stride = first.backbone.strides[-1]
    levels = [
        LevelConfig(stride=2 * stride, maps=maps, codebook_size=16, dim=8, reads_dense=True, semantic_weight=0.5),
        LevelConfig(stride=stride, maps=maps, codebook_size=32, dim=8),
    ]
    tok = PyramidTokenizer.from_backbone(directory, levels=levels)
    side = size or 2 * tok.multiple_px
    tok.fit([smooth(16, side, side)])
    report = export_model(tok, tmp_path / "exported", size=size, parts=("encode",))
    assert report.differences[0].compared > 100
    exported = OnnxTokenizer(tmp_path / "exported", threads=1)
    images = smooth(2, side, side, seed=4)
    assert all(
        np.array_equal(a, b) for a, b in zip(exported.encode(images.numpy()), tok.encode(images).ids, strict=True)
    )
    if size is not None:
        to_pil(images)[0].resize((96, 70)).save(tmp_path / "photo.png")
        assert exported.encode(tmp_path / "photo.png")[0].shape == (1, side // (2 * stride), side // (2 * stride))
        with pytest.raises(ValueError, match=f"{side} x {side}"):
            exported.encode(np.zeros((1, 3, 2 * side, side), np.float32))


@pytest.mark.slow
def test_a_vit_is_exported_for_all_sizes_too(smooth: Smooth, tmp_path: Path) -> None:
    from tests.backbones.conftest import MODEL_CONFIGS, make_model, write_directory

    directory = write_directory(tmp_path / "b", MODEL_CONFIGS["vit"], make_model(MODEL_CONFIGS["vit"]).state_dict())
    tok = PyramidTokenizer.from_backbone(directory, levels=[LevelConfig(stride=8, maps=(0,), codebook_size=8, dim=4)])
    tok.fit([smooth(8, 32, 32)])
    found = export_model(tok, tmp_path / "exported", parts=("encode",)).differences[0]
    assert found.compared > 10_000
    assert found.passes


@pytest.mark.slow
def test_a_graph_that_holds_for_one_size_alone_is_an_error_and_nothing_is_left_behind(
    toy_tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OneSize(EncodeGraph):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (images + torch.zeros(64, 96),)

    monkeypatch.setattr(programs, "EncodeGraph", OneSize)
    with pytest.raises(ExportError, match="size in pixels"):
        export_model(toy_tokenizer, tmp_path, parts=("encode",))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_file_that_gives_other_ids_is_not_written(
    toy_tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Rolled(EncodeGraph):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(ids.flip(-1) for ids in super().forward(images))

    monkeypatch.setattr(programs, "EncodeGraph", Rolled)
    with pytest.raises(ExportError, match="ids differ"):
        export_model(toy_tokenizer, tmp_path, size=64, parts=("encode",))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_torch_program_gives_what_the_tokenizer_gives(toy_tokenizer, smooth: Smooth, tmp_path: Path) -> None:
    report = export_model(toy_tokenizer, tmp_path, to="torch", parts=("encode",), size=(64, 96))
    assert [path.name for path in report.files] == ["encode.pt2"]
    extra = {"pyramid_tokenizer.json": ""}
    program = torch.export.load(tmp_path / "encode.pt2", extra_files=extra)
    assert json.loads(extra["pyramid_tokenizer.json"])["fingerprint"] == toy_tokenizer.fingerprint
    images = smooth(5, 64, 96, seed=3)
    with torch.no_grad():
        found = program.module()(images)
    tokens = toy_tokenizer.encode(images)
    assert all(torch.equal(a, b) for a, b in zip(found, (*tokens.ids, tokens.image_ids), strict=True))


@pytest.mark.slow
def test_image_tokens_are_given_by_encode_and_read_by_embed(toy_tokenizer, smooth: Smooth, tmp_path: Path) -> None:
    export_model(toy_tokenizer, tmp_path, parts=("encode", "embed"), size=(64, 96))
    exported, images = OnnxTokenizer(tmp_path, threads=1), smooth(3, 64, 96, seed=3)
    tokens, found = toy_tokenizer.encode(images), exported.encode(images.numpy())
    assert np.array_equal(found.image_ids, tokens.image_ids)
    for levels in (1, 3):
        expected = toy_tokenizer.embedding(tokens[:levels]).numpy()
        np.testing.assert_allclose(exported.embedding(found[:levels]), expected, atol=1e-5)


@pytest.mark.slow
def test_the_bundled_model_is_exported_for_a_fixed_size_and_any_batch(tmp_path):
    """Its head reads cells in parts, as many as a batch needs; a graph has one number of them."""
    tok = PyramidTokenizer.from_pretrained("tiny")
    report = export_model(tok, tmp_path / "exported", size=256, parts=("encode",))
    assert report.differences[0].compared > 10_000
