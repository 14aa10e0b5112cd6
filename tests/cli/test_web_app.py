"""`app`: the address is told, an interruption is its end, and what is wrong is told before a page is served."""

from __future__ import annotations

import json
import sys

import pytest

from pyramid_tokenizer.app import page, server, workbench


@pytest.fixture
def served(monkeypatch) -> list[object]:
    """What was served where, by a server that is interrupted at once, and None for each that was closed."""
    calls: list[object] = []

    class Interrupted:
        address = "http://127.0.0.1:7861"

        def wait(self) -> None:
            raise KeyboardInterrupt

        def close(self) -> None:
            calls.append(None)

    def serve(bench, **where):
        calls.append((bench, where))
        return Interrupted()

    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr(page, "import_gradio", lambda: None)
    monkeypatch.setattr(workbench, "common_words", lambda: ("cat", "dog"))  # hundreds take a second
    return calls


def test_the_page_is_served_until_it_is_interrupted(run, model, here, served):
    done = run("app", "--model", model, "--port", 7861, "--size", 128, "--text-cache", "none")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("app: http://127.0.0.1:7861 ")
    (bench, where), closed = served
    assert (bench.title, bench.size, bench.dataset, closed) == ("toy", 128, None, None)
    assert where == {"host": "127.0.0.1", "port": 7861}


def test_with_json_the_address_is_on_stderr_at_once_and_in_the_object_at_the_end(run, model, here, served):
    done = run("app", "--model", model, "--text-cache", "none", "--json")
    assert done.stderr.startswith("app: http://127.0.0.1:7861 ")
    assert json.loads(done.stdout)["lines"] == [done.stderr.strip()]


def test_a_folder_that_is_no_dataset_is_an_error(run, model, here, served):
    done = run("app", "--model", model, "--dataset", "nothing")
    assert done.exit_code == 1 and "nothing" in done.stderr and not served


def test_without_gradio_the_extra_is_named_before_a_model_is_loaded(run, here, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    done = run("app", "--model", "no-such-model")
    assert done.exit_code == 1 and "pyramid-tokenizer[app]" in done.stderr
