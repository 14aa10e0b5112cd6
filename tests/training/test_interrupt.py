"""Signals while a stage trains: the state is saved, and the run goes on from the very step."""

import signal
import threading

import pytest
import torch

from pyramid_tokenizer.training.interrupt import SIGNALS, StopRequest, leave_signals_to_the_parent
from pyramid_tokenizer.training.state import load_state
from tests.training.test_loop import Toy, run


@pytest.fixture(autouse=True)
def handlers():
    own = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with Ctrl-C ignored
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield before
    left = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in own.items():
        signal.signal(number, handler)
    assert left == before


@pytest.mark.parametrize(
    ("number", "error", "code"), [(signal.SIGINT, KeyboardInterrupt, None), (signal.SIGTERM, SystemExit, 143)]
)
def test_a_signal_ends_the_stage_after_the_step_it_is_at(tmp_path, caplog, number, error, code):
    whole = Toy()
    run(whole, tmp_path / "whole.pt")

    def raise_at_two(figures):
        if figures["step"] == 2:
            signal.raise_signal(number)

    with pytest.raises(error) as caught:
        run(Toy(), tmp_path / "cut.pt", raise_at_two)
    assert getattr(caught.value, "code", None) == code
    assert "stopped after step 2" in caplog.text
    assert load_state(tmp_path / "cut.pt")["step"] == 2
    resumed = Toy()
    assert run(resumed, tmp_path / "cut.pt").asked == list(range(2, 8))
    assert torch.equal(resumed.weight, whole.weight)


def test_a_signal_in_the_last_step_leaves_a_finished_state(tmp_path):
    def raise_at_the_end(figures):
        if figures["step"] == 8:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(Toy(), tmp_path / "s.pt", raise_at_the_end)
    whole, resumed = Toy(), Toy()
    run(whole, tmp_path / "whole.pt")
    assert run(resumed, tmp_path / "s.pt").asked == []
    assert torch.equal(resumed.weight, whole.weight)


def test_a_signal_too_late_for_the_loop_is_not_lost(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(Toy(), tmp_path / "s.pt", sheet=lambda name, step: signal.raise_signal(signal.SIGINT))


def test_the_second_signal_does_not_wait(handlers):
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal is signal.SIGINT
        assert signal.getsignal(signal.SIGINT) == handlers[signal.SIGINT]
        signal.raise_signal(signal.SIGINT)


def test_another_thread_trains_without_handlers(tmp_path):
    stage = Toy()
    thread = threading.Thread(target=run, args=(stage, tmp_path / "s.pt"))
    thread.start()
    thread.join()
    assert load_state(tmp_path / "s.pt")["step"] == 8


def test_processes_that_load_data_ignore_ctrl_c_and_can_be_ended():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with StopRequest():
            leave_signals_to_the_parent(0)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
