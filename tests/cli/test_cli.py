"""What all commands share: help, exit codes, errors in one line."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import pyramid_tokenizer
from pyramid_tokenizer.cli import encode, files

REPOSITORY = Path(__file__).parents[2]
GOLDEN = REPOSITORY / "tests" / "golden"
COMMANDS = ("encode", "decode", "reconstruct", "segment", "classify", "info", "train", "finetune", "demo")


def test_the_options_and_their_help_are_those_of_the_golden_file():
    made = runpy.run_path(str(GOLDEN / "make_cli_help.py"))["golden_help"]()
    assert made == (GOLDEN / "cli_help.txt").read_text(encoding="utf-8"), "make golden, and look at the difference"


@pytest.mark.slow
def test_help_imports_no_heavy_library():
    script = (
        "import sys; sys.argv = ['pyramid-tokenizer', '--help']\n"
        "from pyramid_tokenizer.cli import main\n"
        "try: main()\n"
        "finally: print({'torch', 'numpy', 'PIL', 'rich.progress'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "set()\n")
    assert all(command in done.stdout for command in COMMANDS)


def test_a_misspelt_option_is_a_usage_error_that_names_it(run):
    done = run("encode", "photo.jpg", "--modell", "tiny")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--modell" in done.stderr


def test_help_of_a_command_shows_its_options(run):
    done = run("decode", "--help")
    assert done.exit_code == 0
    assert all(option in done.stdout for option in ("--model", "--levels", "--out", "--force"))


def test_version_is_the_package_s(run):
    done = run("--version")
    assert (done.exit_code, done.stdout) == (0, f"{pyramid_tokenizer.__version__}\n")


def test_an_unknown_model_is_one_line_on_stderr_and_exit_code_1(run, photos):
    done = run("encode", photos, "--model", "no-such-model")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "'no-such-model'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_debug_shows_the_traceback_of_an_error(run, photos):
    with pytest.raises(pyramid_tokenizer.PyramidTokenizerError, match="no-such-model"):
        run("--debug", "encode", photos, "--model", "no-such-model")


def test_an_error_of_several_lines_is_told_in_one(run, monkeypatch, photos):
    def fail(*_args: object) -> None:
        raise pyramid_tokenizer.PyramidTokenizerError("expected  two\n   lines, got\nthree\n")

    monkeypatch.setattr(encode, "find_images", fail)
    assert run("encode", photos).stderr == "error: expected  two lines, got three\n"


def test_an_interrupt_ends_with_exit_code_130(run, monkeypatch, photos):
    def interrupt(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(encode, "find_images", interrupt)
    done = run("encode", photos)
    assert (done.exit_code, done.stdout, done.stderr) == (130, "", "error: interrupted\n")


def test_an_error_of_the_file_system_is_one_line(run, model, photos):
    (photos.parent / "file").write_text("")
    done = run("encode", photos / "a.png", "--model", model, "--out", "file/below")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert "file/below" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_bug_is_not_hidden_behind_a_line(run, monkeypatch, photos):
    monkeypatch.setattr(files, "_existing", lambda _argument: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("encode", photos)


@pytest.mark.parametrize(("device", "told"), [("toaster", '"cpu"'), ("cuda:99", "'cuda:99'"), ("meta", "'meta'")])
def test_a_device_that_is_not_there_is_one_line(run, model, photos, device, told):
    done = run("encode", photos / "a.png", "--model", model, "--device", device)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
