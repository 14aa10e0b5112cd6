"""`finetune`: what it moves, what it keeps, and what it refuses."""

import copy
import dataclasses
import signal

import pytest
import torch
from PIL import Image

from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.errors import ConfigError, NotFittedError, TooFewCellsError
from pyramid_tokenizer.images import read_skip_log
from pyramid_tokenizer.quantizer.codebooks import grid
from pyramid_tokenizer.training import finetune, train
from pyramid_tokenizer.training.stages import CodebookStage
from tests.training.test_train import state_of


@pytest.fixture(scope="module")
def trained(toy_tokenizer):
    return toy_tokenizer


def tune(tok, images, settings, **options):
    lines = []
    few = {"steps": 2, "config": settings(codebook_steps=0), "log": lines.append}
    return finetune(copy.deepcopy(tok), images, **few | options), lines


def changed(before, after):
    names = [name for name, tensor in state_of(before).items() if not torch.equal(tensor, after.own_tensors()[name])]
    return {name.split(".")[0] for name in names}, {name.split(".")[-1] for name in names if "adapter" in name}


def test_frozen_keeps_every_id(trained, photos, settings):
    tok, lines = tune(trained, photos, settings, codebooks="frozen")
    assert changed(trained, tok) == ({"trunk", "pixel_decoder"}, set())
    assert tok.fingerprint == trained.fingerprint
    assert {line["stage"] for line in lines} == {"decoder"}


def test_refit_moves_codebooks_in_the_adapters_own_coordinates(trained, photos, settings):
    tok, lines = tune(trained, photos, settings, codebooks="refit", steps=0)
    assert changed(trained, tok) == ({"quantizer"}, set())
    assert tok.fingerprint != trained.fingerprint
    assert {line["stage"] for line in lines} == {"refit"}


def test_one_photo_gives_a_refit_two_cells_for_each_code(trained, photos, settings):
    config = settings(codebook_steps=0, fit_images=100)
    with pytest.warns(UserWarning, match="16 overlapping crops of 1 image"):
        _, lines = tune(trained, photos[:1], settings, codebooks="refit", steps=0, config=config)
    assert [line["vectors"] for line in lines] == [16, 64, 256]  # 8, 16 and 64 codes


@pytest.mark.parametrize("codebooks", ["refit", "continue"])
def test_images_of_too_few_different_cells_leave_no_settings_that_refuse_others(trained, settings, tmp_path, codebooks):
    images, config = [torch.rand(3, 32, 32)], settings(codebook_steps=2 * (codebooks == "continue"))
    facts = 'level 0, got 2 in [0-9]+: .*codebooks="frozen"'
    with pytest.warns(UserWarning, match="1 image"), pytest.raises(TooFewCellsError, match=facts):
        tune(trained, images, settings, codebooks=codebooks, config=config, out=tmp_path)
    assert (tmp_path / ".training" / "settings.json").exists() == (
        codebooks == "continue"
    )  # its stage 1 can be resumed


def test_continue_moves_adapters_too_and_ends_with_a_refit(trained, photos, settings):
    tok, lines = tune(trained, photos, settings, codebooks="continue", config=settings(codebook_steps=3))
    assert changed(trained, tok) == ({"quantizer", "trunk", "pixel_decoder"}, {"weight", "bias"})
    assert trained.fingerprint != tok.fingerprint == tok.update_fingerprint()
    stages = [line["stage"] for line in lines]
    assert stages == ["codebooks"] * 3 + ["refit"] * 3 + ["decoder"] * 2


def test_codebooks_that_an_interruption_leaves_half_trained_have_a_fingerprint_of_their_own(trained, photos, settings):
    def interrupt(figures):
        if figures["step"] == 2:
            signal.raise_signal(signal.SIGINT)

    tok, config = copy.deepcopy(trained), settings(codebook_steps=4)
    with pytest.raises(KeyboardInterrupt):
        finetune(tok, photos, codebooks="continue", config=config, steps=1, log=interrupt)
    assert trained.fingerprint != tok.fingerprint == tok.update_fingerprint()


