"""NaN and infinity, wherever they come from, are errors that name the stage; nothing made of them is returned or saved."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pyramid_tokenizer import PyramidTokenizer, Segmenter
from pyramid_tokenizer.checks.finite import all_finite
from pyramid_tokenizer.errors import BackboneError, CheckpointError, ConfigError, DataError, ImageValueError
from pyramid_tokenizer.hub.resolve import bundled_models
from pyramid_tokenizer.quantizer.fit.regression import ridge

NAN, INFINITE = float("nan"), float("inf")
IMAGE = torch.linspace(0, 1, 3 * 64 * 64).reshape(3, 64, 64)


@pytest.fixture(scope="module")
def seg() -> Segmenter:
    return Segmenter.from_pretrained("tiny")


@pytest.fixture
def changed(seg, monkeypatch):
    """changed(tensor, value): sets the tensor's first number until the end of the test."""
    restore = []

    def change(tensor: torch.Tensor, value: float) -> None:
        restore.append((tensor, tensor.detach().clone()))
        tensor.detach().view(-1)[0] = value

    yield change
    for tensor, before in reversed(restore):
        tensor.detach().copy_(before)


@pytest.mark.parametrize("value", [NAN, INFINITE, -INFINITE])
def test_a_number_is_found_in_any_dtype_and_a_sum_that_overflows_is_none(value: float) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert not all_finite([torch.zeros(3), torch.tensor([1.0, value]).to(dtype)])
    assert all_finite([torch.full((9,), 6e4, dtype=torch.float16), torch.full((9,), 3e38), torch.arange(3)])
    assert all_finite([])
    assert not all_finite([torch.tensor([INFINITE, -INFINITE])])


def test_a_file_of_the_backbone_with_a_nan_is_not_loaded(tmp_path: Path) -> None:
    model = shutil.copytree(bundled_models()["tiny"], tmp_path / "tiny")
    file = model / "backbone" / "open_clip_model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.startswith("visual.") and weights[name].is_floating_point())
    weights[name].view(-1)[0] = NAN
    save_file(weights, file)
    with pytest.raises(CheckpointError, match=name):
        PyramidTokenizer.from_pretrained(model)


@pytest.mark.parametrize("value", [NAN, pytest.param(INFINITE, marks=pytest.mark.slow)])
def test_features_of_a_backbone_that_was_altered_in_place_are_refused(seg, changed, value: float) -> None:
    changed(next(seg.tok.backbone.model.visual.parameters()), value)
    for call in (
        lambda: seg.tok.encode(IMAGE),
        lambda: seg.tok.reconstruct_continuous(IMAGE),
        lambda: seg.tok.features(IMAGE[None]),
        lambda: seg.tok.fit([IMAGE[None]]),
        lambda: seg.segment(IMAGE, ["a", "b"], mode="dense"),
    ):
        with pytest.raises(BackboneError, match="features of the backbone"):
            call()


# an infinite entry is never the nearest: ids stay right
@pytest.mark.parametrize(
    ("name", "value", "decides"),
    [
        ("codebook", NAN, True),
        ("codebook", INFINITE, False),
        ("adapter.weight", NAN, True),
        ("adapter.weight", INFINITE, True),
        ("std", INFINITE, True),  # it divides its channel to zero, which no projection shows
        ("mean", NAN, True),
    ],
)
def test_weights_that_decide_ids_are_named(seg, changed, name: str, value: float, decides: bool) -> None:
    changed(seg.tok.quantizer.level(1).state_dict()[name], value)
    if decides:
        with pytest.raises(CheckpointError, match=rf"levels\.1\.{name}"):
            seg.tok.encode(IMAGE)
    with pytest.raises(CheckpointError, match=rf"levels\.1\.{name}"):
        seg.tok.update_fingerprint()


def test_pixels_masks_and_embeddings_of_broken_weights_are_refused_and_not_saved(seg, changed, tmp_path: Path) -> None:
    tok = seg.tok
    tokens = tok.encode(IMAGE)
    changed(tok.pixel_decoder.to_pixels.bias, INFINITE)  # clamped to [0, 1] it would look like white
    with pytest.raises(CheckpointError, match="to_pixels.bias"):
        tok.decode(tokens)
    with pytest.raises(CheckpointError, match="to_pixels.bias"):
        tok.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    changed(tok.quantizer.level(0).text_readout.weight, NAN)
    for call in (
        lambda: seg.segment(tokens, ["a", "b"], mode="lookup"),
        lambda: seg.guidance(tokens),
        lambda: tok.classify(tokens, ["a", "b"]),
    ):
        with pytest.raises(CheckpointError, match=r"levels\.0\.text_readout\.weight"):
            call()


def test_masks_of_a_broken_head_and_a_threshold_that_is_nan_are_refused(seg, changed) -> None:
    tokens = seg.tok.encode(IMAGE)
    with pytest.raises(ConfigError, match="threshold"):
        seg.segment(tokens, ["a", "b"], threshold=NAN)
    changed(seg.head.see.bias, NAN)
    with pytest.raises(CheckpointError, match="see.bias"):
        seg.segment(tokens, ["a", "b"], mode="decoder")


def test_a_decoder_that_overflows_in_its_precision_says_so(seg) -> None:
    tok = copy.deepcopy(seg.tok).to(torch.float16)
    tok.pixel_decoder.to_pixels.bias.fill_(6e4)
    tok.pixel_decoder.to_pixels.weight.fill_(6e4)
    with pytest.raises(CheckpointError, match="float16"):
        tok.decode(seg.tok.encode(IMAGE))


def test_statistics_of_a_fit_are_finite() -> None:
    huge = torch.tensor([[-1e30], [1e30], [0.0]])
    with pytest.raises(DataError, match="statistics"):
        ridge(huge, huge)


def test_codes_and_fused_maps_that_are_not_finite_name_their_part(toy_tokenizer):
    tokens = toy_tokenizer.encode(torch.rand(1, 3, 32, 32))
    for part, call in (("quantizer.levels.1.codebook", "codes"), ("trunk", "fused")):
        tok = copy.deepcopy(toy_tokenizer)
        weights = [tensor for name, tensor in tok.own_tensors().items() if name.startswith(part)]
        for tensor in weights:
            tensor.fill_(float("nan"))
        with pytest.raises(CheckpointError, match=part.split(".")[0]):
            getattr(tok, call)(tokens)


def test_pixels_that_are_nan_are_told_as_such_by_the_backbone(toy_tokenizer):
    for value in (NAN, INFINITE):
        with pytest.raises(ImageValueError, match="finite"):
            toy_tokenizer.features(torch.full((1, 3, 32, 32), value))
