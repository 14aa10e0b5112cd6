"""benchmarks/startup.py: processes, in turn, as ratios to the first one."""

import sys
from pathlib import Path

import pytest

from benchmarks import startup


def test_a_process_that_does_more_has_a_larger_ratio():
    work = "sum(range(3_000_000))"
    rows = startup.measure({"less": [sys.executable, "-Ic", ""], "more": [sys.executable, "-Ic", work]}, 1)
    assert rows["less"]["cpu_ratio"] == rows["less"]["wall_ratio"] == 1
    assert rows["more"]["cpu_ratio"] > 1


@pytest.mark.slow
def test_every_command_runs(tmp_path, toy_tokenizer):
    folder = toy_tokenizer.save_pretrained(tmp_path / "model")
    commands = startup.commands_of(Path(tmp_path), str(folder))
    commands.pop(startup.IMPORTS)
    startup.to_photo(tmp_path / "one.jpg")
    for command in commands.values():
        cpu, wall = startup.run(command)
        assert cpu > 0
        assert wall > 0