def test_a_level_of_scalars_learns_its_adapter_and_keeps_its_grid(unfitted, photos, settings, smooth):
    coarse, fine = unfitted.config.quantizer.levels
    scalars = dataclasses.replace(fine, fsq=(4, 2, 2), codebook_size=16, dim=3)
    quantizer = dataclasses.replace(unfitted.config.quantizer, levels=(coarse, scalars))
    tok = PyramidTokenizer.from_config(dataclasses.replace(unfitted.config, quantizer=quantizer))
    tok.fit([smooth(16)])
    tuned, lines = tune(tok, photos, settings, codebooks="continue", config=settings(codebook_steps=3))
    assert torch.equal(tuned.quantizer.level(1).codebook, grid((4, 2, 2)))
    assert not torch.equal(tuned.quantizer.level(1).adapter.weight, tok.quantizer.level(1).adapter.weight)
    assert [line["stage"] for line in lines[:3]] == ["codebooks"] * 3
    # the codes of a bounded level are reached from the adapter alone: no pull to a moving codebook
    assert set(CodebookStage(tok, settings()).ema) == {0}


def test_it_is_saved_where_asked_and_says_what_it_skipped(trained, photos, settings, tmp_path):
    Image.new("RGB", (40, 12)).save(tmp_path / "strip.png")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    images = [*photos[:2], tmp_path / "strip.png", tmp_path / "broken.jpg"]
    tok, _ = tune(trained, images, settings, codebooks="frozen", steps=4, out=tmp_path / "mine")
    assert PyramidTokenizer.from_pretrained(tmp_path / "mine").fingerprint == tok.fingerprint
    skipped = read_skip_log(tmp_path / "mine" / "skipped.tsv")
    assert {name.rsplit("/")[-1] for name in skipped} == {"strip.png", "broken.jpg"}


@pytest.mark.slow
def test_sheets_and_scalars_lie_beside_the_model(trained, photos, settings, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = settings(codebook_steps=0, sheet_every=2, tensorboard=True, log_every=2)
    _, lines = tune(trained, photos, settings, codebooks="frozen", steps=3, config=config, out=tmp_path)
    sheets = sorted((tmp_path / "sheets").iterdir())
    assert [path.name for path in sheets] == ["decoder-000002.png", "decoder-000003.png"]
    with Image.open(sheets[0]) as sheet:
        assert sheet.width > (1 + 3) * 32  # the original and three prefixes
        assert sheet.height > 6 * 32
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scalars = [(event.step, event.value) for event in events.Scalars("decoder/loss")]
    assert scalars == [(line["step"], pytest.approx(line["loss"])) for line in lines]


@pytest.mark.slow
def test_the_log_tells_each_levels_usage(unfitted, photos, settings, smooth):
    unfitted.fit([smooth(16)])
    steps = 10  # enough for each of 8 or 16 codes to be due ten times
    _, lines = tune(unfitted, photos, settings, codebooks="frozen", steps=steps, config=settings(codebook_steps=0))
    shares = {name: value for name, value in lines[-1].items() if name.startswith("usage@")}
    assert shares
    assert all(0.2 < share <= 1 for share in shares.values())


@pytest.mark.slow
def test_a_perceptual_term_joins_the_loss(trained, photos, settings):
    plain, with_term = (
        tune(trained, photos, settings, codebooks="frozen", config=settings(codebook_steps=0, **change))[1]
        for change in ({}, {"perceptual": "backbone", "perceptual_weight": 2.0})
    )
    assert "perceptual" not in plain[0]
    assert with_term[0]["loss"] == pytest.approx(plain[0]["loss"] + 2 * with_term[0]["perceptual"], abs=1e-5)


@pytest.mark.parametrize("start", ["refit", "continue", "frozen"])
def test_empty_codebooks_cannot_be_tuned(unfitted, photos, settings, start):
    with pytest.raises(NotFittedError, match=f"expected fitted codebooks to {start}, got empty ones"):
        finetune(unfitted, photos, codebooks=start, config=settings(codebook_steps=0), steps=1)


def test_settings_that_contradict_each_other_are_refused(trained, photos, settings, tmp_path):
    with pytest.raises(ConfigError, match='got "fit": train'):
        finetune(trained, photos, codebooks="fit", config=settings())
    with pytest.raises(ConfigError, match='expected codebook_steps 0 with codebooks "frozen", got 4'):
        finetune(trained, photos, codebooks="frozen", config=settings(codebook_steps=4))
    with pytest.raises(ConfigError, match='expected codebook_steps >= 1 with codebooks "continue"'):
        settings(codebooks="continue", codebook_steps=0)
    for change in ({"sheet_every": 2}, {"tensorboard": True}):
        with pytest.raises(ConfigError, match="expected out= for sheets or TensorBoard, got None"):
            train(trained, photos, config=settings(codebooks="refit", **change))
