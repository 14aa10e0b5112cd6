"""The engine of Ray: the bytes of one process from actors of a real Ray on this machine, whatever dies meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pyramid_tokenizer.datasets import estimate
from pyramid_tokenizer.datasets.engines import ray as engine
from pyramid_tokenizer.datasets.storage import open_storage
from pyramid_tokenizer.errors import ConfigError, DataError, DatasetError, MissingExtraError
from tests.datasets.conftest import files_of
from tests.datasets.troubled import Deadly, WithBrokenColumn

# Ray warns of its own uses of what it will remove.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
REPOSITORY = Path(__file__).parents[2]
RUN = """
import os, signal, sys
from pyramid_tokenizer.datasets import tokenize

def stop(done, total):
    if done == 8:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    source, out, model = sys.argv[1:]
    tokenize(source, out, model=model, engine="ray", workers=1, shard_images=4, progress=stop)
"""


@pytest.fixture(scope="module")
def ray_environment() -> Iterator[dict[str, str]]:
    """Variables with which Ray writes into a folder of its own, whose name is short: it holds sockets."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        yield {
            "RAY_TMPDIR": folder,
            "HOME": folder,
            "RAY_ADDRESS": "local",
            "RAY_worker_niceness": "0",  # not behind all else that the machine does
            "PYTHONPATH": str(REPOSITORY),
        }


@pytest.fixture(scope="module")
def ray(ray_environment):
    """A Ray of two CPUs on this machine."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (ray_environment | {"RAY_USAGE_STATS_ENABLED": "0"}).items():
            patch.setenv(name, value)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield ray
        ray.shutdown()


def actors() -> list[psutil.Process]:
    """Processes of this test's Ray that encode."""
    return [process for process in psutil.Process().children(recursive=True) if is_encoding(process)]


def is_encoding(process: psutil.Process) -> bool:
    """Whether a process is an actor, which bears the name of its class, or one that an actor watches over."""
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return False
    return "EncodeShards" in command or "spawn_main" in command


@pytest.mark.slow
def test_actors_write_the_bytes_of_this_process_and_one_that_dies_is_replaced(ray, write, tmp_path):

    write(tmp_path / "here")
    killed, told = [], []

    def kill_once(done, total):
        told.append(done)
        if done == 4:
            killed.append(actors()[0])
            killed[0].kill()

    report = write(tmp_path / "there", engine="ray", workers=2, progress=kill_once)
    assert report.new_shards == 3
    assert len(killed) == 1
    assert (told[0], told[-1]) == (0, 12)
    assert files_of(tmp_path / "there") == files_of(tmp_path / "here")


@pytest.mark.slow
def test_a_run_that_processes_began_is_ended_by_actors_at_any_address(ray, write, tmp_path):
    write(tmp_path / "here", quality=0.3)  # sparse pyramids
    storage = open_storage("memory://ray/tokens")
    for name, data in files_of(tmp_path / "here").items():
        storage.write(name, data)
    try:
        storage.write("data/train-00001-of-00003.parquet", b"cut")
        assert write("memory://ray/tokens", engine="ray", workers=1, quality=0.3).new_shards == 1
        assert {name: storage.read(name) for name in storage.sizes()} == files_of(tmp_path / "here")
    finally:
        for name in storage.sizes():
            storage.remove(name)


@pytest.mark.slow
def test_an_image_that_kills_every_process_is_named_and_the_callers_ray_goes_on(ray, write, tmp_path):
    source = Deadly(tmp_path / "count", 99)
    with pytest.raises(DatasetError, match=r"shard 1 \(images 4 to 7 .*signal 9 while it .*'image 5' on the machine"):
        write(tmp_path / "tokens", source, engine="ray", workers=1)
    assert (tmp_path / "count").read_text() == "3"
    names = sorted(path.name for path in (tmp_path / "tokens" / "data").iterdir())
    assert names == ["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"]
    assert ray.is_initialized()


