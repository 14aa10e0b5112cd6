"""Models to the Hub and back through the Hub's own client, against a stand-in of its HTTP API on the loopback."""

from __future__ import annotations

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

from pyramid_tokenizer.errors import HubError, ModelNotFoundError
from pyramid_tokenizer.hub import resolve_model
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from tests.hub.hub_server import HubServer, Repository, running_hub


@pytest.fixture
def server(monkeypatch, tmp_path):
    """The stand-in, which the client takes for the Hub; its cache is new."""
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.address)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


@pytest.fixture(scope="module")
def files(toy_tokenizer, tmp_path_factory) -> dict[str, bytes]:
    """The files of a saved model, by their names."""
    folder = toy_tokenizer.save_pretrained(tmp_path_factory.mktemp("saved") / "model")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def repository(server, files) -> Repository:
    """user/toy, with one commit."""
    server.repositories["user/toy"] = Repository()
    server.repositories["user/toy"].commit(files)
    return server.repositories["user/toy"]


def fetched(server: HubServer) -> set[str]:
    return {line.split("/", 5)[-1] for line in server.asked if line.startswith("GET /user/")}


def test_a_pushed_model_comes_back(toy_tokenizer, server, smooth, files):
    address = toy_tokenizer.push_to_hub("user/toy", token="good", license="mit", datasets=["coco"])
    assert address == f"{server.address}/user/toy/commit/{server.repositories['user/toy'].revision('main')}"
    sent = server.repositories["user/toy"].commits[address.rsplit("/", 1)[-1]]
    assert {name: data for name, data in sent.items() if name != "README.md"} == {
        name: data for name, data in files.items() if name != "README.md"
    }
    card = huggingface_hub.ModelCard(sent["README.md"].decode())
    assert (card.data.library_name, card.data.pipeline_tag) == ("pyramid-tokenizer", "image-feature-extraction")
    assert (card.data.license, card.data.datasets) == ("mit", ["coco"])
    assert 'PyramidTokenizer.from_pretrained("user/toy")' in card.text
    tok = PyramidTokenizer.from_pretrained("user/toy")
    assert tok.fingerprint == toy_tokenizer.fingerprint
    assert torch.equal(tok.reconstruct(smooth(1)), toy_tokenizer.reconstruct(smooth(1)))


def test_pickles_code_and_unknown_files_are_neither_fetched_nor_sent(
    toy_tokenizer, server, repository, files, tmp_path
):
    strangers = [
        "pytorch_model.bin",
        "model.py",
        "backbone/a.pt",
        "backbone/b.pkl",
        "setup.cfg",
        "more/model.safetensors",
    ]
    repository.commit(dict.fromkeys(strangers, b"\x80\x04."))
    PyramidTokenizer.from_pretrained("user/toy")
    assert fetched(server) == set(files)
    folder = resolve_model("user/toy")
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == sorted(files)


def test_names_that_lead_out_of_the_cache_are_not_written(server, repository, tmp_path):
    repository.commit({"backbone/../../../../evil.json": b"{}", "backbone/..\\..\\evil.json": b"{}"})
    with pytest.raises(ModelNotFoundError):
        resolve_model("user/toy")
    assert not [path for path in tmp_path.rglob("evil.json") if path.parent.name != "backbone"]
    assert not (tmp_path.parent / "evil.json").exists()


def test_a_revision_is_pinned(toy_tokenizer, other_tokenizer, server, repository, tmp_path):
    first = repository.revision("main")
    other_tokenizer.push_to_hub("user/toy")
    assert PyramidTokenizer.from_pretrained("user/toy").fingerprint == other_tokenizer.fingerprint
    assert PyramidTokenizer.from_pretrained("user/toy", revision=first).fingerprint == toy_tokenizer.fingerprint
    with pytest.raises(ModelNotFoundError, match=r"revision 'v9', got no such branch, tag or commit"):
        PyramidTokenizer.from_pretrained("user/toy", revision="v9")


def test_what_was_fetched_once_is_read_without_the_hub(toy_tokenizer, server, repository, monkeypatch):
    PyramidTokenizer.from_pretrained("user/toy")
    asked = len(server.asked)
    assert PyramidTokenizer.from_pretrained("user/toy", local_files_only=True).fingerprint == toy_tokenizer.fingerprint
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert PyramidTokenizer.from_pretrained("user/toy").fingerprint == toy_tokenizer.fingerprint
    assert len(server.asked) == asked
    with pytest.raises(ModelNotFoundError, match="user/other"):
        PyramidTokenizer.from_pretrained("user/other")


def test_a_hub_that_is_gone_leaves_the_copy_in_the_cache(toy_tokenizer, server, repository):
    PyramidTokenizer.from_pretrained("user/toy")
    server.shutdown()
    server.server_close()
    assert PyramidTokenizer.from_pretrained("user/toy").fingerprint == toy_tokenizer.fingerprint


def test_a_gated_and_a_private_repository_need_a_token(toy_tokenizer, server, repository):
    repository.gated = True
    with pytest.raises(ModelNotFoundError, match="restricted access"):
        PyramidTokenizer.from_pretrained("user/toy", token=False)
    assert PyramidTokenizer.from_pretrained("user/toy", token="good").fingerprint == toy_tokenizer.fingerprint
    server.repositories["user/own"] = Repository(commits=repository.commits, private=True)
    with pytest.raises(ModelNotFoundError, match="none of that name"):
        PyramidTokenizer.from_pretrained("user/own", token="bad")


def test_a_connection_that_is_cut_goes_on_where_it_stopped(toy_tokenizer, server, repository):
    server.cuts["model.safetensors"] = 1
    assert PyramidTokenizer.from_pretrained("user/toy").fingerprint == toy_tokenizer.fingerprint
    assert server.cuts["model.safetensors"] == 0


@pytest.mark.slow
def test_a_download_that_breaks_leaves_no_model_and_the_next_call_completes_it(toy_tokenizer, server, repository):
    server.cuts["model.safetensors"] = 10**6
    with pytest.raises(ModelNotFoundError, match="got no answer from the Hub and no complete copy"):
        PyramidTokenizer.from_pretrained("user/toy")
    server.cuts.clear()
    assert PyramidTokenizer.from_pretrained("user/toy").fingerprint == toy_tokenizer.fingerprint


def test_a_hub_that_is_busy_is_asked_again(toy_tokenizer, server, repository):
    server.failures["model.safetensors"] = 1
    assert PyramidTokenizer.from_pretrained("user/toy").fingerprint == toy_tokenizer.fingerprint


def test_a_push_that_is_refused_says_so(toy_tokenizer, server, repository):
    repository.gated = True
    with pytest.raises(HubError, match="user/toy"):
        toy_tokenizer.push_to_hub("user/toy", token="bad")
