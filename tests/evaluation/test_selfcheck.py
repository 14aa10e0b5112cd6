"""Planted faults, each of which is named by its stage, and tokenizers without one."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pyramid_tokenizer.errors import ConfigError, TokenMismatchError
from pyramid_tokenizer.evaluation.selfcheck import STAGES, Reference, make_reference, selfcheck
from pyramid_tokenizer.hub.directory import SELFCHECK_FILE
from pyramid_tokenizer.images import read
from pyramid_tokenizer.tokenizer import PyramidTokenizer


@pytest.fixture(scope="module")
def reference(toy_tokenizer) -> Reference:
    return make_reference(toy_tokenizer, origin="this test")


def tf32(x: torch.Tensor) -> torch.Tensor:
    """Rounds float32 to the 10 bits of mantissa that TF32 keeps."""
    if x.dtype != torch.float32:
        return x
    bits = x.contiguous().view(torch.int32)
    return ((bits + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)


def test_a_tokenizer_agrees_with_its_reference_and_with_float64(toy_tokenizer, reference) -> None:
    for given in (reference, None):
        found = selfcheck(toy_tokenizer, reference=given)
        assert found.differs == ()
        assert list(found.differences) == list(STAGES)
    assert selfcheck(toy_tokenizer, reference=reference).origin == "this test"


def test_a_wrong_resize_is_named(toy_tokenizer, reference, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        read, "_resize", lambda images, target: F.interpolate(images, target, mode="bilinear", antialias=True)
    )
    assert selfcheck(toy_tokenizer, reference=reference).differs == ("images",)


def test_products_rounded_as_tf32_are_named(toy_tokenizer, reference, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda x, weight, *rest, **options: exact(tf32(x), tf32(weight), *rest, **options))
    for given in (reference, None):
        found = selfcheck(toy_tokenizer, reference=given)
        assert found.differs[0] == "backbone"
        if given is not None:
            assert "TF32" in str(found)
            assert not {"images", "codebook", "embedding"} & {*found.differs}


def test_a_permuted_codebook_is_named(toy_tokenizer, reference) -> None:
    tok = copy.deepcopy(toy_tokenizer)
    tok.quantizer.level(1).codebook.copy_(tok.quantizer.level(1).codebook.roll(1, 0))
    found = selfcheck(tok, reference=reference)
    assert found.differs[0] == "codebook"
    assert "backbone" not in found.differs


def test_a_permuted_codebook_of_an_image_token_is_named(toy_tokenizer, reference) -> None:
    tok = copy.deepcopy(toy_tokenizer)
    tok.quantizer.image.codebooks[1].copy_(tok.quantizer.image.codebooks[1].roll(1, 0))
    assert selfcheck(tok, reference=reference).differs == ("codebook", "embedding")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_named(toy_tokenizer, reference, dtype: torch.dtype) -> None:
    found = selfcheck(copy.deepcopy(toy_tokenizer).to(dtype=dtype), reference=reference)
    assert {"backbone", "decoder"} <= {*found.differs}
    assert not {"images", "codebook"} & {*found.differs}
    assert str(dtype).removeprefix("torch.") in found.device


def test_an_altered_decoder_is_named_alone(toy_tokenizer, reference) -> None:
    tok = copy.deepcopy(toy_tokenizer)
    tok.pixel_decoder.to_pixels.weight.mul_(1.01)
    assert selfcheck(tok, reference=reference).differs == ("decoder",)


def test_a_search_that_gives_other_entries_is_named_alone(
    toy_tokenizer, reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyramid_tokenizer.quantizer import level

    exact = level.nearest
    monkeypatch.setattr(level, "nearest", lambda rows, codebook: (exact(rows, codebook) + 1) % len(codebook))
    assert selfcheck(toy_tokenizer, reference=reference).differs == ("nearest",)


def test_nan_differs(toy_tokenizer, reference) -> None:
    broken = {**reference.stages, "images": np.full((1, 8), np.nan)}
    wrong = Reference(fingerprint=reference.fingerprint, origin="", ids=reference.ids, stages=broken)
    assert selfcheck(toy_tokenizer, reference=wrong).differs == ("images",)


def test_a_reference_is_stored_and_read_from_the_models_directory(toy_tokenizer, reference, tmp_path: Path) -> None:
    toy_tokenizer.save_pretrained(tmp_path)
    reference.save(tmp_path / SELFCHECK_FILE)
    found = selfcheck(PyramidTokenizer.from_pretrained(tmp_path))
    assert (found.differs, found.origin) == ((), "this test")
    toy_tokenizer.save_pretrained(tmp_path)  # another model may take its place
    assert not (tmp_path / SELFCHECK_FILE).exists()


def test_a_reference_of_another_model_and_a_file_that_is_none_are_refused(
    other_tokenizer, reference, tmp_path: Path
) -> None:
    with pytest.raises(TokenMismatchError, match=reference.fingerprint[:12]):
        selfcheck(other_tokenizer, reference=reference)
    (tmp_path / SELFCHECK_FILE).write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=SELFCHECK_FILE):
        Reference.load(tmp_path / SELFCHECK_FILE)


def test_the_bundled_model_has_a_reference() -> None:
    from pyramid_tokenizer.hub import read_config
    from pyramid_tokenizer.hub.resolve import bundled_models

    directory = bundled_models()["tiny"]
    assert Reference.load(directory / SELFCHECK_FILE).fingerprint == read_config(directory).fingerprint
