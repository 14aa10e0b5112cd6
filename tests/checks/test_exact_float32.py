"""Ids are decided in exact float32 products, whatever the caller allowed, on devices with and without float64."""

from __future__ import annotations

import threading

import pytest
import torch

from pyramid_tokenizer.checks import devices
from pyramid_tokenizer.checks.devices import exact_float32
from pyramid_tokenizer.quantizer.fit.levels import fit_quantizer
from pyramid_tokenizer.quantizer.fit.regression import explained, reduced_rank, ridge, whitening
from tests.quantizer.cases import build, features_of, pictures


@pytest.fixture(params=["medium", "high", "highest"])
def allowed(request: pytest.FixtureRequest):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield devices._read_settings()
    torch.set_float32_matmul_precision(before)


def exact() -> bool:
    return set(devices._read_settings().values()) == {devices._EXACT_VALUE}


def test_the_callers_settings_come_back_also_after_an_error_and_from_nested_use(allowed) -> None:
    with pytest.raises(ZeroDivisionError), exact_float32():
        with exact_float32():
            assert exact()
        assert exact()
        raise ZeroDivisionError
    assert devices._read_settings() == allowed


def test_a_thread_that_leaves_does_not_take_the_settings_from_one_that_is_inside(allowed) -> None:
    entered, left = threading.Event(), threading.Event()

    def inside() -> None:
        with exact_float32():
            entered.set()
            left.wait(10)

    thread = threading.Thread(target=inside)
    with exact_float32():
        thread.start()
        entered.wait(10)
    assert exact()
    left.set()
    thread.join()
    assert devices._read_settings() == allowed


def test_backbone_levels_and_fit_run_inside(allowed, toy_tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = torch.addmm

    def spy(*args, **kwargs):
        seen.append(exact())
        return original(*args, **kwargs)

    monkeypatch.setattr(torch, "addmm", spy)
    toy_tokenizer.encode(pictures(1))
    encoded = len(seen)
    fit_quantizer(build("recipe"), lambda: [(features_of(), pictures(3, seed=7))], iterations=1)
    assert 0 < encoded < len(seen)
    assert all(seen)


def test_which_tokens_stay_is_decided_inside(allowed, toy_tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, seen, original = toy_tokenizer.encode(pictures(1)), [], torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda *args, **kwargs: seen.append(exact()) or original(*args, **kwargs))
    toy_tokenizer.gains(tokens)
    assert seen
    assert all(seen)


class WithoutFloat64(torch.Tensor):
    """As a tensor of an Apple GPU: no result may be float64, and `cpu()` gives a plain tensor that has no such limit."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.cpu:
            return args[0].as_subclass(torch.Tensor)
        found = super().__torch_function__(func, types, args, kwargs or {})
        for result in found if isinstance(found, tuple | list) else [found]:
            if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
                raise TypeError(
                    "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64"
                )
        return found


def test_the_statistics_of_a_fit_need_no_float64_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(300, 6, generator=generator), torch.randn(300, 4, generator=generator)
    expected = [*whitening(x), *ridge(x, y), *reduced_rank(x, y, 3)]
    share = explained(x, y, ridge(x, y))
    there, also = x.as_subclass(WithoutFloat64), y.as_subclass(WithoutFloat64)
    with pytest.raises(TypeError, match="float64"):
        whitening(there)  # the double refuses what an Apple GPU refuses
    monkeypatch.setattr(devices, "has_float64", lambda device: False)
    found = [*whitening(there), *ridge(there, also), *reduced_rank(there, also, 3)]
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.as_subclass(torch.Tensor), theirs)
    assert explained(there, also, ridge(there, also)) == share


def test_the_cpu_has_float64_and_a_device_that_refuses_it_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.has_float64(torch.device("cpu"))

    def refuse(*_, **__):
        raise TypeError("no float64 here")

    monkeypatch.setattr(torch, "zeros", refuse)
    assert not devices.has_float64(torch.device("cpu", 7))
