"""Models that are loaded are built without drawing weights."""

import threading

import pytest
import torch
from torch import nn

from pyramid_tokenizer.backbones.uninitialised import Uninitialised
from pyramid_tokenizer.errors import CheckpointError


def test_loading_a_tokenizer_draws_no_random_number(toy_tokenizer, tmp_path):
    folder = toy_tokenizer.save_pretrained(tmp_path / "model")
    before = torch.get_rng_state()
    loaded = type(toy_tokenizer).from_pretrained(folder)
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in toy_tokenizer.own_tensors().items():
        assert torch.equal(loaded.own_tensors()[name], tensor), name


def test_layers_are_made_without_draws_and_what_they_compute_is_right():
    before = torch.get_rng_state()
    with Uninitialised():
        layers = [nn.Linear(3, 4), nn.Conv2d(3, 4, 3), nn.Embedding(5, 6), nn.MultiheadAttention(4, 2)]
        nn.init.trunc_normal_(layers[0].weight, std=0.02)
        norm, table = nn.LayerNorm(4), torch.arange(4.0).cumsum(0)
    assert torch.equal(torch.get_rng_state(), before)
    assert bool((norm.weight == 1).all())
    assert table.tolist() == [0, 1, 3, 6]


def test_another_thread_draws_its_weights_as_ever():
    made = []
    with Uninitialised():
        thread = threading.Thread(target=lambda: made.append(torch.empty(1000).normal_()))
        thread.start()
        thread.join()
    assert 0.8 < float(made[0].std()) < 1.2


def test_layers_with_more_numbers_than_are_allowed_are_never_made():
    with Uninitialised(100 + 36):
        nn.Linear(9, 10)
        nn.Conv2d(3, 1, (3, 4), bias=False)
        with pytest.raises(CheckpointError, match="136"):
            nn.Linear(1, 1, bias=False)
    for make in (torch.empty, torch.zeros, torch.ones, torch.randn, torch.rand):
        with Uninitialised(100), pytest.raises(CheckpointError):
            make(10**7, 10**7)  # 364 TiB
    with Uninitialised(100), pytest.raises(CheckpointError):
        torch.full((10**7, 10**7), 1.0)
