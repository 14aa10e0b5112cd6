"""docs/segmentation.md: its protocols are those of the package, its Python lines run, and so do its commands.

`python tests/docs/test_segmentation_page.py` prints the table of protocols.
"""

from __future__ import annotations

import doctest
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pyramid_tokenizer.cli import app
from pyramid_tokenizer.images.labelled import PROTOCOLS, SegmentationProtocol

PAGE = Path(__file__).parents[2] / "docs" / "segmentation.md"
BACKGROUND = {
    "none": "none; unlabelled pixels are ignored",
    "ignored": "ignored",
    "class": "class {}, by `--background` or `--threshold`",
    "words": "class {}, by words of its own",
}
FEW = ("--steps", "2", "--batch-size", "2", "--crop", "32")


def protocol_table() -> str:
    """Markdown, a row a protocol."""
    head = ["| protocol | classes | background | images, labels | split |", "|---|---|---|---|---|"]
    return "\n".join([*head, *map(_row, PROTOCOLS.values())])


def _row(protocol: SegmentationProtocol) -> str:
    layout = protocol.layout
    split = layout.default_split or "NAME"
    background = BACKGROUND[protocol.background].format(protocol.background_class)
    if protocol.num_classes is None:
        background = "none, or class 0 where that is called background"
    images = f"`{layout.image_folder.format(split=split)}/*{layout.image_suffixes[0]}`"
    labels = " or ".join(f"`{files.folder.format(split=split)}/*{files.suffix}`" for files in layout.label_files)
    listed = "" if layout.split_file is None else f"`{layout.split_file.format(split=split)}`"
    if layout.default_split is None:
        listed = f"all, or {listed}"
    names = protocol.num_classes or "as listed"
    where = "" if protocol.names else f", in `{'` or `'.join(layout.class_files)}`"
    return f"| `{protocol.name}` | {names}{where} | {background} | {images}, {labels} | {listed or f'`{split}`'} |"


def make_set(images: Path, labels: Path) -> None:
    """Two images, half class 0 and half class 1, a border ignored."""
    for folder in (images, labels):
        folder.mkdir(parents=True)
    for name in ("a", "b"):
        values = np.zeros((64, 80), dtype=np.uint8)
        values[:, 40:] = 1
        Image.fromarray(values * 200).convert("RGB").save(images / f"{name}.jpg")
        values[:4] = 255
        Image.fromarray(values).save(labels / f"{name}.png")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current directory of the page's reader: photo.jpg, my-masks/ and VOC2012/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_set(tmp_path / "my-masks" / "images", tmp_path / "my-masks" / "labels")
    (tmp_path / "my-masks" / "classes.txt").write_text("background\nsofa|couch\n")
    make_set(tmp_path / "VOC2012" / "JPEGImages", tmp_path / "VOC2012" / "SegmentationClass")
    for file in (tmp_path / "my-masks" / "splits", tmp_path / "VOC2012" / "ImageSets" / "Segmentation"):
        file.mkdir(parents=True)
        (file / "val.txt").write_text("a\nb\n")
        (file / "train.txt").write_text("b\n")
    Image.open("my-masks/images/a.jpg").save("photo.jpg")
    return tmp_path


def blocks(language: str) -> list[str]:
    return [part.split("```")[0] for part in PAGE.read_text(encoding="utf-8").split(f"```{language}\n")[1:]]


def test_the_protocols_are_those_of_the_package():
    assert protocol_table() in PAGE.read_text(encoding="utf-8"), (
        "python tests/docs/test_segmentation_page.py prints them"
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:expected every listed class")  # two images have two of VOC's twenty
@pytest.mark.filterwarnings("ignore:expected two classes or more")
def test_the_pages_python_lines_give_what_it_shows(folder):
    test = doctest.DocTestParser().get_doctest("\n".join(blocks("python")), {}, PAGE.name, str(PAGE), 0)
    output: list[str] = []
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    result = doctest.DocTestRunner(optionflags=flags).run(test, out=output.append)
    assert result.attempted >= 12
    assert not result.failed, "".join(output)


@pytest.mark.slow
def test_the_pages_commands_run(folder):
    commands = [line.partition("  #")[0] for block in blocks("sh") for line in block.splitlines() if line]
    assert len(commands) >= 10
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "pyramid-tokenizer"
        more = FEW if arguments[0] == "finetune" else ()
        done = CliRunner().invoke(app, [*arguments, *more], catch_exceptions=False)
        assert done.exit_code == 0, (command, done.stderr)


if __name__ == "__main__":
    print(protocol_table())
