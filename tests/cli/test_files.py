"""From what was typed to files that are read and written."""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest

from pyramid_tokenizer.cli.files import Source, find_images, find_tokens, plan_outputs
from pyramid_tokenizer.errors import DataError, ImageFileError, PyramidTokenizerError, TokenFileError


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def listed(sources: list[Source]) -> list[tuple[str, str]]:
    return [(str(source.path), str(source.name)) for source in sources]


def named(*names: str) -> list[Source]:
    return [Source(Path("in") / name, PurePath(name)) for name in names]


def plan(*names: str, out: str = "out", force: bool = False) -> list[str]:
    return [str(path) for path in plan_outputs(named(*names), out=Path(out), suffix=".tokens", force=force)]


def test_a_folder_gives_its_images_in_order_named_by_their_place_in_it(here):
    touch("p/b.jpg", "p/a.PNG", "p/notes.txt", "p/sub/a.webp")
    assert listed(find_images(["p"])) == [("p/a.PNG", "a.PNG"), ("p/b.jpg", "b.jpg"), ("p/sub/a.webp", "sub/a.webp")]


def test_files_keep_their_order_and_an_unknown_suffix_is_taken_at_its_word(here):
    touch("p/b.jpg", "a.raw")
    assert listed(find_images(["p/b.jpg", "a.raw"])) == [("p/b.jpg", "b.jpg"), ("a.raw", "a.raw")]


def test_a_quoted_glob_finds_files_and_folders(here):
    touch("p1/a.jpg", "p1/b.png", "p2/c.jpg")
    assert listed(find_images(["p1/*.jpg"])) == [("p1/a.jpg", "a.jpg")]
    assert listed(find_images(["p*"])) == [("p1/a.jpg", "a.jpg"), ("p1/b.png", "b.png"), ("p2/c.jpg", "c.jpg")]
    assert listed(find_images(["**/c.jpg"])) == [("p2/c.jpg", "c.jpg")]


def test_a_name_with_brackets_is_a_name_first(here):
    touch("[1].png", "1.png")
    assert listed(find_images(["[1].png"])) == [("[1].png", "[1].png")]


def test_a_file_that_is_named_twice_is_read_once(here):
    touch("p/a.png", "p/b.png")
    Path("link.png").symlink_to("p/b.png")
    absolute = str(here / "p" / "b.png")
    found = listed(find_images(["p/b.png", "p", "./p/b.png", "p/../p/b.png", absolute, "link.png"]))
    assert found == [("p/b.png", "b.png"), ("p/a.png", "a.png")]


def test_a_link_to_a_file_of_the_same_folder_is_counted_as_passed_over(here):
    touch("p/b.png", "p/c.png")
    Path("p/a.png").symlink_to("b.png")
    found = find_images(["p", "./p/c.png"])
    assert listed(found) == [("p/a.png", "a.png"), ("p/c.png", "c.png")]
    assert list(found.passed_over) == [Path("p/b.png")]


def test_token_files_are_found_in_folders_by_their_suffix(here):
    touch("t/sub/a.tokens", "t/a.png")
    assert listed(find_tokens(["t"])) == [("t/sub/a.tokens", "sub/a.tokens")]


@pytest.mark.parametrize(
    ("find", "argument", "error", "message"),
    [
        (find_images, "nope.png", ImageFileError, "'nope.png'"),
        (find_images, "none/*.png", ImageFileError, "'none/\\*.png'"),
        (find_images, "empty", DataError, "'empty'"),
        (find_images, "", ImageFileError, "''"),
        (find_tokens, "nope.tokens", TokenFileError, "'nope.tokens'"),
        (find_tokens, "empty", TokenFileError, "'empty'"),
    ],
)
def test_nothing_found_is_an_error_that_names_what_was_typed(here, find, argument, error, message):
    (here / "empty").mkdir()
    with pytest.raises(error, match=message):
        find([argument])


def test_results_lie_in_the_folder_as_their_sources_lay(here):
    assert plan("a.jpg", "sub/a.jpg", "v1.2.png") == ["out/a.tokens", "out/sub/a.tokens", "out/v1.2.tokens"]


def test_one_source_may_be_given_a_file(here):
    assert plan("a.jpg", out="there/x.tokens") == ["there/x.tokens"]


def test_an_existing_folder_is_a_folder_whatever_its_name(here):
    (here / "x.tokens").mkdir()
    assert plan("a.jpg", out="x.tokens") == ["x.tokens/a.tokens"]


def test_sources_of_one_stem_keep_their_suffixes(here):
    assert plan("a.jpg", "a.png", "b.png") == ["out/a.jpg.tokens", "out/a.png.tokens", "out/b.tokens"]


def test_names_that_differ_in_case_alone_are_one_name(here):
    assert plan("A.jpg", "a.png") == ["out/A.jpg.tokens", "out/a.png.tokens"]
    assert plan("A.jpg", "a.jpg") == ["out/A.jpg.tokens", "out/a.jpg-2.tokens"]


def test_a_longer_name_may_clash_in_turn(here):
    names = ["out/a.jpg.tokens", "out/a.jpg.png.tokens", "out/a.png.tokens"]
    assert plan("a.jpg", "a.jpg.png", "a.png") == names


def test_sources_of_one_name_from_two_folders_are_refused_by_both_paths(here):
    sources = [Source(Path(folder) / "a.jpg", PurePath("a.jpg")) for folder in ("p", "q")]
    with pytest.raises(PyramidTokenizerError, match=r"'a\.jpg\.tokens' .*'p/a\.jpg' and 'q/a\.jpg'"):
        plan_outputs(sources, out=Path("out"), suffix=".tokens", force=True)


def test_existing_results_are_replaced_by_force_alone(here):
    touch("out/a.tokens", "out/b.tokens")
    with pytest.raises(PyramidTokenizerError, match=r"'out/a\.tokens' and 1 more.*--force"):
        plan("a.jpg", "b.jpg", "c.jpg")
    assert plan("a.jpg", "b.jpg", force=True) == ["out/a.tokens", "out/b.tokens"]


@pytest.mark.parametrize(
    ("sources", "out", "expected"),
    [
        (("a.jpg", "b.jpg"), "x.tokens", "2 files .*'x.tokens'"),
        (("a.jpg",), "x.png", ".tokens.*'x.png'"),
        (("a.jpg", "b.jpg"), "file", "2 files .*'file'"),
    ],
)
def test_a_file_where_a_folder_is_needed_is_refused(here, sources, out, expected):
    touch("file")
    with pytest.raises(PyramidTokenizerError, match=expected):
        plan(*sources, out=out)
