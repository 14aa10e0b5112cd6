"""A folder with files of every bad kind: each is named and counted, and all others are worked on."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from pyramid_tokenizer.cli import encode as encode_module
from pyramid_tokenizer.cli.group import printable
from pyramid_tokenizer.cli.terminal import Failures, concerns_one_file
from pyramid_tokenizer.errors import ConfigError, ImageFileError, TokenFileError
from pyramid_tokenizer.tokens.pyramid import TokenPyramid

# `.labels.png` makes the first too long for any file system, `.png` and `.tokens` the second
LONG = "x" * 251
UNDECODABLE = os.fsdecode(b"\xe9cole")


@pytest.fixture
def bad(photos: Path, here: Path) -> Path:
    """photos with names that are too long, undecodable, of two lines, and clashing."""
    for name in (f"{LONG}.tif", f"{UNDECODABLE}.png", "two\nlines.png", "a.jpg", "a.jpg.png", "A.png"):
        (photos / name).write_bytes((photos / "a.png").read_bytes())
    return photos


def test_names_of_any_kind_end_no_encode_and_decode(run, model, bad, here):
    done = run("encode", bad, "--model", model)
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1].startswith("8 of 9 images, ")
    assert LONG in done.stderr.splitlines()[0]
    assert done.stderr.splitlines()[1].startswith("error: 1 of 9 files ")
    names = sorted(path.relative_to("tokens").as_posix() for path in Path("tokens").rglob("*.tokens"))
    expected = ["A.png.tokens", "a.jpg.png.tokens", "a.jpg.tokens", "a.png-2.tokens", "b.tokens", "trip/a.tokens"]
    assert names == sorted([*expected, "two\nlines.tokens", f"{UNDECODABLE}.tokens"])

    Path("decoded/b.png").mkdir(parents=True)  # the place of one result is taken by a folder
    back = run("decode", "tokens", "--model", model, "--force")
    assert back.exit_code == 1
    assert back.stderr.splitlines()[1].startswith("error: 1 of 8 files ")
    assert sum(path.is_file() for path in Path("decoded").rglob("*.png")) == 7


@pytest.mark.parametrize(
    "command", ["segment", *(pytest.param(each, marks=pytest.mark.slow) for each in ("reconstruct", "classify"))]
)
def test_names_of_any_kind_end_no_other_command(run, model, photos, command):
    for name in (f"{LONG}.tif", "a.labels.png"):
        (photos / name).write_bytes((photos / "a.png").read_bytes())
    (Path("reconstructed") / "trip/a.png").mkdir(parents=True)  # the place of one result is taken by a folder
    words = {"segment": ["--classes", "cat,dog", "--labels"], "classify": ["--names", "cat,dog"]}.get(command, [])
    words += [] if command == "classify" else ["--force"]
    words += [] if command == "classify" else ["--verbose"]
    done = run(command, photos, "--model", model, *words)
    # the label map of a.png has the name of the overlay of a.labels.png; `classify` writes no file
    expected = {"segment": 2, "reconstruct": 1, "classify": 0}[command]
    assert done.exit_code == (1 if expected else 0)
    assert ([line for line in done.stderr.splitlines() if line.startswith(f"error: {expected} of 5 files ")] != []) == (
        expected > 0
    )
    assert "b.png" in done.stdout


def test_a_file_without_rights_and_one_that_vanishes_end_no_run(run, model, photos, monkeypatch):
    find = encode_module.find_images

    def vanish(arguments):
        sources = find(arguments)
        (photos / "a.png").unlink()
        return sources

    monkeypatch.setattr(encode_module, "find_images", vanish)
    save = TokenPyramid.save

    def refuse(self, path):
        if "trip" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        save(self, path)

    monkeypatch.setattr(TokenPyramid, "save", refuse)
    done = run("encode", photos, "--model", model)
    assert (done.exit_code, done.stdout.splitlines()[-1][:14]) == (1, "1 of 3 images,")
    assert "a.png" in done.stderr.splitlines()[0]
    assert "Permission denied" in done.stderr.splitlines()[1]


def test_an_image_that_needs_too_much_memory_leaves_its_batch_alone(run, model, photos, monkeypatch):
    from pyramid_tokenizer.tokenizer import PyramidTokenizer

    many, one = PyramidTokenizer.encode_many, PyramidTokenizer.encode

    def whole(self, images, **options):
        if len(images) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return many(self, images, **options)

    def single(self, image, **options):
        if tuple(image.shape[-2:]) == (32, 40):
            raise torch.OutOfMemoryError("out of memory")
        return one(self, image, **options)

    monkeypatch.setattr(PyramidTokenizer, "encode_many", whole)
    monkeypatch.setattr(PyramidTokenizer, "encode", single)
    done = run("encode", photos, "--model", model, "--batch-size", 4)
    assert done.stdout.splitlines()[-1].startswith("2 of 3 images, ")
    assert done.stderr.splitlines()[0].startswith("error: ")
    assert "a.png" in done.stderr.splitlines()[0]


def test_an_ended_run_counts_what_was_tried(capsys):
    with pytest.raises(KeyboardInterrupt), Failures(9) as failures:
        with failures.item(Path("a.png")):
            raise ImageFileError("damaged")
        with failures.item(Path("b.png")):
            raise KeyboardInterrupt
    told = capsys.readouterr().err
    assert "1 of 2 files" in told
    assert "2 of 9 files" in told


def test_what_meets_every_file_ends_the_run():
    full = TokenFileError("no place")
    full.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    for error in (full, OSError(errno.EPIPE, "gone"), ConfigError("mode"), ValueError("a fault of ours")):
        assert not concerns_one_file(error)
    for error in (OSError(errno.ENAMETOOLONG, "x"), OSError(errno.EACCES, "x"), ImageFileError("x"), MemoryError()):
        assert concerns_one_file(error)


def test_names_are_shown_in_one_line_that_any_terminal_takes():
    assert printable(f"{UNDECODABLE}\n[é]") == "\\udce9cole\\n[é]"


@pytest.mark.parametrize("command", ["encode", "classify", "decode"])
def test_what_is_passed_over_is_counted_and_named_on_request(run, model, photos, tokens, command):
    folder = tokens if command == "decode" else photos
    for name in ("._X.JPG", "notes.txt", ".trash.tokens"):
        (folder / name).touch()
    words = ["--names", "cat,dog"] if command == "classify" else ["--force"]
    done = run(command, folder, "--model", model, *words)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("3 passed over (")
    assert "._X.JPG" not in done.stdout
    named = run(command, folder, "--model", model, *words, "--list-passed-over")
    assert [line.split(": passed over")[0] for line in named.stdout.splitlines()[:3]] == [
        str(folder / name) for name in ("._X.JPG", ".trash.tokens", "notes.txt")
    ]


def test_a_broken_link_and_a_folder_that_cannot_be_listed_are_errors(run, model, photos, monkeypatch):
    (photos / "broken.png").symlink_to("nowhere.png")
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("trip"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    done = run("encode", photos, "--model", model)
    assert (done.exit_code, done.stdout.splitlines()[-1][:14]) == (1, "2 of 4 images,")
    assert "trip" in done.stderr.splitlines()[0]
    assert "broken link" in done.stderr.splitlines()[1]
