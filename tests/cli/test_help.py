"""Help that helps: an example for every command, the nearest right name, and a summary in place of many lines."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from pyramid_tokenizer.cli import app
from pyramid_tokenizer.cli.examples import EXAMPLES


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
        (("segment", photos, "--classes-file", "clases.txt", "--model", model), "did you mean 'classes.txt'?"),
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
