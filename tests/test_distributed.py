"""Sums across processes, and their absence in a single one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pyramid_tokenizer import distributed

PROCESS = """
import sys, torch, torch.distributed as dist
from pyramid_tokenizer import distributed
store, number = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(number), world_size=2)
values = torch.tensor([1.0, 10.0]) * (distributed.rank() + 1)
total, mean = distributed.all_reduce(values), distributed.all_reduce(values, op="mean")
place = distributed.rank(), distributed.world_size(), distributed.is_main()
print(*place, total.tolist(), mean.tolist(), values.tolist())
dist.destroy_process_group()
"""


def test_a_single_process_is_the_main_one_and_sums_only_itself() -> None:
    values = torch.tensor([1.5, -2.0])
    assert (distributed.is_active(), distributed.rank(), distributed.world_size()) == (False, 0, 1)
    assert distributed.is_main()
    for op in ("sum", "mean"):
        reduced = distributed.all_reduce(values, op=op)
        assert torch.equal(reduced, values)
        assert reduced.data_ptr() != values.data_ptr()


def test_a_group_of_one_gives_the_same_as_no_group() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert (distributed.is_active(), distributed.rank(), distributed.world_size()) == (True, 0, 1)
        assert torch.equal(distributed.all_reduce(torch.tensor([3, 4])), torch.tensor([3, 4]))
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_agree_on_sum_and_mean_and_keep_their_own_values(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROCESS, str(tmp_path / "store")]
    processes = [
        subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
        for n in range(2)
    ]
    lines = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert lines == [
        "0 2 True [3.0, 30.0] [1.5, 15.0] [1.0, 10.0]",
        "1 2 False [3.0, 30.0] [1.5, 15.0] [2.0, 20.0]",
    ]
