"""The README's two commands with a stand-in for Python: from any directory, in a path with spaces, install once."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

# Writes down where it was called and with what; its `-m venv` makes an environment whose Python is itself. Asked for its
# version, it answers with its name: python3.12 is a 3.12. With $FAILING in its path, it fails the tests.
STAND_IN = r"""#!/bin/sh
case "$*" in *version_info*:2*) echo "${0##*/python}"; exit;; esac
printf '%s: %s\n' "$(pwd)" "$*" >>"$PYTHON_LOG"
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
case "$0 $*" in *"${FAILING-/no such/}"*pytest*) exit 1;; esac
"""
PLACE = "Bob's  $HOME & (a copy)"


def outside_make() -> dict[str, str]:
    """The environment without what a `make test VENV=...` around these tests would hand on to the make inside them."""
    return {
        k: v
        for k, v in os.environ.items()
        if k not in ("MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "VENV", "ARGS", "WORKERS")
    }


class Checkout:
    """A copy of what the two commands need, in a folder with a difficult name."""

    def __init__(self, folder: Path) -> None:
        self.elsewhere = folder
        self.root = folder / PLACE
        (self.root / ".ci").mkdir(parents=True)
        for name in ("Makefile", ".ci/install", ".ci/test-pythons", "pyproject.toml"):
            shutil.copy(REPOSITORY / name, self.root / name)
        (folder / "python").write_text(STAND_IN)
        (folder / "python").chmod(0o755)

    @property
    def demo(self) -> str:
        """The whole path, so that whoever runs it from elsewhere is told where the images lie."""
        return f"-m pyramid_tokenizer.cli demo --out {self.root}/out"

    def make(self, *arguments: str) -> list[str]:
        """What Python was asked to do, without the probes; every call must come from the checkout's root."""
        log = self.elsewhere / "log"
        log.write_text("")
        environment = outside_make() | {"PYTHON_LOG": str(log), "PYTHON": str(self.elsewhere / "python")}
        subprocess.run(["make", *arguments], cwd=self.elsewhere, env=environment, check=True, capture_output=True)
        calls = [line.split(": ", 1) for line in log.read_text().splitlines()]
        calls = [call for call in calls if not call[1].startswith(("-c import sys", "-m pip --version", "--version"))]
        assert {place for place, _ in calls} == {str(self.root)}
        return [call for _, call in calls]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_a_fresh_checkout_makes_its_environment_installs_and_tests(checkout: Checkout) -> None:
    calls = checkout.make("-f", str(checkout.root / "Makefile"), "test", "ARGS=-k 'two words'")
    assert calls[:2] == ["-m venv .venv", "-m pip install --editable .[dev]"]
    (tests,) = calls[2:]
    assert tests.startswith("-m pytest -n auto ")
    assert tests.endswith(" -k two words")


def test_each_tier_of_tests_has_a_target_and_only_one_of_them_asks_the_network(checkout: Checkout) -> None:
    checkout.make("-C", PLACE, "test")
    for target, tier in (
        ("test", None),
        ("test-slow", "slow"),
        ("test-long", "long"),
        ("test-gpu", "gpu"),
        ("test-network", "network"),
    ):
        (tests,) = checkout.make("-C", PLACE, target)
        chosen = re.findall(r"-m pytest .*-m (\w+)", tests)
        assert chosen == ([tier] if tier else [])


def test_a_test_without_the_mark_network_cannot_connect() -> None:
    with socket.socket() as own, pytest.raises(AssertionError, match="got a connection to"):
        own.connect(("192.0.2.1", 9))  # kept for documentation: no machine has it


def test_the_second_run_installs_nothing_until_pyproject_changes(checkout: Checkout) -> None:
    checkout.make("-C", PLACE, "demo")
    assert checkout.make("-C", PLACE, "demo") == [checkout.demo]
    with (checkout.root / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    again = ["-m pip install --editable .[eval]", checkout.demo]
    assert checkout.make("-C", PLACE, "demo") == again


def test_the_demo_needs_no_install_after_the_tests_had_theirs(checkout: Checkout) -> None:
    checkout.make("-C", PLACE, "test")
    assert checkout.make("-C", PLACE, "demo") == [checkout.demo]


def test_an_environment_with_a_space_in_its_name_is_used(checkout: Checkout) -> None:
    calls = checkout.make("-C", PLACE, "test", "VENV=my env")
    assert calls[0] == "-m venv my env"
    assert (checkout.root / "my env/.installed-dev").is_file()


def test_a_python_that_is_too_old_is_refused_with_what_to_do(checkout: Checkout) -> None:
    old = checkout.elsewhere / "old"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.1\nexit 1\n')
    old.chmod(0o755)
    command = ["make", "-C", PLACE, "test", f"PYTHON={old}"]
    where = {"cwd": checkout.elsewhere, "env": outside_make()}
    done = subprocess.run(command, capture_output=True, text=True, check=False, **where)
    assert done.returncode != 0
    assert "needs Python 3.11 or newer, found Python 3.8.1" in done.stderr


class TestOtherPythons:
    """`make test-pythons` with Pythons 3.12 and 3.13 on the path and 3.99 nowhere."""

    @pytest.fixture
    def pythons(self, checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> Checkout:
        for version in ("3.12", "3.13"):
            shutil.copy(checkout.elsewhere / "python", checkout.elsewhere / f"python{version}")
        monkeypatch.setenv("PATH", f"{checkout.elsewhere}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("PYENV_ROOT", str(checkout.elsewhere))
        return checkout

    def run(self, checkout: Checkout, *pythons: str) -> subprocess.CompletedProcess[str]:
        command = ["make", "-C", PLACE, "test-pythons", f"PYTHONS={' '.join(pythons)}"]
        environment = outside_make() | {"PYTHON_LOG": str(checkout.elsewhere / "log")}
        return subprocess.run(
            command, cwd=checkout.elsewhere, env=environment, check=False, capture_output=True, text=True
        )

    def test_each_runs_the_tests_in_an_environment_of_its_own(self, pythons: Checkout) -> None:
        calls = pythons.make("-C", PLACE, "test-pythons", "ARGS=-k 'two words'")
        assert [call for call in calls if "-m venv" in call] == ["-m venv .venv-3.12", "-m venv .venv-3.13"]
        assert sum(call.endswith(" -k two words") for call in calls) == 2
        assert (pythons.root / ".venv-3.12/.installed-dev").is_file()

    def test_one_that_is_not_there_is_told_and_passed_over(self, pythons: Checkout) -> None:
        done = self.run(pythons, "3.99", "3.13")
        assert done.returncode == 0
        assert "Python 3.99 is not on this machine: skipped" in done.stdout
        assert not (pythons.root / ".venv-3.99").exists()

    def test_to_test_on_none_is_an_error(self, pythons: Checkout) -> None:
        done = self.run(pythons, "3.98", "3.99")
        assert done.returncode != 0
        assert "expected one of the Pythons 3.98 3.99" in done.stderr

    def test_failing_tests_of_one_are_an_error_after_all_have_run(
        self, pythons: Checkout, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FAILING", ".venv-3.12/")
        done = self.run(pythons, "3.12", "3.13")
        assert done.returncode != 0
        assert "failed on Python 3.12" in done.stderr
        assert (pythons.root / ".venv-3.13/.installed-dev").is_file()
