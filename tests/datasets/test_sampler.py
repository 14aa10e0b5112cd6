"""`RowSampler` and `Permutation`: every row once, whatever interrupts and whoever goes on."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyramid_tokenizer.datasets import sampler as module
from pyramid_tokenizer.datasets.permutation import Permutation
from pyramid_tokenizer.datasets.sampler import RowSampler
from pyramid_tokenizer.errors import ConfigError, DatasetError


@given(st.integers(0, 3000), st.integers(0, 2**40), st.integers(0, 99))
def test_the_order_has_every_row_once_and_each_place_alone_tells_its_row(length, seed, epoch):
    order = Permutation(length, seed=seed, epoch=epoch)
    rows = order(np.arange(length))
    assert sorted(rows.tolist()) == list(range(length))
    some = np.arange(length)[:: max(1, length // 7)]
    assert order(some).tolist() == rows[some].tolist()


def test_orders_differ_between_seeds_and_epochs_and_reach_every_order_of_four_rows_about_as_often():
    seen = Counter(
        tuple(Permutation(4, seed=seed, epoch=epoch)(np.arange(4))) for seed in range(20) for epoch in range(36)
    )
    assert len(seen) == 24
    chi_square = sum((count - 30) ** 2 / 30 for count in seen.values())
    assert chi_square < 50  # 23 degrees of freedom: above 49.7 once in a thousand times


def test_neighbours_in_the_dataset_are_far_apart_in_the_order():
    rows = Permutation(10_000, seed=0, epoch=0)(np.arange(10_000))
    correlation = np.corrcoef(rows[:-1], rows[1:])[0, 1]
    assert abs(correlation) < 0.04  # four deviations
    assert abs(np.corrcoef(rows, np.arange(10_000))[0, 1]) < 0.04


def interrupted_epochs(interruptions: int, seed: int) -> None:
    """Trains on simulated ranks, kills them, goes on with other ranks and loaders; asserts every row once an epoch."""
    chance = random.Random(seed)
    length, used, states, done = chance.randint(1, 300), Counter(), None, 0
    while done < interruptions:
        world, batch = chance.randint(1, 7), chance.randint(1, 9)
        ranks = [RowSampler(length, rank, world, seed=3, dataset="d") for rank in range(world)]
        for rank in ranks:
            if states is not None:
                rank.load_state_dict(states)
        epoch = ranks[0].epoch
        ahead = [iter(rank) for rank in ranks]
        prefetched: list[list[int]] = [[] for _ in ranks]
        for _ in range(chance.randint(0, 12)):  # steps before the kill
            for rank, rows, waiting in zip(ranks, ahead, prefetched, strict=True):
                waiting.extend(islice(rows, max(0, chance.randint(1, 4) * batch - len(waiting))))  # workers read ahead
                now, waiting[:] = waiting[:batch], waiting[batch:]
                used.update((epoch, row) for row in now)
                rank.advance(torch.tensor(now, dtype=torch.int64))
        states = [rank.state_dict() for rank in ranks]
        done += 1
        if all(state["position"] == length for state in states):
            assert used == Counter({(epoch, row): 1 for row in range(length)})
            used.clear()
            ranks[0].set_epoch(epoch + 1)
            states = ranks[0].state_dict()
    assert max(used.values(), default=1) == 1


def test_interruptions_with_other_ranks_and_loaders_give_no_row_twice_and_lose_none():
    interrupted_epochs(15, seed=1)


@pytest.mark.long
def test_a_thousand_interruptions_give_no_row_twice_and_lose_none():
    for seed in range(10):
        interrupted_epochs(100, seed)


def test_going_on_computes_a_block_of_a_hundred_million_rows_and_no_more(monkeypatch):
    places = []
    plain = Permutation.__call__
    monkeypatch.setattr(Permutation, "__call__", lambda self, asked: places.append(len(asked)) or plain(self, asked))
    sampler = RowSampler(10**8, rank=3, world=64, seed=5)
    sampler.load_state_dict({"seed": 5, "epoch": 2, "position": 99_000_000, "dataset": ""})
    first = next(iter(sampler))
    assert places == [module._BLOCK]
    assert first == Permutation(10**8, seed=5, epoch=2)(np.array([99_000_003]))[0]
    assert len(sampler) == 10**6 // 64


def test_one_state_is_enough_between_batches_and_shares_are_equal_without_the_tail():
    ranks = [RowSampler(10, rank, 4, drop_tail=True) for rank in range(4)]
    assert [len(list(rank)) for rank in ranks] == [2] * 4
    ranks[1].advance(1)
    fewer = [RowSampler(10, rank, 2) for rank in range(2)]
    for rank in fewer:
        rank.load_state_dict(ranks[1].state_dict())
    rest = {row for rank in fewer for row in rank}
    assert rest == set(range(10)) - {next(iter(RowSampler(10, rank, 4))) for rank in range(4)}


def test_without_shuffling_ranks_take_turns_in_the_order_of_the_dataset():
    assert list(RowSampler(7, rank=1, world=3, shuffle=False)) == [1, 4]


def test_rows_that_are_not_the_next_ones_or_too_many_are_refused():
    sampler = RowSampler(6, shuffle=False)
    with pytest.raises(DatasetError, match="row 1 .* got 2"):
        sampler.advance([0, 2])
    with pytest.raises(DatasetError, match="at most 6"):
        sampler.advance(7)
    assert sampler.position == 0


def test_a_second_pass_that_nobody_advanced_warns():
    sampler = RowSampler(3)
    rows = list(sampler)
    with pytest.warns(UserWarning, match="set_epoch"):
        assert list(sampler) == rows
    sampler.set_epoch(1)
    assert sorted(sampler) == [0, 1, 2]


def test_states_of_other_datasets_or_moments_and_ranks_out_of_range_are_refused():
    sampler = RowSampler(6, dataset="a")
    good = sampler.state_dict()
    for bad in ({**good, "dataset": "b"}, {**good, "position": 7}, {"seed": 0}, [], [good, {**good, "epoch": 1}]):
        with pytest.raises(DatasetError):
            sampler.load_state_dict(bad)
    with pytest.raises(ConfigError, match="rank below the world size 2, got 2"):
        RowSampler(6, rank=2, world=2)
