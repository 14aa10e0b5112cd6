import os

import pytest
import torch

from pyramid_tokenizer.errors import CheckpointError
from pyramid_tokenizer.training.state import load_state, save_state


def test_a_state_comes_back(tmp_path):
    state = {"step": 3, "stage": "toy", "module": {"w": torch.randn(2, 3)}, "list": [1.5, None]}
    save_state(tmp_path / "s.pt", state)
    loaded = load_state(tmp_path / "s.pt")
    assert torch.equal(loaded["module"].pop("w"), state["module"].pop("w"))
    assert loaded == state
    assert os.listdir(tmp_path) == ["s.pt"]


def test_no_file_is_no_state(tmp_path):
    assert load_state(tmp_path / "s.pt") is None


def test_torchs_own_error_of_a_full_disk_is_ours(tmp_path, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file data/0")

    save_state(tmp_path / "s.pt", {"step": 1})
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match=r"s\.pt"):
        save_state(tmp_path / "s.pt", {"step": 2})
    assert load_state(tmp_path / "s.pt") == {"step": 1}
    assert os.listdir(tmp_path) == ["s.pt"]


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="expected to write"):
        save_state(tmp_path / "nowhere" / "s.pt", {"step": 1})


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut"])
def test_a_damaged_file_is_an_error(tmp_path, content):
    (tmp_path / "s.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="got a damaged file .*: delete it to start anew"):
        load_state(tmp_path / "s.pt")


def test_code_is_not_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"step": Bomb()}, tmp_path / "s.pt")
    with pytest.raises(CheckpointError, match="damaged"):
        load_state(tmp_path / "s.pt")
    assert not (tmp_path / "ran").exists()


def test_something_else_than_a_state_is_an_error(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "s.pt")
    with pytest.raises(CheckpointError, match="expected a training state in .*, got a Tensor"):
        load_state(tmp_path / "s.pt")
