"""The disk cache: the same bits or none, whatever happens to its files; and what its key is made of."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pyramid_tokenizer.backbones import ToyBackbone
from pyramid_tokenizer.errors import BackboneError
from pyramid_tokenizer.text import TextEncoder, text_fingerprint

MakeBackbone = Callable[[], Any]
WORDS = ["car|automobile", "dog", "potted plant"]


def test_a_second_encoder_gets_equal_bits_and_asks_the_backbone_nothing(
    tmp_path: Path, make_backbone: MakeBackbone
) -> None:
    first = TextEncoder(make_backbone(), cache_dir=tmp_path / "made").encode_names(WORDS, background=["road"])
    tower = make_backbone()
    again = TextEncoder(tower, cache_dir=str(tmp_path / "made")).encode_names(WORDS, background=["road"])
    assert torch.equal(first.embeddings, again.embeddings)
    assert tower.asked == 0


def test_the_order_of_names_is_not_part_of_the_key(tmp_path: Path, make_backbone: MakeBackbone) -> None:
    rows = TextEncoder(make_backbone(), cache_dir=tmp_path).encode(["dog", "cat"])
    tower = make_backbone()
    assert torch.equal(TextEncoder(tower, cache_dir=tmp_path).encode(["cat", "dog"]), rows.flip(0))
    assert tower.asked == 0


@pytest.mark.parametrize("change", ["names", "templates", "weights", "dtype"])
def test_the_key_changes_with_all_that_determines_embeddings(
    change: str, tmp_path: Path, make_backbone: MakeBackbone
) -> None:
    TextEncoder(make_backbone(), cache_dir=tmp_path).encode(["dog", "cat"])
    tower = make_backbone()
    if change == "weights":
        tower.projection.data[0] += 1e-6
    if change == "dtype":
        tower.half()
    templates = "photo" if change == "templates" else "default"
    words = ["dog", "cat ." if change == "names" else "cat"]
    TextEncoder(tower, cache_dir=tmp_path).encode(words, templates=templates)
    assert tower.asked > 0
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "foreign", "folder"])
def test_a_damaged_or_foreign_file_is_ignored_with_a_warning(
    damage: str, tmp_path: Path, make_backbone: MakeBackbone
) -> None:
    rows = TextEncoder(make_backbone(), cache_dir=tmp_path).encode(["dog"])
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    if damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        other = TextEncoder(make_backbone(), cache_dir=tmp_path / "other")
        other.encode(["cat"])
        foreign = next((tmp_path / "other").iterdir()).read_bytes()
        flipped = good[:-40] + bytes([good[-40] ^ 1]) + good[-39:]  # a bit of a number
        file.write_bytes({"cut": good[:-9], "flipped": flipped, "emptied": b"", "foreign": foreign}[damage])
    with pytest.warns(UserWarning, match="made and written anew|can be written"):
        again = TextEncoder(make_backbone(), cache_dir=tmp_path).encode(["dog"])
    assert torch.equal(again, rows)
    if damage != "folder":
        assert file.read_bytes() == good


def test_a_folder_that_cannot_be_written_costs_a_warning_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_backbone: MakeBackbone
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="not kept on disk"):
        rows = TextEncoder(make_backbone(), cache_dir=tmp_path / "file" / "cache").encode(["dog"])
    assert torch.equal(rows, TextEncoder(make_backbone()).encode(["dog"]))

    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.warns(UserWarning, match="not kept on disk"):
        TextEncoder(make_backbone(), cache_dir=tmp_path / "cache").encode(["dog"])
    assert list((tmp_path / "cache").iterdir()) == []


def test_writers_at_the_same_time_leave_one_whole_file(tmp_path: Path, make_backbone: MakeBackbone) -> None:
    names = [f"thing {i}" for i in range(50)]
    encoders = [TextEncoder(make_backbone(), cache_dir=tmp_path) for _ in range(8)]
    threads = [threading.Thread(target=encoder.encode, args=(names,)) for encoder in encoders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(tmp_path.iterdir())) == 1
    tower = make_backbone()
    TextEncoder(tower, cache_dir=tmp_path).encode(names)
    assert tower.asked == 0


def test_auto_is_the_users_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_backbone: MakeBackbone
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    TextEncoder(make_backbone(), cache_dir="auto").encode(["dog"])
    assert len(list((tmp_path / "xdg" / "pyramid-tokenizer" / "text").glob("*.safetensors"))) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # invalid by its specification
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    TextEncoder(make_backbone(), cache_dir="auto").encode(["dog"])
    assert len(list((tmp_path / "home" / ".cache" / "pyramid-tokenizer" / "text").iterdir())) == 1


class OpenClipLike(nn.Module):
    """The parts of an `OpenClipBackbone` that its text fingerprint reads."""

    def __init__(self, **text_config: Any) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = nn.ModuleDict({"visual": nn.Linear(3, 4), "transformer": nn.Linear(4, 4)})
        self._model_config = {"text_cfg": {"heads": 2, **text_config}, "quick_gelu": False}


def test_the_fingerprint_is_that_of_the_text_side_alone() -> None:
    before = text_fingerprint(OpenClipLike())
    tower = OpenClipLike()
    nn.init.zeros_(tower.model["visual"].weight)
    assert text_fingerprint(tower) == before
    tower.model["transformer"].bias.data[0] += 1e-6
    assert text_fingerprint(tower) != before


def test_the_fingerprint_tells_the_text_config_and_the_dtype_apart() -> None:
    quick = OpenClipLike()
    quick._model_config["quick_gelu"] = True
    towers = [OpenClipLike(), OpenClipLike(heads=4), OpenClipLike(hf_tokenizer_name="other"), quick]
    assert len({text_fingerprint(tower) for tower in [*towers, OpenClipLike().bfloat16()]}) == 5


def test_a_backbone_without_readable_weights_is_refused_only_with_a_disk_cache(tmp_path: Path) -> None:
    class Remote:
        embedding_dim = 16
        encode_text = staticmethod(ToyBackbone().encode_text)

    assert TextEncoder(Remote()).encode(["dog"]).shape == (1, 16)
    with pytest.raises(BackboneError, match="expected a torch module, got Remote"):
        TextEncoder(Remote(), cache_dir=tmp_path).encode(["dog"])


@pytest.mark.slow
def test_the_bundled_backbone_has_the_text_config_that_is_read() -> None:
    from pyramid_tokenizer import PyramidTokenizer

    backbone = PyramidTokenizer.from_pretrained("tiny").backbone
    before = text_fingerprint(backbone)
    assert backbone._model_config["text_cfg"]
    assert any(name.startswith("model.visual.") for name in backbone.state_dict())
    backbone._model_config["quick_gelu"] = not backbone._model_config.get("quick_gelu", False)
    assert text_fingerprint(backbone) != before
