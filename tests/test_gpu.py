"""The library on a GPU beside the CPU: `make test-gpu`. PYRAMID_TEST_DEVICE names another device than "cuda" ("mps", "cpu")."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest
import torch
from skimage import data
from torch import Tensor

from pyramid_tokenizer import PyramidTokenizer, Segmenter
from pyramid_tokenizer.config.training import TrainConfig
from pyramid_tokenizer.images.read import to_batch
from pyramid_tokenizer.quantizer.recipe import preset_levels
from pyramid_tokenizer.training import train

pytestmark = pytest.mark.gpu
DEVICE = os.environ.get("PYRAMID_TEST_DEVICE", "cuda")
NAMES = ["cat", "person", "cup", "spoon", "rocket", "sky", "background"]


@pytest.fixture(scope="module", autouse=True)
def tf32_allowed() -> Any:
    """The caller allows TF32 wherever torch can use it: ids must not follow."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="module")
def photos() -> list[Tensor]:
    return [to_batch(picture(), size=256) for picture in (data.astronaut, data.chelsea, data.coffee, data.rocket)]


@pytest.fixture(scope="module")
def here() -> PyramidTokenizer:
    return PyramidTokenizer.from_pretrained("tiny")


@pytest.fixture(scope="module")
def there() -> PyramidTokenizer:
    return PyramidTokenizer.from_pretrained("tiny").to(DEVICE)


def test_ids_are_those_of_the_cpu_but_for_one_in_10_000(
    here: PyramidTokenizer, there: PyramidTokenizer, photos
) -> None:
    differing = total = 0
    for photo in photos:
        for expected, found in zip(here.encode(photo).ids, there.encode(photo).ids, strict=True):
            differing += int((expected != found.cpu()).sum())
            total += expected.numel()
    assert differing <= total / 10_000, f"{differing} of {total}"


def test_images_are_those_of_the_cpu_within_a_thousandth(
    here: PyramidTokenizer, there: PyramidTokenizer, photos
) -> None:
    for photo in photos:
        tokens = here.encode(photo)
        assert (there.decode(tokens.to(DEVICE)).cpu() - here.decode(tokens)).abs().max() <= 1e-3


def test_masks_are_those_of_the_cpu_but_for_ties(here: PyramidTokenizer, there: PyramidTokenizer, photos) -> None:
    on_cpu, on_gpu = Segmenter(here), Segmenter(there)
    for photo in photos:
        tokens = here.encode(photo)
        expected = on_cpu.segment(tokens, NAMES, mode="lookup").labels
        found = on_gpu.segment(tokens.to(DEVICE), NAMES, mode="lookup").labels.cpu()
        assert (expected != found).double().mean() <= 1e-3


def small_tokenizer() -> PyramidTokenizer:
    levels = preset_levels((32, 16, 8, 4, 4))
    small = [dataclasses.replace(level, codebook_size=64) for level in levels]
    return PyramidTokenizer.from_backbone("toy", levels=small).to(DEVICE)


def test_a_fit_gives_the_same_codebooks_twice(photos) -> None:
    fingerprints = set()
    for _ in range(2):
        tok = small_tokenizer()
        tok.fit([photo[0] for photo in photos], num_crops=200, crop_px=64)
        fingerprints.add(tok.fingerprint)
    assert len(fingerprints) == 1


def test_twenty_steps_of_training_change_the_decoder_and_keep_the_images(photos) -> None:
    tok = small_tokenizer()
    tok.fit([photo[0] for photo in photos], num_crops=200, crop_px=64)
    before = [float((tok.reconstruct(photo).cpu() - photo).square().mean()) for photo in photos]
    settings = TrainConfig(codebook_steps=0, decoder_steps=20, batch_size=4, crop_px=64, warmup_steps=1)
    train(tok, [photo[0] for photo in photos], config=settings)
    after = [float((tok.reconstruct(photo).cpu() - photo).square().mean()) for photo in photos]
    assert tok.device.type == torch.device(DEVICE).type
    assert tok.pixel_decoder.is_trained
    assert 0 < sum(after) < 1.1 * sum(before)


def test_bfloat16_tokens_name_their_precision_and_decode(there: PyramidTokenizer, photos) -> None:
    tok = PyramidTokenizer.from_pretrained("tiny", dtype=torch.bfloat16).to(DEVICE)
    tokens = tok.encode(photos[0])
    assert tokens.precision == "bfloat16"
    assert (there.decode(tokens).cpu() - photos[0]).square().mean() < 0.02
