"""The whole of `train`: what it makes, and that a run which was cut short ends as one that was not."""

import copy
import json
import math
from types import SimpleNamespace

import pytest
import torch

from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.errors import CheckpointError, ConfigError, DataError
from pyramid_tokenizer.images.read import read_image
from pyramid_tokenizer.training import train
from pyramid_tokenizer.training.train import print_log


class Interruption(Exception):
    """Stands in for a lost machine."""


def stop_at(stage, step, log=None):
    def stop(figures):
        if log is not None:
            log(figures)
        if (figures["stage"], figures["step"]) == (stage, step):
            raise Interruption

    return stop


def run(tok, photos, out, config, log=lambda figures: None, **options):
    return train(copy.deepcopy(tok), photos, out=out, config=config, log=log, **options)


def state_of(tok):
    return {name: tensor.clone() for name, tensor in tok.own_tensors().items()}


def assert_same(first, second):
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def figures(lines):
    """By stage and step, without what depends on the clock."""
    keep = [{n: v for n, v in line.items() if n != "images_per_second"} for line in lines]
    return {(line["stage"], line["step"]): line for line in keep}


@pytest.fixture(scope="module")
def whole(make_unfitted, make_settings, photos, tmp_path_factory):
    """A run that nothing interrupts: its folder, its tokenizer and the lines of its log."""
    folder, lines = tmp_path_factory.mktemp("runs") / "whole", []
    tok = run(make_unfitted(), photos, folder, make_settings(), lines.append)
    return SimpleNamespace(folder=folder, tok=tok, lines=lines)


def test_a_run_fits_refines_trains_and_saves(whole):
    tok, lines = whole.tok, whole.lines
    assert [(line["stage"], line["step"], line["steps"]) for line in lines] == [
        *(("fit", level, 2) for level in (1, 2)),
        *(("codebooks", step, 4) for step in (1, 2, 3, 4)),
        *(("refit", level, 2) for level in (1, 2)),  # once more, where the gradients have led
        *(("decoder", step, 4) for step in (1, 2, 3, 4)),
    ]
    assert all(math.isfinite(value) for line in lines for value in line.values() if not isinstance(value, str))
    assert not any(p.requires_grad for p in tok.parameters())
    assert not tok.training
    loaded = PyramidTokenizer.from_pretrained(whole.folder)
    assert_same(state_of(tok), state_of(loaded))
    assert loaded.fingerprint == tok.fingerprint
    assert not list((whole.folder / ".training").glob("*.pt*"))  # a finished run needs them no more


def test_a_stage_trains_its_own_parts_alone(unfitted, photos, tmp_path, settings):
    fitted = state_of(run(unfitted, photos, tmp_path / "0", settings(codebook_steps=0, decoder_steps=0)))
    refined = state_of(run(unfitted, photos, tmp_path / "1", settings(codebook_steps=1, decoder_steps=0)))
    decoded = state_of(run(unfitted, photos, tmp_path / "2", settings(codebook_steps=0, decoder_steps=3)))
    for name, tensor in fitted.items():
        ids = name.startswith("quantizer.")
        trains = ids and name.split(".")[-1] not in ("mean", "std", "text_weight")
        assert torch.equal(tensor, refined[name]) != trains, name
        assert torch.equal(tensor, decoded[name]) or not ids, name
    changed = [name for name in fitted if not torch.equal(fitted[name], decoded[name])]
    assert {name.split(".")[0] for name in changed} == {"trunk", "pixel_decoder"}


def test_another_seed_makes_another_run(unfitted, photos, tmp_path, settings, whole):
    other = state_of(run(unfitted, photos, tmp_path / "other", settings(seed=1, decoder_steps=0)))
    assert not torch.equal(state_of(whole.tok)["quantizer.levels.1.codebook"], other["quantizer.levels.1.codebook"])


