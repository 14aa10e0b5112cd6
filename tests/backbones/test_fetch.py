"""What happens to a model of the Hub, or to a tag, where the network does not answer. No test asks a network."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import HfHubHTTPError

from pyramid_tokenizer.backbones import load_backbone
from pyramid_tokenizer.config.models import BackboneConfig
from pyramid_tokenizer.errors import BackboneError
from tests.backbones.conftest import MODEL_CONFIGS
from tests.backbones.test_loading import CONFIG, WEIGHTS, Hub, load, register


@pytest.fixture
def folder(checkpoint_of: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint_of("vit"), tmp_path / "backbone"))


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub's client would ask the network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("pyramid_tokenizer.backbones.fetch.ANSWER_SECONDS", 0.05)


class NoRoute(Exception):
    """Stands in for an error of the HTTP library below the Hub's client."""


def silent(*_: Any, **__: Any) -> None:
    time.sleep(0.3)


def refusing(*_: Any, **__: Any) -> None:
    raise NoRoute("no route to host")


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize(
    ("ask", "told"), [(silent, "TimeoutError: none within 0.05 s"), (refusing, "NoRoute: no route")]
)
@pytest.mark.parametrize(
    "config", [{"name": "hf-hub:someone/model"}, {"name": "ViT-B-16", "pretrained": "openai"}], ids=["name", "tag"]
)
def test_a_hub_that_does_not_answer_is_asked_once_and_then_the_cache_alone(
    config: dict[str, Any], ask: Any, told: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", ask)
    hub = Hub(monkeypatch, folder, ())
    with pytest.raises(BackboneError, match=f"no answer .*{told}.* no copy in the cache.*local_files_only") as caught:
        load_backbone(BackboneConfig(**config))
    assert "\n" not in str(caught.value)
    assert [options["local_files_only"] for *_, options in hub.calls] == [True] * len(hub.calls)


@pytest.mark.usefixtures("online")
def test_without_an_answer_a_model_of_the_cache_is_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", refusing)
    Hub(monkeypatch, folder, (CONFIG, WEIGHTS))
    assert load_backbone(BackboneConfig(name="hf-hub:someone/model")).fingerprint == load(folder).fingerprint


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize(("status", "local"), [(None, False), (401, False), (404, False), (503, True)])
def test_a_refusal_is_an_answer_and_a_broken_server_is_none(
    status: int | None, local: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(*_: Any, **__: Any) -> None:
        if status is not None:
            response = SimpleNamespace(status_code=status, headers={}, request=None)
            raise HfHubHTTPError("refused", response=response)

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", answer)
    hub = Hub(monkeypatch, folder, (CONFIG, WEIGHTS))
    load_backbone(BackboneConfig(name="hf-hub:someone/model"))
    assert {options["local_files_only"] for *_, options in hub.calls} == {local}


@pytest.mark.usefixtures("online")
def test_an_address_that_nobody_serves_is_told_and_nothing_waits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket() as unserved:  # it takes connections and never answers
        unserved.bind(("127.0.0.1", 0))
        unserved.listen()
        tag = {"url": f"http://127.0.0.1:{unserved.getsockname()[1]}/w.pt", "mean": (0.5,) * 3, "std": (0.3,) * 3}
        register(monkeypatch, "ViT-Tiny", MODEL_CONFIGS["vit"], tag=tag)
        with pytest.raises(BackboneError, match="no answer from the network"):
            load_backbone(BackboneConfig(name="ViT-Tiny", pretrained="tag"), cache_dir=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["closed", "silent"])
def test_without_a_network_the_clients_own_code_ends_within_ten_seconds(kind: str, tmp_path: Path) -> None:
    script = """
import time
from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.errors import BackboneError, ModelNotFoundError
import huggingface_hub, open_clip
for call in (
    lambda: PyramidTokenizer.from_backbone("ViT-B-32", pretrained="openai"),
    lambda: PyramidTokenizer.from_backbone("hf-hub:someone/model"),
    lambda: PyramidTokenizer.from_pretrained("someone/model"),
):
    start = time.monotonic()
    try:
        call()
    except (BackboneError, ModelNotFoundError) as error:
        print(time.monotonic() - start, type(error).__name__, error)
"""
    with socket.socket() as unserved:
        unserved.bind(("127.0.0.1", 0))
        if kind == "silent":
            unserved.listen()
        endpoint = f"http://127.0.0.1:{unserved.getsockname()[1]}"
        environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "no_proxy": "127.0.0.1"}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["BackboneError", "BackboneError", "ModelNotFoundError"]
    assert all("no answer from the" in line and "local_files_only=True" in line for line in lines)
    assert max(float(line.split()[0]) for line in lines) < 10
