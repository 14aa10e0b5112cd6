"""Devices that cannot be used are refused by an error of ours, and nothing has moved."""

from __future__ import annotations

import warnings

import pytest
import torch

from pyramid_tokenizer import PyramidTokenizer, Segmenter
from pyramid_tokenizer.checks import devices
from pyramid_tokenizer.checks.devices import check_device, warn_of_slow_dtype
from pyramid_tokenizer.errors import ConfigError, ModelNotFoundError

ABSENT = f"cuda:{torch.cuda.device_count()}"


@pytest.mark.parametrize("device", [ABSENT, "meta", "gpu", torch.device("meta"), torch.device(ABSENT)])
def test_a_device_that_cannot_be_used_is_refused_everywhere(toy_tokenizer, device) -> None:
    tokens = toy_tokenizer.encode(torch.rand(3, 64, 64))
    seg = Segmenter(toy_tokenizer)
    for call in (check_device, toy_tokenizer.to, seg.to, tokens.to, lambda d: toy_tokenizer.to(device=d)):
        with pytest.raises(ConfigError, match=str(device)):
            call(device)
    with pytest.raises(ConfigError, match=str(device)):
        PyramidTokenizer.from_pretrained("no model of this name is looked for", device=device)
    assert toy_tokenizer.device.type == tokens.device.type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_refused(toy_tokenizer) -> None:
    for call in (toy_tokenizer.cuda, lambda: toy_tokenizer.cuda(0), lambda: toy_tokenizer.to("cuda", torch.float32)):
        with pytest.raises(ConfigError, match="cuda"):
            call()


def test_the_other_forms_of_to_stay(toy_tokenizer) -> None:
    assert toy_tokenizer.to("cpu", torch.float32) is toy_tokenizer
    assert toy_tokenizer.to(torch.float32) is toy_tokenizer.to(dtype=torch.float32)
    assert toy_tokenizer.to(torch.zeros(1)).device.type == "cpu"


@pytest.mark.parametrize(
    ("given", "fact"),
    [
        ({"device": None, "dtype": torch.int64}, "int64"),
        ({"dtype": torch.float8_e4m3fn}, "float8"),
        ({"dtype": "float16"}, "'float16'"),
        ({"tensor": torch.zeros(1, device="meta")}, "meta"),
        ({"device": [0]}, "list"),
    ],
)
def test_what_is_no_device_and_no_precision_is_refused_and_nothing_has_moved(toy_tokenizer, given, fact) -> None:
    with pytest.raises(ConfigError, match=fact):
        toy_tokenizer.to(given["tensor"]) if "tensor" in given else toy_tokenizer.to(**given)
    assert (toy_tokenizer.device.type, toy_tokenizer.dtype) == ("cpu", torch.float32)


@pytest.mark.parametrize(
    ("capabilities", "dtype", "warns"),
    [
        ({"architecture": "x86_64", "avx512_bf16": False}, torch.bfloat16, True),
        ({"architecture": "x86_64", "amx_bf16": True}, torch.bfloat16, False),
        ({"architecture": "x86_64", "amx_bf16": True}, torch.float16, True),
        ({"architecture": "x86_64"}, torch.float32, False),
        ({"architecture": "aarch64"}, torch.bfloat16, False),
        ({}, torch.bfloat16, False),
    ],
)
def test_a_half_precision_without_units_for_it_is_a_warning(capabilities, dtype, warns, monkeypatch) -> None:
    monkeypatch.setattr(devices, "_cpu_capabilities", lambda: capabilities)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_slow_dtype("cpu", dtype, stacklevel=1)
        warn_of_slow_dtype("cuda", dtype)
    assert len(caught) == warns
    assert not warns or (str(dtype).removeprefix("torch.") in str(caught[0].message) and caught[0].filename == __file__)


def test_loading_in_a_half_precision_warns_where_the_cpu_has_no_units(monkeypatch) -> None:
    monkeypatch.setattr(devices, "_cpu_capabilities", lambda: {"architecture": "x86_64"})
    with pytest.warns(UserWarning, match="bfloat16"), pytest.raises(ModelNotFoundError):
        PyramidTokenizer.from_pretrained("no model of this name is looked for", dtype=torch.bfloat16)
