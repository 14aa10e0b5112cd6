"""What processes tell each other, and its absence in a single one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pyramid_tokenizer.training import distributed

PROCESS = """
import sys, torch, torch.distributed as dist
from pyramid_tokenizer.training import distributed
store, number = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(number), world_size=2)
values = torch.tensor([1.0, 10.0]) * (distributed.rank() + 1)
counts = torch.tensor([distributed.rank()])
distributed.broadcast([values, counts])
cpu = torch.device("cpu")
answers = [distributed.any_true(distributed.rank() == setter, device=cpu) for setter in (0, 1, 2)]
place = distributed.rank(), distributed.world_size(), distributed.is_main()
print(*place, values.tolist(), counts.tolist(), answers)
dist.destroy_process_group()
"""


@pytest.fixture(params=["no group", "a group of one"])
def alone(request):
    if request.param == "a group of one":
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        yield True
        dist.destroy_process_group()
    else:
        yield False


def test_a_single_process_is_the_main_one_and_hears_only_itself(alone) -> None:
    assert (distributed.is_active(), distributed.rank(), distributed.world_size()) == (alone, 0, 1)
    assert distributed.is_main()
    values = torch.tensor([1.5, -2.0])
    distributed.broadcast([values])
    assert values.tolist() == [1.5, -2.0]
    assert [distributed.any_true(flag, device=torch.device("cpu")) for flag in (True, False)] == [True, False]


@pytest.mark.slow
def test_two_processes_get_the_mains_values_and_hear_of_any_flag(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROCESS, str(tmp_path / "store")]
    processes = [
        subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        for n in range(2)
    ]
    lines = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert lines == [
        "0 2 True [1.0, 10.0] [0] [True, True, False]",
        "1 2 False [1.0, 10.0] [0] [True, True, False]",
    ]