@pytest.mark.slow
def test_an_error_of_ours_in_an_actor_is_raised_and_no_actor_outlives_the_call(ray, write, tmp_path):
    with pytest.raises(DataError, match="write it again.*on the machine"):
        write(tmp_path / "tokens", WithBrokenColumn(tmp_path / "count", 0), engine="ray", workers=1, columns=("x",))
    deadline = time.monotonic() + 60
    while actors() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert actors() == []


@pytest.mark.slow
def test_a_run_whose_caller_is_killed_keeps_what_it_told_and_its_ray_ends(
    ray_environment, write, tmp_path, shared_photos, toy_tokenizer
):
    pytest.importorskip("ray")
    model = toy_tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "run.py").write_text(RUN)
    command = [sys.executable, "run.py", str(shared_photos), "tokens", str(model)]
    run = subprocess.Popen(command, cwd=tmp_path, env=os.environ | ray_environment, start_new_session=True)
    below = {}
    while run.poll() is None:
        below |= {process.pid: process for process in psutil.Process(run.pid).children(recursive=True)}
        time.sleep(0.05)
    assert run.returncode == -signal.SIGKILL
    _, left = psutil.wait_procs(below.values(), timeout=60)  # agents of Ray's own take longer
    assert [process for process in left if is_encoding(process)] == []
    assert write(tmp_path / "tokens").new_shards == 2
    write(tmp_path / "whole")
    assert files_of(tmp_path / "tokens") == files_of(tmp_path / "whole")


class FakeRay:
    """What of Ray begins and ends a connection."""

    def __init__(self, *, running: bool):
        self.running, self.inits, self.shutdowns = running, [], 0

    def is_initialized(self):
        return False

    def init(self, address, **options):
        self.inits.append((address, os.environ.get("RAY_USAGE_STATS_ENABLED")))
        if address != "local" and not self.running:
            raise ConnectionError("nothing answers")

    def shutdown(self):
        self.shutdowns += 1


def test_without_a_cluster_ray_is_started_here_without_its_reports(monkeypatch, caplog):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    ray = FakeRay(running=False)
    with engine._connected(ray):
        assert ray.inits == [("auto", None), ("local", "0")]
    assert ray.shutdowns == 1
    assert "RAY_USAGE_STATS_ENABLED" not in os.environ
    assert "this machine alone" in caplog.text


def test_a_cluster_that_runs_is_joined_and_one_that_is_named_must_answer(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with engine._connected(FakeRay(running=True)) as _:
        pass
    ray = FakeRay(running=False)
    with pytest.raises(DatasetError, match=r"'head:6379'.*nothing answers"), engine._connected(ray):
        pass
    assert ray.inits == [("head:6379", os.environ.get("RAY_USAGE_STATS_ENABLED"))]


def test_a_missing_ray_is_told_with_the_command_before_anything_is_written(write, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pyramid-tokenizer\[ray\]"):
        write(tmp_path / "tokens", engine="ray", workers=1)
    assert not (tmp_path / "tokens").exists()


@pytest.mark.parametrize(
    ("options", "fact"),
    [({"engine": "dask"}, "dask"), ({"workers": 0}, "workers"), ({"device": "cuda:0,1"}, "cuda:0,1")],
)
def test_options_that_do_not_suit_ray_are_named(write, tmp_path, options, fact):
    with pytest.raises(ConfigError, match=fact):
        write(tmp_path / "tokens", **{"engine": "ray", "workers": 1} | options)


def test_an_estimate_for_ray_needs_the_number_of_actors(shared_photos, toy_tokenizer):
    with pytest.raises(ConfigError, match="workers"):
        estimate(shared_photos, model=toy_tokenizer, engine="ray")


@pytest.mark.parametrize(("on_gpu", "gpus"), [(False, 0), (True, 1)])
def test_each_actor_takes_a_core_and_a_gpu_where_one_is_asked_for(on_gpu, gpus):
    assert engine.RayEngine(on_gpu=on_gpu).resources == {"num_cpus": 1, "num_gpus": gpus}
