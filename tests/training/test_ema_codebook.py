import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pyramid_tokenizer.errors import CheckpointError
from pyramid_tokenizer.quantizer.nearest import nearest
from pyramid_tokenizer.training import ema_codebook
from pyramid_tokenizer.training.ema_codebook import REVIVAL_SHARE, EmaCodebook


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batches(count, rows=64, dim=3, seed=0):
    return torch.randn(count, rows, dim, generator=seeded(seed))


class ByHand:
    """The moving averages, written out; no revival."""

    def __init__(self, codebook, per_step, decay, cosine):
        self.codebook, self.decay, self.cosine = codebook.clone(), decay, cosine
        self.sizes = torch.full((len(codebook),), per_step / len(codebook))
        self.sums = self.codebook * self.sizes[:, None]

    def update(self, vectors):
        vectors = F.normalize(vectors, dim=1) if self.cosine else vectors
        ids = nearest(vectors, self.codebook)
        for code in range(len(self.codebook)):
            mine = vectors[ids == code]
            self.sizes[code] = self.decay * self.sizes[code] + (1 - self.decay) * len(mine)
            self.sums[code] = self.decay * self.sums[code] + (1 - self.decay) * mine.sum(0)
        total = self.sizes.sum()
        smoothed = (self.sizes + 1e-5) / (total + len(self.codebook) * 1e-5) * total
        self.codebook = self.sums / smoothed[:, None]
        if self.cosine:
            self.codebook = F.normalize(self.codebook, dim=1)


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_several_steps_equal_the_formula(cosine, decay):
    start = torch.randn(5, 3, generator=seeded(1))
    start = F.normalize(start, dim=1) if cosine else start
    ema = EmaCodebook(start, vectors_per_step=64, cosine=cosine, decay=decay)
    ema.stop_revival()
    slow = ByHand(start, 64, decay, cosine)
    for vectors in batches(6):
        ema.update(vectors)
        slow.update(vectors)
        torch.testing.assert_close(ema.codebook, slow.codebook, rtol=1e-4, atol=1e-5)


def test_the_start_is_copied_and_not_moved_by_its_own_vectors():
    start = torch.randn(4, 3, generator=seeded())
    kept = start.clone()
    ema = EmaCodebook(start, vectors_per_step=4)
    for _ in range(20):
        ema.update(kept)  # each code serves exactly itself, as often as expected
    torch.testing.assert_close(ema.codebook, kept, rtol=1e-4, atol=1e-5)
    assert torch.equal(start, kept)


def far_code(decay=0.5):
    """Code 1 is far from every vector that comes."""
    return EmaCodebook(torch.tensor([[0.0, 0.0], [100.0, 100.0]]), vectors_per_step=32, decay=decay)


def test_a_dead_code_restarts_at_a_vector_of_the_batch():
    ema = far_code()
    # 16 expected per step, halved at each: below a sixteenth of that from the fifth step on
    for step, vectors in enumerate(batches(5, rows=32, dim=2)):
        ema.update(vectors)
        revived = bool((ema.codebook[1] == vectors).all(1).any())
        assert revived == (step == 4)
    assert (ema.codebook[1] < 10).all()


def test_a_revived_code_is_not_at_once_dead_again():
    ema = far_code()
    for vectors in batches(5, rows=32, dim=2):
        ema.update(vectors)
    assert ema.state()["cluster_size"].tolist()[0][1] == 16
    for vectors in batches(30, rows=32, dim=2, seed=3):
        before = ema.codebook.clone()
        ema.update(vectors)
        assert not (ema.codebook[1] == vectors).all(1).any()  # moved by averages from now on, not replaced
        assert not torch.equal(ema.codebook, before)


def test_after_stop_revival_a_dead_code_stays_dead():
    ema = far_code()
    ema.stop_revival()
    for vectors in batches(12, rows=32, dim=2):
        ema.update(vectors)
    torch.testing.assert_close(ema.codebook[1], torch.tensor([100.0, 100.0]), rtol=0.1, atol=0)


def test_codes_used_a_tenth_as_often_as_the_average_are_not_dead():
    assert REVIVAL_SHARE < 0.1
    rare = torch.tensor([[0.0], [10.0]])
    ema = EmaCodebook(rare, vectors_per_step=40, decay=0.5)
    vectors = torch.cat([torch.zeros(38, 1), torch.full((2, 1), 10.0)])
    for _ in range(30):
        ema.update(vectors)
    torch.testing.assert_close(ema.codebook, rare, rtol=1e-4, atol=1e-4)