@pytest.mark.parametrize(
    ("stage", "step"),
    [
        pytest.param("fit", 1, marks=pytest.mark.slow),
        ("codebooks", 3),
        pytest.param("decoder", 1, marks=pytest.mark.slow),
        ("decoder", 4),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(unfitted, photos, tmp_path, settings, whole, stage, step):
    cut, resumed_lines = [], []
    with pytest.raises(Interruption):
        run(unfitted, photos, tmp_path, settings(), stop_at(stage, step, cut.append))
    torch.rand(7)
    resumed = run(unfitted, photos, tmp_path, settings(workers=0), resumed_lines.append)
    assert_same(state_of(whole.tok), state_of(resumed))
    assert_same(state_of(whole.tok), state_of(PyramidTokenizer.from_pretrained(tmp_path)))
    assert figures(cut) | figures(resumed_lines) == figures(whole.lines)
    stages = [line["stage"] for line in resumed_lines]
    earlier = {"fit": [], "codebooks": ["fit"], "decoder": ["fit", "codebooks"]}[stage]
    assert not set(earlier) & set(stages)  # what was done is not done again


@pytest.mark.slow
def test_a_stage_starts_again_where_its_last_state_was_saved(unfitted, photos, tmp_path, settings):
    with pytest.raises(Interruption):
        run(unfitted, photos, tmp_path, settings(decoder_steps=6), stop_at("decoder", 5))
    lines = []
    run(unfitted, photos, tmp_path, settings(decoder_steps=6), lines.append)
    assert [line["step"] for line in lines] == [5, 6]  # saved after the fourth, for save_every is 2


def test_a_finished_run_is_not_done_again(unfitted, photos, settings, whole):
    lines = []
    assert_same(state_of(whole.tok), state_of(run(unfitted, photos, whole.folder, settings(), lines.append)))
    assert lines == []


def test_other_settings_do_not_resume(unfitted, photos, tmp_path, settings):
    with pytest.raises(Interruption):
        run(unfitted, photos, tmp_path, settings(), stop_at("fit", 1))
    for name, value in {"decoder_lr": 1e-4, "decoder_steps": 9, "seed": 3, "pixel_loss": "l1"}.items():
        with pytest.raises(CheckpointError, match=name):
            run(unfitted, photos, tmp_path, settings(**{name: value}))


def test_another_tokenizer_or_other_images_do_not_resume(unfitted, toy_config, photos, tmp_path, settings):
    with pytest.raises(Interruption):
        run(unfitted, photos, tmp_path, settings(), stop_at("fit", 1))
    with pytest.raises(CheckpointError, match="tokenizer"):
        run(PyramidTokenizer.from_config(toy_config), photos, tmp_path, settings(crop_px=32))
    with pytest.raises(CheckpointError, match="'images': 12}, got {'images': 11}"):
        run(unfitted, photos[:11], tmp_path, settings())


@pytest.mark.parametrize("content", ["{", "[1]", "3"])
def test_damaged_settings_are_an_error(unfitted, photos, tmp_path, settings, content):
    (tmp_path / ".training").mkdir()
    (tmp_path / ".training" / "settings.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"settings.*to start anew"):
        run(unfitted, photos, tmp_path, settings())


def test_settings_are_kept_as_plain_json(whole):
    kept = json.loads((whole.folder / ".training" / "settings.json").read_text())
    assert (kept["crop_px"], kept["images"], kept["tokenizer"]["backbone"]["kind"]) == (32, 12, "toy")
    assert "log_every" not in kept


def test_a_fitted_tokenizer_is_not_fitted_again(unfitted, photos, tmp_path, settings, smooth):
    unfitted.fit([smooth(16)])
    fingerprint, lines = unfitted.fingerprint, []
    tok = run(unfitted, photos, tmp_path, settings(codebook_steps=0, decoder_steps=2), lines.append)
    assert {line["stage"] for line in lines} == {"decoder"}
    assert tok.fingerprint == fingerprint


def test_a_crop_that_does_not_fit_is_an_error(unfitted, photos, tmp_path, settings):
    with pytest.raises(ConfigError, match="crop_px.*32, got 48"):
        run(unfitted, photos, tmp_path, settings(crop_px=48))


def test_a_cast_tokenizer_is_an_error(unfitted, photos, tmp_path, settings):
    with pytest.raises(ConfigError, match="expected a float32 tokenizer, got torch.bfloat16: set mixed_precision"):
        run(unfitted.to(torch.bfloat16), photos, tmp_path, settings())


def test_too_few_or_unreadable_images_are_an_error(unfitted, photos, tmp_path, settings):
    with pytest.raises(ConfigError, match=r"fit_images .* of at least 2, .* \(8, 16\) .* got 1"):
        run(unfitted, photos, tmp_path / "few", settings(batch_size=1, fit_images=1))
    with pytest.raises(DataError, match="expected at least one image, got an empty list"):
        run(unfitted, [], tmp_path / "none", settings())
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(DataError, match="in a row that cannot"):
        run(unfitted, [tmp_path / "empty.png"], tmp_path / "bad", settings())


def test_half_is_stored_and_not_trained(unfitted, photos, tmp_path, settings):
    tok = run(unfitted, photos, tmp_path, settings(codebook_steps=0, decoder_steps=1), half=True)
    assert tok.dtype == torch.float32
    loaded = PyramidTokenizer.from_pretrained(tmp_path)
    assert loaded.fingerprint == tok.fingerprint
    assert torch.equal(loaded.pixel_decoder.to_pixels.weight, tok.pixel_decoder.to_pixels.weight.half().float())


@pytest.mark.slow
def test_bfloat16_training_keeps_the_quantizer_in_float32(unfitted, photos, tmp_path, settings):
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)  # accelerate allows one precision per process
    try:
        tok = run(
            unfitted, photos, tmp_path / "bf16", settings(mixed_precision="bf16", codebook_steps=0, decoder_steps=2)
        )
    finally:
        AcceleratorState._reset_state(True)
    exact = run(unfitted, photos, tmp_path / "float32", settings(codebook_steps=0, decoder_steps=2))
    assert tok.fingerprint == exact.fingerprint
    assert {t.dtype for t in tok.own_tensors().values()} == {torch.float32}


def test_a_line_of_the_log_reads_stage_step_and_figures(capsys):
    print_log({"stage": "fit", "step": 1, "steps": 3, "vectors": 640, "loss": 0.123456})
    assert capsys.readouterr().out == "fit 1/3 vectors 640 loss 0.1235\n"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .*is multi-threaded:DeprecationWarning")  # fork, from Python 3.12 on
def test_loader_processes_change_nothing(unfitted, photos, tmp_path, settings):
    alone = run(unfitted, photos, tmp_path / "0", settings())
    with pytest.raises(Interruption):
        run(unfitted, photos, tmp_path / "2", settings(workers=2), stop_at("codebooks", 3))
    assert_same(state_of(alone), state_of(run(unfitted, photos, tmp_path / "2", settings(workers=2))))
    assert_same(state_of(alone), state_of(run(unfitted, photos, tmp_path / "1", settings(workers=1))))


@pytest.mark.slow
def test_training_makes_the_linear_reconstruction_and_the_decoded_image_better(unfitted, photos, tmp_path, settings):
    lines = []
    config = settings(
        codebook_steps=150, decoder_steps=150, batch_size=8, warmup_steps=10, decoder_lr=2e-3, ema_decay=0.9
    )
    fitted = run(unfitted, photos, tmp_path / "0", settings(codebook_steps=0, decoder_steps=0, batch_size=8))
    tok = run(unfitted, photos, tmp_path / "1", config, lines.append)
    for stage in ("codebooks", "decoder"):
        losses = [line["loss"] for line in lines if line["stage"] == stage]
        assert sum(losses[-20:]) < sum(losses[:20]) - 20 * 0.01
    gains = [line["gain"] for line in lines if line["stage"] == "decoder"]
    assert gains[0] == 0  # training starts exactly at the linear reconstruction
    assert sum(gains[-20:]) / 20 > 0.3
    seen = torch.stack([read_image(path) for path in photos])
    errors = [float((t.reconstruct(seen) - seen).square().mean()) for t in (fitted, tok)]
    assert errors[1] < 0.9 * errors[0]
