"""Help that helps: an example for every command, the nearest right name, and a summary in place of many lines."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from pyramid_tokenizer.cli import app
from pyramid_tokenizer.cli.examples import EXAMPLES
from pyramid_tokenizer.tokens.pyramid import TokenPyramid


def commands(group: Any) -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command)
        else:
            yield name, command


COMMANDS = dict(commands(typer.main.get_command(app)))


def test_there_is_an_example_for_each_command_and_for_no_other():
    assert sorted(EXAMPLES) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_in_the_help_has_options_that_the_command_knows(name):
    program, *words = shlex.split(EXAMPLES[name])
    command = COMMANDS[name]
    assert program == "pyramid-tokenizer"
    assert EXAMPLES[name] in command.epilog
    arguments = words[words.index(name) + 1 :]
    context = command.context_class(command, info_name=name)
    _, rest, _ = command.make_parser(context).parse_args(list(arguments))  # raises for an unknown option
    assert not rest


def test_help_ends_with_the_example(run):
    done = run("encode", "--help")
    assert " ".join(done.stdout.split()).endswith(EXAMPLES["encode"])


def test_a_misspelt_command_option_or_choice_gets_the_nearest(run):
    for arguments, nearest in (
        (("encodee", "a.png"), "'encode'"),
        (("encode", "a.png", "--modle", "tiny"), "--model"),
        (("segment", "a.png", "--mode", "lokup"), "did you mean 'lookup'?"),
    ):
        done = run(*arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert nearest in done.stderr


def test_a_misspelt_model_or_class_file_gets_the_nearest(run, photos, here, model):
    (here / "classes.txt").write_text("cat\ndog\n")
    (here / "my-model").mkdir()
    for arguments, nearest in (
        (("encode", photos, "--model", "tinny"), "did you mean 'tiny'?"),
        (("encode", photos, "--model", "./my-modle"), "did you mean 'my-model'?"),
        (("segment", photos, "--classes-file", "classes.tx", "--model", model), "did you mean 'classes.txt'?"),
    ):
        done = run(*arguments)
        assert (done.exit_code, done.stdout) == (1, "")
        assert nearest in done.stderr


def test_a_folder_gets_a_summary_and_not_a_line_per_file(run, model, photos, here):
    assert run("encode", "photos", "--model", model).stdout.count("\n") == 1
    done = run("decode", "tokens", "--model", model)
    assert done.stdout == "3 of 3 files, 3 images -> decoded\n"
    done = run("segment", "photos", "--classes", "cat,dog", "--model", model)
    assert done.stdout == "3 of 3 files -> segmented\n"
    assert run("decode", "tokens", "--model", model, "--force", "-v").stdout.count("\n") == 4


def test_every_command_has_json():
    for name, command in COMMANDS.items():
        assert any("--json" in parameter.opts for parameter in command.params), name


def test_json_has_what_the_text_has(run, model, photos, here):
    (photos / "broken.png").write_bytes(b"broken")
    done = run("encode", "photos", "--model", model, "--json")
    found = json.loads(done.stdout)
    assert (done.exit_code, found["command"], found["exit_code"]) == (1, "encode", 1)
    assert [file["image"] for file in found["files"]] == ["photos/a.png", "photos/b.png", "photos/trip/a.png"]
    assert found["files"][0]["tokens"] == 34
    assert found["lines"][-1].startswith("3 of 4 images, ")
    assert "broken.png" in found["errors"][0]
    (named,) = json.loads(run("classify", "photos/a.png", "--names", "cat,dog", "--model", model, "--json").stdout)[
        "tables"
    ]
    assert [row["name"] in ("cat", "dog") for row in named["rows"]] == [True, True]
    found = json.loads(run("info", "tokens/a.tokens", "--json").stdout)
    assert found["tables"][0]["rows"][0]["grid"] == "2x1"
    done = run("info", "no-such-model", "--json")
    assert (done.exit_code, json.loads(done.stdout)["exit_code"]) == (1, 1)
    assert "no-such-model" in json.loads(done.stdout)["errors"][0]
    assert done.stderr.startswith("error: ")


def test_an_interruption_leaves_whole_files_alone(run, model, photos, here, monkeypatch):
    replace, done = os.replace, []

    def interrupted(source: object, target: object) -> None:
        done.append(target)
        if len(done) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    stopped = run("encode", "photos", "--model", model, "--json")
    assert (stopped.exit_code, json.loads(stopped.stdout)["exit_code"]) == (130, 130)
    files = [path for path in (here / "tokens").rglob("*") if path.is_file()]
    assert [path.name for path in files] == ["a.tokens"]
    assert TokenPyramid.load(files[0]).batch_size == 1
