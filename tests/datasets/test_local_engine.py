"""The engine of several processes: the bytes of one, workers that die or hang, and runs that are killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pyramid_tokenizer.datasets import tokenize
from pyramid_tokenizer.datasets.storage import LocalStorage
from pyramid_tokenizer.errors import DataError, DatasetError
from pyramid_tokenizer.images import to_pil
from tests.datasets.conftest import files_of
from tests.datasets.troubled import Broken, Deadly, WithBrokenColumn

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_processes_write_the_bytes_of_a_single_one(write, tmp_path, workers):
    write(tmp_path / "here")
    told = []
    report = write(tmp_path / "there", workers=workers, progress=lambda done, total: told.append(done))
    assert report.new_shards == 3
    assert files_of(tmp_path / "there") == files_of(tmp_path / "here")
    assert told[-1] == 12


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_its_shard_begun_again(write, tmp_path):
    write(tmp_path / "here", Deadly(tmp_path / "count", 0))
    (tmp_path / "count").unlink()
    told = []
    write(tmp_path / "there", Deadly(tmp_path / "count", 2), workers=1, progress=lambda done, total: told.append(done))
    assert (tmp_path / "count").read_text() == "3"
    assert files_of(tmp_path / "there") == files_of(tmp_path / "here")
    assert told[-1] == 10


@pytest.mark.slow
def test_an_image_that_kills_every_worker_is_named_after_all_other_shards_are_done(write, tmp_path):
    source = Deadly(tmp_path / "count", 99)
    with pytest.raises(DatasetError, match=r"shard 1 \(images 4 to 7 .*signal 9 while it .*'image 5'"):
        write(tmp_path / "tokens", source, workers=1)
    assert (tmp_path / "count").read_text() == "3"
    names = sorted(path.name for path in (tmp_path / "tokens" / "data").iterdir())
    assert names == ["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"]


@pytest.mark.slow
def test_an_image_on_which_the_source_fails_is_named(write, tmp_path):
    with pytest.raises(DatasetError, match=r"shard 1 .*IndexError.* while it read .*'image 5'"):
        write(tmp_path / "tokens", Broken(tmp_path / "count", 0), workers=1)


@pytest.mark.slow
def test_a_worker_that_hangs_is_ended(write, tmp_path):
    report = write(tmp_path / "tokens", Deadly(tmp_path / "count", 1, hangs=True), workers=1, patience_seconds=20)
    assert (report.rows, (tmp_path / "count").read_text()) == (10, "2")


@pytest.mark.slow
def test_an_error_of_ours_in_a_worker_is_raised_as_it_is(write, tmp_path):
    with pytest.raises(DataError, match="write it again"):
        write(tmp_path / "tokens", WithBrokenColumn(tmp_path / "count", 0), workers=1, columns=("x",))


@pytest.mark.slow
def test_a_script_without_its_guard_is_told_about_it(tmp_path, toy_tokenizer):
    model = toy_tokenizer.save_pretrained(tmp_path / "model")
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\nfrom pyramid_tokenizer.datasets import tokenize\n"
        f"tokenize(torch.rand(2, 3, 32, 32), 'tokens', model={str(model)!r}, workers=1)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert '__name__ == "__main__"' in done.stderr


RUN = """
import sys
from pyramid_tokenizer.datasets import tokenize

if __name__ == "__main__":
    source, out, model, workers = sys.argv[1:]
    tokenize(source, out, model=model, workers=int(workers), shard_images=4)
"""


class Killed:
    """Runs of one dataset that are killed at random points, with their workers or a worker of theirs alone."""

    def __init__(self, folder: Path, photos: Path, model: Path):
        self.out, self.script = folder / "tokens", folder / "run.py"
        self.script.write_text(RUN)
        self.arguments = [str(photos), str(self.out), str(model)]

    def start(self, workers: int) -> subprocess.Popen:
        command = [sys.executable, str(self.script), *self.arguments, str(workers)]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        return subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True)

    def records(self) -> int:
        """How many shards have a record."""
        return len(list((self.out / "progress").glob("0*.json")))

    def kill(self, after: int, delay: float, workers: int, *, which: str) -> bool:
        """Starts a run and kills it `delay` seconds after as many shards have a record; False where it ended before."""
        run = self.start(workers)
        while run.poll() is None and self.records() < after:
            time.sleep(0.005)
        time.sleep(delay)
        victims = [run.pid] if which == "main" else children_of(run.pid)[:1]
        struck = run.poll() is None and bool(victims)
        if struck and which == "all":
            os.killpg(run.pid, signal.SIGKILL)
        elif struck:
            os.kill(victims[0], signal.SIGKILL)
        _, told = run.communicate()
        assert run.returncode in (0, -signal.SIGKILL), told
        return struck

    def finish(self) -> dict[str, bytes]:
        run = self.start(1)
        _, told = run.communicate()
        assert run.returncode == 0, told
        return files_of(self.out)


def children_of(parent: int) -> list[int]:
    """Processes that multiprocessing spawned below another one (Linux)."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1]) == parent:
                found += [int(folder.name)] if b"spawn_main" in (folder / "cmdline").read_bytes() else []
        except OSError:  # it has ended
            continue
    return found


def kill_often(folder: Path, photos: Path, tok, *, times: int, seed: int) -> int:
    """Kills runs at random points and asserts the bytes of a run that nothing disturbed; how many were struck at work."""
    model = tok.save_pretrained(folder / "model")
    shards = tokenize(photos, folder / "whole", model=tok, workers=0, shard_images=4).shards
    killed, struck = Killed(folder, photos, model), 0
    points = torch.rand(times, 2, generator=torch.Generator().manual_seed(seed)).tolist()
    for number, (place, delay) in enumerate(points):
        if (killed.out / "manifest.json").exists():  # it came to its end: from the start again
            assert files_of(killed.out) == files_of(folder / "whole")
            shutil.rmtree(killed.out)
        which, before = ("main", "all", "worker")[number % 3], killed.records()
        hit = killed.kill(before + round(place * (shards - before)), 0.2 * delay, 1 + number % 2, which=which)
        struck += hit
        print(f"{which}, {1 + number % 2} workers, at shard {killed.records()} of {shards}, killed: {hit}")
    assert killed.finish() == files_of(folder / "whole")
    return struck


@pytest.mark.slow
def test_a_run_that_is_killed_at_three_points_ends_with_the_same_bytes(tmp_path, shared_photos, toy_tokenizer):
    assert kill_often(tmp_path, shared_photos, toy_tokenizer, times=3, seed=0) >= 1


@pytest.mark.long
def test_a_run_that_is_killed_at_thirty_points_ends_with_the_same_bytes(tmp_path, smooth, toy_tokenizer):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, pixels in enumerate(smooth(400, 32, 32, seed=2)):  # seconds of encoding beside those of starting
        to_pil(pixels)[0].save(photos / f"{number:03d}.png")
    (photos / "100.png").write_bytes(b"damaged")
    assert kill_often(tmp_path, photos, toy_tokenizer, times=30, seed=1) >= 20


@pytest.mark.slow
def test_no_worker_outlives_a_call_whose_error_is_kept(write, tmp_path, monkeypatch):
    def stop(self, name, data):
        if name.startswith("data/"):
            raise KeyboardInterrupt
        plain(self, name, data)

    plain = LocalStorage.write
    monkeypatch.setattr(LocalStorage, "write", stop)
    with pytest.raises(KeyboardInterrupt) as kept:
        write(tmp_path / "tokens", workers=1)
    assert kept.tb is not None
    assert children_of(os.getpid()) == []
