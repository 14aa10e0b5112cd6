"""What `segment` and `classify` share: names and inputs as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyramid_tokenizer.cli.words import find_inputs, read_background, read_names
from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.tokens.pyramid import TokenPyramid

USER_CACHE = "../cache/pyramid-tokenizer/text"
COMMANDS = [("segment", "--classes"), ("classify", "--names")]


def assert_refused(done, message: str) -> None:
    """In one line, before anything is written."""
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: expected ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("command", "option"), COMMANDS)
def test_empty_and_repeated_names_are_refused_before_the_model_is_loaded(run, photos, command, option):
    for names, facts in {"": "names[0]", "cat,,dog": "names[1]", "cat,dog,Cat": "names[2] 'Cat'"}.items():
        assert_refused(run(command, photos, option, names, "--model", "no such model"), facts)


@pytest.mark.parametrize(("command", "option"), COMMANDS)
def test_names_come_from_a_list_or_from_a_file_and_from_one_of_them(run, photos, here, command, option):
    (here / "names.txt").write_text("cat\n")
    for names in ([], [option, "dog", f"{option}-file", "names.txt"]):
        assert_refused(run(command, photos, *names), f"{option} or {option}-file")


@pytest.mark.parametrize(("command", "option"), COMMANDS)
def test_inputs_are_images_or_token_files_and_not_both(run, tokens, photos, command, option):
    assert_refused(run(command, option, "cat,dog"), "IMAGES or --tokens")
    both = run(command, photos / "a.png", "--tokens", tokens, option, "cat,dog")
    assert_refused(both, f"'{photos / 'a.png'}' and '{tokens}'")
    assert_refused(run(command, "--tokens", tokens, option, "cat,dog", "--size", 16), "--size")


@pytest.mark.parametrize(("command", "option"), COMMANDS)
def test_inputs_that_are_not_there_are_told(run, here, command, option):
    for arguments in (["photo.jpg"], ["--tokens", "photo.jpg"], ["photo.tokens"]):
        done = run(command, *arguments, option, "cat,dog")
        assert_refused(done, repr(arguments[-1]))


def test_a_list_is_cut_at_commas_and_a_file_at_lines(tmp_path):
    file = tmp_path / "names.txt"
    file.write_bytes('\ufeff# animals\n\n  "cat, or kitten"\r\ncar|automobile\n   # no more\nöl\n'.encode())
    assert read_names(None, file, option="--names") == ["cat, or kitten", "car|automobile", "öl"]
    assert read_names("cat, car|automobile", None, option="--names") == ["cat", "car|automobile"]


@pytest.mark.parametrize(
    "typed", ["cat, dog", '["cat", "dog"]', "cat;dog", "'cat', 'dog'", "1. cat, 2. dog", "cat\ndog"]
)
def test_a_typed_list_may_have_any_form_of_a_list(typed):
    assert read_names(typed, None, option="--names") == ["cat", "dog"]
    assert read_background(typed, None) == ["cat", "dog"]


def test_the_name_of_a_file_is_no_name_of_a_class():
    with pytest.raises(ConfigError, match=r"'lists/classes\.txt'.* --classes-file"):
        read_names("lists/classes.txt", None, option="--classes")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[cat, dog]", "JSON array"),
        (b"cat, kitten\ndog\n", "'cat, kitten'"),
        (None, "--names-file, got none at"),
        (b"\xff\xfe", "can't decode"),
        (b"# cat\n\n", "--names-file"),
    ],
)
def test_a_file_without_names_is_told(tmp_path, content, message):
    file = tmp_path / "names.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as error:
        read_names(None, file, option="--names")
    assert str(file) in str(error.value)


def test_a_word_of_the_background_is_no_class(tmp_path):
    with pytest.raises(ConfigError, match=r"names\[1\] 'wall' .*background\[0\] 'wall'"):
        read_names("cat,wall", None, option="--classes", background=["wall"])


def test_token_files_that_a_shell_put_among_the_arguments_are_token_files(tokens):
    first, second = str(tokens / "a.tokens"), str(tokens / "trip" / "a.tokens")
    inputs = find_inputs([second], [first], size=None)
    assert inputs.are_tokens
    assert [source.path for source in inputs.sources] == [Path(first), Path(second)]
    assert inputs.read(inputs.sources[0]) == TokenPyramid.load(first)


def test_images_are_read_at_their_size_or_at_the_one_asked_for(photos):
    for size, shape in ((None, (1, 3, 32, 40)), (16, (1, 3, 16, 20))):
        inputs = find_inputs([str(photos / "a.png")], None, size=size)
        assert inputs.read(inputs.sources[0]).shape == shape


@pytest.mark.parametrize(("command", "option"), COMMANDS)
@pytest.mark.parametrize(("typed", "folder"), [(None, USER_CACHE), ("kept", "kept"), ("none", None)])
def test_embeddings_of_words_are_kept_where_asked_for(run, model, photos, here, command, option, typed, folder):
    more = [] if typed is None else ["--text-cache", typed]
    assert run(command, photos / "a.png", option, "cat,dog", "--model", model, *more).exit_code == 0
    kept = [path.parent for path in here.parent.rglob("*.safetensors")]
    assert kept == ([] if folder is None else [(here / folder).resolve()])


def test_token_files_and_folders_of_them_may_be_repeated(tokens, here):
    (tokens / "a.tokens").rename(here / "first.tokens")
    inputs = find_inputs(None, ["first.tokens", "tokens"], size=None)
    assert [str(source.name) for source in inputs.sources] == ["first.tokens", "trip/a.tokens"]


@pytest.mark.parametrize(("command", "option"), COMMANDS)
def test_images_that_cannot_be_read_are_passed_over_named_and_counted(run, model, photos, command, option):
    (photos / "aa.jpg").write_bytes(b"not an image")
    lines = ["-v"] if command == "segment" else []
    done = run(command, "photos", option, "cat,dog", "--model", model, *lines)
    assert done.exit_code == 1
    assert all(f"photos/{name}" in done.stdout for name in ("a.png", "b.png", "trip/a.png"))
    told = done.stderr.splitlines()
    assert "aa.jpg" in told[0]
    assert "1 of 4" in told[1]


@pytest.mark.parametrize("command", [["segment", "--classes", "cat,dog,sky"], ["classify", "--names", "cat,dog,sky"]])
def test_words_are_read_before_the_images_with_a_bar_of_their_own(run, model, photos, bars, command):
    done = run(command[0], photos / "a.png", *command[1:], "--model", model, "--text-cache", "none")
    assert done.exit_code == 0, done.stderr
    assert bars == {"words": (3, 3)}
