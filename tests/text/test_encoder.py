"""`TextEncoder`: how prompts are averaged, and what is remembered in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import pyramid_tokenizer.text.encoder as encoder_module
from pyramid_tokenizer.backbones import ToyBackbone
from pyramid_tokenizer.errors import BackboneError, ConfigError
from pyramid_tokenizer.text import TEMPLATES, TextEncoder

WORDS = ["car|automobile", "dog", "potted plant"]


def test_a_row_is_the_normalised_mean_over_the_templates(backbone: Any) -> None:
    templates = ("a photo of a {}", "{}, seen from afar")
    rows = TextEncoder(backbone).encode(["dog", "potted plant"], templates=templates)
    for row, phrase in zip(rows, ["dog", "potted plant"], strict=True):
        mean = backbone.encode_text([template.replace("{}", phrase) for template in templates]).mean(0)
        assert_close(row, mean / mean.norm())


@pytest.mark.parametrize("templates", [*TEMPLATES, ["a {}.", "{0} or {}"]])
def test_rows_are_unit_float32_on_the_cpu(backbone: Any, templates: Any) -> None:
    rows = TextEncoder(backbone).encode_names(WORDS, templates=templates).embeddings
    assert rows.shape == (4, 16)
    assert (rows.dtype, rows.device.type) == (torch.float32, "cpu")
    assert_close(rows.norm(dim=1), torch.ones(4))


def test_the_order_of_names_does_not_matter() -> None:
    names, order = [f"thing {i}" for i in range(40)], torch.randperm(40)
    rows = TextEncoder(ToyBackbone()).encode(names)
    shuffled = TextEncoder(ToyBackbone()).encode([names[i] for i in order])
    assert torch.equal(shuffled, rows[order])


def test_many_names_reach_the_backbone_in_small_portions(backbone: Any) -> None:
    names = [f"thing {i}" for i in range(300)]
    words = TextEncoder(backbone).encode_names(names)
    assert words.embeddings.shape == (300, 16)
    assert backbone.asked == 300 * len(TEMPLATES["default"])
    assert max(map(len, backbone.calls)) <= 256


def test_more_templates_than_a_portion_still_make_one_mean(backbone: Any) -> None:
    rows = TextEncoder(backbone).encode(["dog", "cat"], templates=[f"number {i}: {{}}" for i in range(300)])
    assert rows.shape == (2, 16)


def test_braces_in_names_are_letters(backbone: Any) -> None:
    TextEncoder(backbone).encode(["{} {0}"], templates="photo")
    assert backbone.calls == [["a photo of a {} {0}"]]


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ("photos", "'photos'.*'photo'"),
        ("my {}", r"\['my \{\}'\]"),
        ([], "no template"),
        (["a photo"], "'a photo'"),
        (["{} and {}"], "'{} and {}'"),
        (["{}", 7], "got 7"),
    ],
)
def test_templates_without_exactly_one_place_are_refused(templates: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TextEncoder(ToyBackbone()).encode(["dog"], templates=templates)


def test_no_phrases_give_no_rows_and_a_bare_string_is_refused(backbone: Any) -> None:
    assert TextEncoder(backbone).encode([]).shape == (0, 16)
    with pytest.raises(ConfigError, match="dog"):
        TextEncoder(backbone).encode("dog")


def test_embeddings_that_overflow_are_an_error_and_are_not_remembered(tmp_path: Path) -> None:
    class Overflowing(ToyBackbone):
        def encode_text(self, texts: Sequence[str]) -> Tensor:
            return super().encode_text(texts) * torch.nan

    with pytest.raises(BackboneError, match="finite text embeddings"):
        TextEncoder(Overflowing(), cache_dir=tmp_path).encode(["dog"])
    assert list(tmp_path.iterdir()) == []


def test_a_phrase_is_encoded_once(backbone: Any) -> None:
    encoder = TextEncoder(backbone)
    first = encoder.encode(["dog", "cat", "dog"], templates="plain")
    assert torch.equal(first[0], first[2])
    again = encoder.encode(["cat", "bird", "dog"], templates="plain")
    assert backbone.calls == [["cat", "dog"], ["bird"]]
    assert torch.equal(again[[2, 0]], first[:2])


def test_what_is_returned_can_be_written_to(backbone: Any) -> None:
    encoder = TextEncoder(backbone)
    rows = encoder.encode(["dog"])
    expected = rows.clone()
    rows.zero_()
    assert torch.equal(encoder.encode(["dog"]), expected)


def test_the_memory_is_bounded(backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "_MEMO_PHRASES", 2)
    encoder = TextEncoder(backbone)
    assert encoder.encode(["a", "b", "c"], templates="plain").shape == (3, 16)
    encoder.encode(["b", "c"], templates="plain")
    assert backbone.asked == 3
    encoder.encode(["a"], templates="plain")
    assert backbone.asked == 4


def test_each_set_of_templates_has_rows_of_its_own(backbone: Any) -> None:
    encoder = TextEncoder(backbone)
    plain, photo = (encoder.encode(["dog"], templates=name) for name in ("plain", "photo"))
    assert not torch.equal(plain, photo)
    assert torch.equal(encoder.encode(["dog"], templates="plain"), plain)
    assert backbone.calls == [["dog"], ["a photo of a dog"]]
