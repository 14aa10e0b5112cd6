"""The page of a codebook atlas in a real browser: its search, its order, its levels and the view of one code."""

from __future__ import annotations

import re

import pytest

from pyramid_tokenizer.images import open_images
from pyramid_tokenizer.visualize.atlas import neighbours
from pyramid_tokenizer.visualize.atlas_page import write_atlas
from pyramid_tokenizer.visualize.words import NearestWords
from tests.browser import needs_browser, open_browser

pytestmark = [pytest.mark.slow, needs_browser]
DOWN = "\ue015"
WORDS = ["dog", "hot dog", "sky", "</script><b>&"]


@pytest.fixture(scope="module")
def words(toy_tokenizer):
    return NearestWords.of(toy_tokenizer, WORDS)


@pytest.fixture(scope="module")
def folder(toy_tokenizer, words, smooth, tmp_path_factory):
    out = tmp_path_factory.mktemp("atlas")
    write_atlas(
        toy_tokenizer, open_images(list(smooth(6, 64, 64))), out, title="toy", words=words, size=None, patches=2
    )
    return out


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def page(chromium, folder):
    """The page as it is opened from disk; at the end, no error was in its console."""

    def open_at(place=""):
        chromium.open("about:blank")  # or else another place on the same page would load nothing
        chromium.open((folder / "index.html").as_uri() + place)
        return chromium

    yield open_at
    assert chromium.errors == []


def cards(browser, inside="#codes"):
    """The codes on the page, in their order."""
    shown = browser.run(
        "return [...document.querySelectorAll(arguments[0])].map(x => x.innerText)", f"{inside} .card b"
    )
    return [int(re.fullmatch(r"code (\d+)", text)[1]) for text in shown]


def search(browser, text):
    browser.find("#query").clear()
    browser.find("#query").type(text)


def nearest(words, level, word):
    return words.similarities[level][:, WORDS.index(word)].argsort(descending=True).tolist()


@pytest.mark.parametrize("word", WORDS)
def test_a_word_shows_its_nearest_codes_the_nearest_first(page, words, word):
    browser = page()
    search(browser, word.upper())
    assert cards(browser) == nearest(words, 0, word)
    assert f'"{word}"' in browser.find("#told").text


def test_a_part_of_a_word_finds_words_that_begin_so_before_those_that_have_it_inside(page, words):
    browser = page()
    search(browser, "do")
    assert cards(browser) == nearest(words, 0, "dog")
    search(browser, "t do")
    assert cards(browser) == nearest(words, 0, "hot dog")


def test_what_cannot_be_found_is_told(page):
    browser = page()
    search(browser, "zebra")
    assert cards(browser) == [] and '"zebra"' in browser.find("#told").text
    search(browser, "8")
    assert cards(browser) == [] and "0 to 7" in browser.find("#told").text
    search(browser, "7")
    assert cards(browser) == [7] and browser.find("#told").text == ""
    browser.find("#levels button:nth-child(3)").click()
    search(browser, "dog")
    assert cards(browser) == [] and "no words" in browser.find("#told").text


def test_the_orders_and_levels_show_the_codes_that_were_used(page, toy_tokenizer, smooth):
    ids = toy_tokenizer.encode(smooth(6, 64, 64)).ids[1].flatten()
    counts = ids.bincount(minlength=16).tolist()
    by_use = sorted(range(16), key=lambda code: (-counts[code], code))
    browser = page("#1")
    assert cards(browser) == by_use
    used = [code for code in range(16) if counts[code]]
    unused = [code for code in range(16) if not counts[code]]
    for wanted in (sorted(used, key=lambda code: (counts[code], code)), list(range(16)), unused):
        browser.find("#order").type(DOWN)
        assert cards(browser) == wanted
    assert browser.find("#levels [aria-pressed=true]").text == "level 1"


def test_a_code_shows_its_words_its_patches_and_its_neighbours(page, words, toy_tokenizer):
    browser = page()
    code = cards(browser)[0]
    browser.find("#codes .card").click()
    dialog = browser.find("#dialog")
    assert dialog.is_shown and f"code {code}" in dialog.text
    best = [WORDS[i] for i in words.similarities[0][code].argsort(descending=True).tolist()]
    shown = [row.text.split("\n")[0] for row in browser.find_all("#dialog .meter")]
    assert shown == best
    assert cards(browser, "#near") == neighbours(toy_tokenizer.quantizer.level(0).codebook, 8)[code].tolist()
    assert len(browser.find_all("#dialog .large .patch")) == 2
    loaded = "const i = new Image(); i.src = arguments[0]; return i.decode().then(() => i.naturalHeight)"
    address = browser.run("return getComputedStyle(document.querySelector('.large .patch')).backgroundImage")
    assert browser.run(loaded, address[len('url("') : -len('")')]) == 32  # one row of 16 codes


def test_an_address_names_a_code_or_a_word(page, words):
    browser = page("#1/5")
    assert browser.find("#dialog").is_shown and "code 5" in browser.find("#dialog").text
    browser.find("#dialog button").click()
    assert not browser.find("#dialog").is_shown
    browser = page("#0/hot%20dog")
    assert cards(browser) == nearest(words, 0, "hot dog")
