"""A model's segmentation head goes where its tokenizer goes, or its loss is told."""

import copy
import pickle
import shutil
import warnings

import pytest
import torch

from pyramid_tokenizer import PyramidTokenizer, Segmenter
from pyramid_tokenizer.config.models import BackboneConfig, DecoderConfig, LevelConfig, QuantizerConfig, TokenizerConfig
from pyramid_tokenizer.errors import CheckpointError
from pyramid_tokenizer.segmentation.head import build_head
from pyramid_tokenizer.training import TrainConfig, finetune, train

CONFIG = TokenizerConfig(
    backbone=BackboneConfig(kind="toy"),
    quantizer=QuantizerConfig(levels=(LevelConfig(stride=8, maps=(2, 3), codebook_size=16, dim=4),)),
    decoder=DecoderConfig(widths=(8,), depths=(1,), pixel_widths=(), pixel_depth=1),
)
WORDS = ["sky", "grass"]


def save_model(tok, folder, *, shared):
    """A model with a head that is not fresh."""
    head = build_head(tok.trunk, embedding_dim=tok.backbone.embedding_dim, width=8, depth=1, shared_decoder=shared)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return Segmenter(tok, head).save_pretrained(folder)


@pytest.fixture(scope="module")
def models(smooth, tmp_path_factory):
    """The folders of two models, by whether the head reads the tokenizer's trunk. Never changed."""
    tok, folder = PyramidTokenizer.from_config(CONFIG), tmp_path_factory.mktemp("models")
    tok.fit([smooth(8)])
    return {shared: save_model(tok, folder / str(shared), shared=shared) for shared in (True, False)}


@pytest.fixture(params=[True, False], ids=["shared trunk", "own trunk"])
def model(request, models):
    """The folder of a model, and whether its head reads the tokenizer's trunk."""
    return models[request.param], request.param


@pytest.fixture
def folder(models):
    """A model whose head reads the tokenizer's trunk."""
    return models[True]


@pytest.fixture
def photos(smooth):
    return list(smooth(6, 40, 40, seed=3))


def head_of(folder):
    head = Segmenter.from_pretrained(folder).head
    return None if head is None else head.state_dict()


def assert_kept(folder, model):
    first, second = head_of(folder), head_of(model)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def few(**changes):
    return TrainConfig(
        **{"decoder_steps": 1, "batch_size": 2, "crop_px": 32, "fit_images": 16, "warmup_steps": 1} | changes
    )


def quiet(figures):
    """A log that nobody reads."""


@pytest.mark.parametrize("how", [lambda tok: tok, copy.deepcopy, lambda tok: pickle.loads(pickle.dumps(tok))])
def test_saving_the_tokenizer_saves_the_head_it_was_loaded_with(folder, tmp_path, how, smooth):
    how(PyramidTokenizer.from_pretrained(folder)).save_pretrained(tmp_path / "copy")
    assert_kept(tmp_path / "copy", folder)
    image = smooth(1)
    first, second = (Segmenter.from_pretrained(name).segment(image, WORDS) for name in (folder, tmp_path / "copy"))
    assert torch.equal(first.scores, second.scores)


def test_a_segmenter_without_a_head_keeps_it_too_and_half_halves_it(folder, tmp_path):
    Segmenter(PyramidTokenizer.from_pretrained(folder)).save_pretrained(tmp_path / "copy", half=True)
    halved, whole = head_of(tmp_path / "copy"), head_of(folder)
    assert all(torch.equal(halved[name], whole[name].half().float()) for name in whole)


def test_a_refit_leaves_the_head_out_with_a_warning(folder, tmp_path, photos):
    tok = PyramidTokenizer.from_pretrained(folder)
    tok.fit(photos, num_crops=16, crop_px=32)
    with pytest.warns(UserWarning, match="segmentation head is left out.*finetune MODEL --segmentation"):
        tok.save_pretrained(tmp_path / "refitted")
    assert head_of(tmp_path / "refitted") is None


@pytest.mark.parametrize("name", ["trunk", "quantizer", "pixel_decoder"])
def test_a_head_is_lost_when_what_it_reads_has_changed_and_only_then(model, tmp_path, name):
    folder, shared = model
    tok = PyramidTokenizer.from_pretrained(folder)
    for tensor in getattr(tok, name).state_dict().values():
        if tensor.is_floating_point():
            tensor.view(-1)[:1] += 0.01
    lost = name == "quantizer" or (name == "trunk" and shared)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        tok.save_pretrained(tmp_path / "copy")
    assert len(seen) == lost
    assert (head_of(tmp_path / "copy") is None) == lost


@pytest.mark.parametrize(("codebooks", "steps"), [("frozen", 1), ("refit", 0), ("continue", 0)])
def test_fine_tuning_keeps_the_head_or_tells_at_its_start_that_it_goes(model, tmp_path, photos, codebooks, steps):
    folder, shared = model
    tok = PyramidTokenizer.from_pretrained(folder)
    options = {"codebooks": codebooks, "steps": steps, "config": few(), "log": quiet, "out": tmp_path / "tuned"}
    lost = codebooks != "frozen" or (steps > 0 and shared)
    if codebooks == "continue":
        options["config"] = few(codebook_steps=1)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        finetune(tok, photos, **options)
    told = [str(warning.message) for warning in seen if issubclass(warning.category, UserWarning)]
    assert len(told) == lost
    if lost:
        assert ("trunk" if codebooks == "frozen" else "codebooks") in told[0]
        assert head_of(tmp_path / "tuned") is None
    else:
        assert_kept(tmp_path / "tuned", folder)


def test_training_in_memory_tells_too(folder, photos):
    tok = PyramidTokenizer.from_pretrained(folder)
    with pytest.warns(UserWarning, match="segmentation head"):
        train(tok, photos, config=few(codebooks="refit"), log=quiet)
    assert tok.kept_head is None


def test_a_model_whose_head_is_missing_is_damaged(folder, tmp_path):
    folder = shutil.copytree(folder, tmp_path / "model")
    (folder / "segmentation_head.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"segmentation_head\.safetensors"):
        PyramidTokenizer.from_pretrained(folder)
