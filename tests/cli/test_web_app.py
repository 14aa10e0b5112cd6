"""`app`: the address is told, an interruption is its end, and what is wrong is told before a page is served."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import ClassVar

import pytest

from pyramid_tokenizer.app import page, server, workbench


class Interrupted:
    """A server that is interrupted at once."""

    address = "http://127.0.0.1:7861"
    calls: ClassVar[list[object]] = []
    """What was served where, and None for each that was closed."""

    def wait(self) -> None:
        raise KeyboardInterrupt

    def close(self) -> None:
        self.calls.append(None)


@pytest.fixture
def served(monkeypatch) -> type[Interrupted]:
    def serve(bench, **where):
        Interrupted.calls.append((bench, where))
        return Interrupted()

    monkeypatch.setattr(Interrupted, "calls", [])
    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr(page, "require_gradio", lambda: None)
    monkeypatch.setattr(workbench, "common_words", lambda: ("cat", "dog"))  # hundreds take a second
    return Interrupted


def test_the_page_is_served_until_it_is_interrupted(run, model, here, served):
    done = run("app", "--model", model, "--port", 7861, "--size", 128, "--text-cache", "none")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("app: http://127.0.0.1:7861 ")
    (bench, where), closed = served.calls
    assert (bench.title, bench.size, bench.dataset, closed) == ("toy", 128, None, None)
    assert where == {"host": "127.0.0.1", "port": 7861}


def test_a_process_that_is_told_to_end_closes_the_page_too(run, model, here, served, monkeypatch):
    monkeypatch.setattr(served, "wait", lambda self: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    assert run("app", "--model", model, "--text-cache", "none").exit_code == 0
    assert served.calls[-1] is None and signal.getsignal(signal.SIGTERM) == before


def test_with_json_the_address_is_on_stderr_at_once_and_in_the_object_at_the_end(run, model, here, served):
    done = run("app", "--model", model, "--text-cache", "none", "--json")
    assert done.stderr.startswith("app: http://127.0.0.1:7861 ")
    assert json.loads(done.stdout)["lines"] == [done.stderr.strip()]


def test_a_folder_that_is_no_dataset_is_an_error(run, model, here, served):
    done = run("app", "--model", model, "--dataset", "nothing")
    assert done.exit_code == 1 and "nothing" in done.stderr and not served.calls


def test_without_gradio_the_extra_is_named_before_a_model_is_loaded(run, here, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    done = run("app", "--model", "no-such-model")
    assert done.exit_code == 1 and "pyramid-tokenizer[app]" in done.stderr