def test_cosine_entries_keep_unit_norm_whatever_the_length_of_vectors():
    start = F.normalize(torch.randn(6, 4, generator=seeded()), dim=1)
    long, short = (EmaCodebook(start, vectors_per_step=32, cosine=True, decay=0.8) for _ in range(2))
    for vectors in batches(4, rows=32, dim=4):
        torch.manual_seed(0)
        long.update(vectors * 1000)
        torch.manual_seed(0)
        short.update(vectors)
    torch.testing.assert_close(long.codebook.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(long.codebook, short.codebook)


def test_of_more_vectors_than_the_cap_a_random_part_is_used(monkeypatch):
    monkeypatch.setattr(ema_codebook, "MAX_VECTORS_PER_STEP", 8)
    ema = EmaCodebook(torch.zeros(1, 1), vectors_per_step=1000, decay=0.0)
    ema.update(torch.arange(1000.0)[:, None])
    assert ema.state()["cluster_size"].item() == 8
    first_eight, all_of_them = 3.5, 499.5
    assert first_eight < ema.codebook.item() < 999
    assert abs(ema.codebook.item() - all_of_them) > 1e-3


def test_a_state_restores_the_course_of_the_averages():
    start = torch.randn(5, 3, generator=seeded())
    ema = EmaCodebook(start, vectors_per_step=64, decay=0.9)
    early, late = batches(4), batches(4, seed=5)
    for vectors in early:
        ema.update(vectors)
    state = ema.state()
    resumed = EmaCodebook(torch.zeros(5, 3), vectors_per_step=64, decay=0.9)
    resumed.load_state(state)
    for each in (ema, resumed):
        torch.manual_seed(0)
        for vectors in late:
            each.update(vectors)
    assert torch.equal(ema.codebook, resumed.codebook)
    assert not torch.equal(state["embed"][0], ema.codebook)  # the state is a copy


PROCESS = """
import sys, torch, torch.distributed as dist
from pyramid_tokenizer.training.ema_codebook import EmaCodebook
store, number, result = sys.argv[1:]
number = int(number)
torch.set_num_threads(1)
EmaCodebook(torch.rand(2, 1), vectors_per_step=8)  # before there is a group
dist.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=2)
torch.manual_seed(number)
codebooks = []
for revival in (False, True):
    generator = torch.Generator().manual_seed(0)
    start, steps = torch.randn(8, 3, generator=generator), torch.randn(12, 64, 3, generator=generator)
    start[:3] += 100.0 * revival
    ema = EmaCodebook(start, vectors_per_step=32, decay=0.5)
    if not revival:
        ema.stop_revival()
    for vectors in steps:
        ema.update(vectors.chunk(2)[number])
    codebooks.append(ema.codebook.clone())
torch.save(codebooks, result)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_hold_one_codebook_and_match_one_process_at_twice_the_batch(tmp_path):
    command = [sys.executable, "-c", PROCESS, str(tmp_path / "store")]
    results = [tmp_path / "0.pt", tmp_path / "1.pt"]
    processes = [
        subprocess.Popen([*command, str(number), str(result)], cwd=Path(__file__).parents[2])
        for number, result in enumerate(results)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    (plain, revived), (other_plain, other_revived) = (torch.load(result) for result in results)
    assert torch.equal(plain, other_plain)
    assert torch.equal(revived, other_revived)
    assert (revived.abs() < 10).all()  # the three far entries came back, as the same vectors in both
    generator = seeded()
    start, steps = torch.randn(8, 3, generator=generator), torch.randn(12, 64, 3, generator=generator)
    alone = EmaCodebook(start, vectors_per_step=64, decay=0.5)
    alone.stop_revival()
    for vectors in steps:
        alone.update(vectors)
    torch.testing.assert_close(plain, alone.codebook, rtol=1e-4, atol=1e-5)


def test_a_state_of_another_codebook_is_refused():
    state = EmaCodebook(torch.rand(5, 3), vectors_per_step=8).state()
    with pytest.raises(CheckpointError, match=r"expected embed of shape \(1, 4, 3\), got \(1, 5, 3\)"):
        EmaCodebook(torch.rand(4, 3), vectors_per_step=8).load_state(state)
    del state["embed_avg"]
    with pytest.raises(CheckpointError, match="got none for embed_avg"):
        EmaCodebook(torch.rand(5, 3), vectors_per_step=8).load_state(state)
