"""A run leaves the process as it found it: randomness, and accelerate's one state for all."""

import copy

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, is_initialized

from pyramid_tokenizer.config.models import SegmentationConfig
from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.training import finetune, train, train_segmentation


@pytest.fixture(autouse=True)
def no_accelerator():
    """Each test starts and ends without a state of accelerate, whatever ran before."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


def quiet(figures):
    """A log that nobody reads."""


def run_stages_1_and_2(tok, photos, settings, **changes):
    return train(copy.deepcopy(tok), photos, config=settings(**changes), log=quiet)


def run_finetune(tok, photos, settings, **changes):
    config = settings(codebook_steps=0, **changes)
    return finetune(copy.deepcopy(tok), photos, codebooks="refit", steps=2, config=config, log=quiet)


@pytest.fixture
def run_stage_3(labelled):
    def run(tok, photos, settings, **changes):
        five = labelled(["red", "green|lime", "blue", "yellow", "black"], 6)
        config = settings(head_steps=2, codebook_steps=0, **changes)
        small = SegmentationConfig(width=8, depth=1)
        return train_segmentation(copy.deepcopy(tok), [five], config=config, segmentation=small, log=quiet)

    return run


@pytest.fixture
def fitted(unfitted, smooth):
    unfitted.fit([smooth(12)])
    return unfitted


def test_training_leaves_the_callers_random_numbers_alone(unfitted, photos, settings, run_stage_3, smooth):
    fitted = copy.deepcopy(unfitted)
    fitted.fit([smooth(12)])
    for run, tok in ((run_stages_1_and_2, unfitted), (run_finetune, fitted), (run_stage_3, fitted)):
        torch.manual_seed(5)
        before = torch.random.get_rng_state()
        run(tok, photos, settings)
        assert torch.equal(torch.random.get_rng_state(), before), run


def test_an_error_in_a_run_leaves_them_alone_too(fitted, photos, settings):
    def fail(figures):
        raise ZeroDivisionError

    before = torch.random.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        train(fitted, photos, config=settings(codebooks="frozen", codebook_steps=0), log=fail)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not is_initialized()


@pytest.mark.slow
def test_runs_of_different_precision_follow_each_other_in_one_process(fitted, photos, settings, run_stage_3):
    for run in (run_finetune, run_stage_3):
        first, half, again = (run(fitted, photos, settings, mixed_precision=kind) for kind in ("no", "bf16", "no"))
        moved = [name for name, tensor in weights(first).items() if not torch.equal(tensor, weights(half)[name])]
        assert moved  # bfloat16 was really used
        assert all(torch.equal(tensor, weights(again)[name]) for name, tensor in weights(first).items())


def weights(trained):
    return trained.state_dict()


def test_a_callers_accelerator_is_used_and_stays(fitted, photos, settings):
    own = Accelerator(mixed_precision="bf16")
    run_finetune(fitted, photos, settings, mixed_precision="bf16")
    assert (own.mixed_precision, own.device.type) == ("bf16", "cpu")
    with pytest.raises(ConfigError, match="'bf16'.*'no'"):
        run_finetune(fitted, photos, settings)
    assert own.mixed_precision == "bf16"


@pytest.mark.gpu
def test_on_a_gpu_its_random_numbers_are_left_alone_too(unfitted, photos, settings):
    torch.cuda.manual_seed(5)
    before = torch.cuda.get_rng_state()
    run_stages_1_and_2(unfitted, photos, settings)
    assert torch.equal(torch.cuda.get_rng_state(), before)
