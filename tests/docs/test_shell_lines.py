"""The command lines of the pages have options that exist, and those that need no other machine run, in the order of a page."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer

from pyramid_tokenizer.cli import app
from pyramid_tokenizer.images import to_pil

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").glob("*.md")]
LINE = re.compile(r"^ *pyramid-tokenizer (.*)$", re.MULTILINE)
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)

ELSEWHERE = {
    "s3://": "a bucket",
    "--device cuda": "a GPU",
    "--engine ray": "a cluster; tests/datasets/ runs one",
    "export ": "minutes; tests/export/ exports small models and the bundled one",
    "app ": "a server that does not end; tests/app/ runs it",
    "laion/": "a folder of archives with captions",
    "VOC2012": "the images of PASCAL VOC",
}
"""What a line may ask for that a test does not have."""
SHORTER = {
    "finetune": ["--steps", "2", "--batch-size", "2", "--crop", "64"],
    "atlas": ["--size", "64"],
    "tokenize": ["--workers", "0"],
    "evaluate reconstruction": ["--no-codecs"],
}
"""Options that make a line cheaper."""


def lines_of(page: Path) -> list[list[str]]:
    """The arguments of every line of a page's shell blocks that begins with the program's name."""
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    shell = [block for _, language, block in blocks if language in ("", "sh")]
    return [shlex.split(line, comments=True) for block in shell for line in LINE.findall(block)]


LINES = {page.relative_to(ROOT).as_posix(): lines for page in PAGES if (lines := lines_of(page))}


def test_most_pages_have_lines():
    assert len(LINES) >= 8 and sum(map(len, LINES.values())) >= 30


@pytest.mark.parametrize("page", LINES)
def test_every_line_names_a_command_and_options_that_exist(page):
    for words in LINES[page]:
        command, rest = typer.main.get_command(app), list(words)
        while hasattr(command, "commands"):
            name = rest.pop(0)
            assert name in command.commands, f"{page}: {shlex.join(words)}"
            command = command.commands[name]
        context = command.context_class(command, info_name=name)
        _, left, _ = command.make_parser(context).parse_args(rest)  # raises for an unknown option
        assert not left, f"{page}: {shlex.join(words)}"


@pytest.fixture
def folder(tmp_path, monkeypatch, smooth) -> Path:
    """A folder with the files that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "tokens", "my-masks/images", "my-masks/labels", "my-masks/splits"):
        Path(name).mkdir(parents=True)
    images = to_pil(smooth(4, 64, 96, seed=3))
    for name in ("photo.jpg", "example.jpg", "photos/photo.jpg"):
        images[0].save(name)
    for i, image in enumerate(images):
        image.save(f"photos/{i}.png")
        image.save(f"my-masks/images/{i}.png")
        image.convert("L").point(lambda value: value // 86).save(f"my-masks/labels/{i}.png")
    Path("my-masks/classes.txt").write_text("background\nsofa|couch\nperson\n")
    for split in ("train", "val"):
        Path(f"my-masks/splits/{split}.txt").write_text("0\n1\n2\n")
    Path("labels.csv").write_text("file,label\n0.png,dog\n1.png,cat\n2.png,dog\n")
    return tmp_path


def make_way(words: list[str]) -> None:
    """Removes what an earlier line left: the next line of a page writes to the same name."""
    if "--out" in words:
        shutil.rmtree(words[words.index("--out") + 1], ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("page", LINES)
def test_the_lines_of_a_page_run(page, run, folder):
    """With the bundled model; a line that needs something else is left out, and a training is two steps long."""
    ran = 0
    for words in LINES[page]:
        line = " ".join(words)
        if any(need in f"{line} " for need in ELSEWHERE):
            continue
        make_way(words)
        shorter = next((more for start, more in SHORTER.items() if line.startswith(start)), [])
        done = run(*words, *shorter)
        assert done.exit_code == 0, f"{page}: {line}\n{done.stderr}"
        ran += 1
    assert ran or page in ("docs/clusters.md", "docs/export.md")
