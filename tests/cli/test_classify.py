"""`classify`: images or token files and names -> the names that suit each best."""

from __future__ import annotations

import pytest

from pyramid_tokenizer.tokens.pyramid import TokenPyramid

NAMES = ["cat|kitten", "dog", "bicycle|bike"]


@pytest.fixture
def classify(run, model, photos):
    def call(*arguments: object):
        return run("classify", *arguments, "--names", ",".join(NAMES), "--model", model)

    return call


def rows_of(stdout: str) -> list[list[str]]:
    """Cells below the table's head."""
    return [line.split() for line in stdout.splitlines()[2:]]


def expected_rows(found, titles: list[str]) -> list[list[str]]:
    rows = []
    for title, scores in zip(titles, found.scores.tolist(), strict=True):
        best = sorted(zip(scores, found.names, strict=True), reverse=True)
        cells = [[name, f"{score:.3f}"] for score, name in best]
        rows += [[*title.split(), *cells[0]], *cells[1:]]
    return rows


def test_the_table_has_the_figures_of_the_library_best_names_first(classify, tok, photos):
    done = classify("photos/a.png", "photos/b.png")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == ["file", "name", "similarity"]
    expected = []
    for name in ("photos/a.png", "photos/b.png"):
        expected += expected_rows(tok.classify(tok.encode(name), NAMES), [name])
    assert rows_of(done.stdout) == expected


def test_tokens_have_the_names_of_their_image(classify, tokens):
    image, stored = classify("photos/a.png"), classify("--tokens", "tokens/a.tokens")
    assert stored.exit_code == 0, stored.stderr
    assert rows_of(stored.stdout.replace("tokens/a.tokens", "photos/a.png")) == rows_of(image.stdout)


@pytest.mark.parametrize(("top", "rows"), [(2, 2), (99, 3)])
def test_top_is_how_many_names_are_shown_at_most(classify, photos, top, rows):
    done = classify("photos/a.png", "--top", top)
    assert len(rows_of(done.stdout)) == rows
    assert rows_of(done.stdout) == rows_of(classify("photos/a.png").stdout)[:rows]


def test_images_of_one_token_file_are_told_apart(classify, tok, photos):
    both = TokenPyramid.cat([tok.encode(photos / name) for name in ("b.png", "trip/a.png")])
    both.save("both.tokens")
    done = classify("--tokens", "both.tokens")
    titles = ["both.tokens, image 0", "both.tokens, image 1"]
    assert rows_of(done.stdout) == expected_rows(tok.classify(both, NAMES), titles)


def test_tokens_of_another_tokenizer_are_refused_by_file(run, other_model, tokens):
    done = run("classify", "--tokens", "tokens/a.tokens", "--names", "cat,dog", "--model", other_model)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: tokens/a.tokens: ")
    assert done.stderr.count("\n") == 1


def test_names_that_look_like_markup_are_shown_as_they_are(run, model, photos):
    done = run("classify", "photos/a.png", "--names", '[":smile:", "[red]cat"]', "--model", model)
    assert {row[-2] for row in rows_of(done.stdout)} == {"[red]cat", ":smile:"}
