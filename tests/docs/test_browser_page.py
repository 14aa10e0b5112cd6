"""The built page in a headless Chromium against Python: ids, pixels, words, and what it says about files that it cannot read."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from pyramid_tokenizer import PyramidTokenizer, Segmenter
from pyramid_tokenizer.export import reader
from pyramid_tokenizer.tokens.palette import code_colours
from tests.browser import Browser, needs_browser, open_browser

pytestmark = [pytest.mark.long, needs_browser]
ROOT = Path(__file__).parents[2]
SECONDS = 240  # the model is loaded and run in one thread, on machines that have other work
MOST_BYTES = 40_000_000
LEFT, END = "\ue012", "\ue010"
GET = "return import('./page.js').then(({ state }) => %s)"
PLANES = "Array.from(%s.planes)"


class _Handler(SimpleHTTPRequestHandler):
    """Files of a folder, as any static host serves them: no headers of its own, no log."""

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page, built by what `make browser` runs; it keeps an earlier export of the same model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs" / "browser")
        from build import build

        out = tmp_path_factory.mktemp("built") / "page"
        build(out, kept=ROOT / "build" / "browser-parts")
    return out


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[Path], str]]:
    """serve(folder) -> its address."""
    servers = []

    def start(folder: Path) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
        servers.append(server)
        Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/index.html"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("browser"), height=1400) as browser:
        yield browser


@pytest.fixture
def page(chromium: Browser, built: Path, serve: Callable[[Path], str]) -> Iterator[Browser]:
    """The page, newly opened; at the end, no error was in its console."""
    chromium.open(serve(built))
    chromium.wait(lambda: "MB" in chromium.find("#status").text)
    yield chromium
    assert chromium.errors == []


@pytest.fixture(scope="module")
def tok() -> PyramidTokenizer:
    return PyramidTokenizer.from_pretrained("tiny")


def write(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def choose(browser: Browser, file: Path, size: str = "nothing") -> None:
    """Chooses a file and how its short side is resized, and waits until it is encoded and decoded."""
    browser.find("#size").type(size)
    browser.find("#file").type(str(file))
    browser.wait(lambda: re.search(rf"{file.name}: .* and decoded", browser.find("#status").text), SECONDS)


def ids_of(browser: Browser) -> list[np.ndarray]:
    levels = browser.run(GET % "state.levels.map((level) => ({ ...level, ids: [...level.ids] }))")
    return [np.array(level["ids"]).reshape(level["height"], level["width"]) for level in levels]


def image_of(browser: Browser, name: str) -> np.ndarray:
    size = browser.run(GET % "[3, state.image.height, state.image.width]")
    return np.array(browser.run(GET % (PLANES % f"state.{name}")), np.float32).reshape(size)


def canvas_of(browser: Browser, selector: str) -> np.ndarray:
    """The (H, W, 3) pixels of a canvas."""
    script = """
    const canvas = document.querySelector(arguments[0]), { width, height } = canvas;
    return [height, width, ...canvas.getContext("2d").getImageData(0, 0, width, height).data];"""
    height, width, *values = browser.run(script, selector)
    return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]


@pytest.mark.parametrize(("photo", "height", "width"), [("astronaut", 256, 320), ("chelsea", 250, 333)])
def test_the_same_pixels_have_pythons_ids_and_decode_as_in_python(
    page: Browser, tok: PyramidTokenizer, tmp_path: Path, photo: str, height: int, width: int
) -> None:
    file = write(tmp_path / "photo.png", getattr(data, photo)()[:height, :width])
    choose(page, file)
    tokens = tok.encode(file, levels=len(tok.quantizer.levels))
    np.testing.assert_array_equal(image_of(page, "image"), reader.read_image(file))
    found = ids_of(page)
    assert [ids.shape for ids in found] == list(tokens.grids)
    for ids, expected in zip(found, tokens.ids, strict=True):
        np.testing.assert_array_equal(ids, expected[0].numpy())
    for count in range(1, len(found) + 1):
        decoded = image_of(page, f"decoded[{count}]")
        np.testing.assert_allclose(decoded, tok.decode(tokens[:count])[0].numpy(), atol=1e-3, rtol=0)


def test_a_photo_is_resized_as_the_reader_resizes_it(page: Browser, tok: PyramidTokenizer, tmp_path: Path) -> None:
    file = write(tmp_path / "photo.png", data.coffee())
    choose(page, file, "256")
    expected = reader.read_image(file, 256)
    np.testing.assert_allclose(image_of(page, "image"), expected, atol=1e-6, rtol=0)
    tokens = tok.encode(torch.from_numpy(expected)[None], levels=len(tok.quantizer.levels))
    pairs = list(zip(ids_of(page), tokens.ids, strict=True))
    assert sum(int((ids != own[0].numpy()).sum()) for ids, own in pairs) <= sum(ids.size for ids, _ in pairs) / 10_000


def test_the_slider_shows_what_each_prefix_of_levels_decodes_to(
    page: Browser, tok: PyramidTokenizer, tmp_path: Path
) -> None:
    file = write(tmp_path / "photo.png", data.astronaut()[:128, 128:320])
    choose(page, file)
    tokens = tok.encode(file, levels=len(tok.quantizer.levels))
    slider = page.find("#levels")
    assert slider.get("value") == "3"
    slider.type(END)
    for count in (4, 3, 2, 1):
        named = "level 0" if count == 1 else f"levels 0 to {count - 1}"
        page.wait(lambda named=named: page.find("#levels-shown").text == named)
        rate = tokens[:count].bits_per_pixel + 1e-9  # as JavaScript, which rounds .0625 up
        shown = f"{tokens[:count].num_tokens:,} tokens: {rate:.3f} bits per pixel"
        page.wait(lambda shown=shown: shown in page.find("#decoded-told").text)
        expected = tok.decode(tokens[:count])[0].permute(1, 2, 0).numpy() * 255
        np.testing.assert_allclose(canvas_of(page, "#decoded").astype(float), expected, atol=0.5 + 0.255)
        assert len(page.find_all("#maps .unused")) == 4 - count
        slider.type(LEFT)
    for level, ids in enumerate(tokens.ids):
        stride = tok.quantizer.strides[level]
        middles = canvas_of(page, f"#maps figure:nth-child({level + 1}) canvas")[
            stride // 2 :: stride, stride // 2 :: stride
        ]
        np.testing.assert_array_equal(middles, code_colours(ids[0].numpy()))


def test_a_word_shows_its_similarity_and_its_places(page: Browser, tok: PyramidTokenizer, tmp_path: Path) -> None:
    file = write(tmp_path / "photo.png", data.chelsea()[:192, :256])
    choose(page, file)
    tokens = tok.encode(file)
    cosine = float(tok.embedding(tokens)[0] @ tok.text.encode_names(["cat"]).embeddings[0])
    page.find("#word").type("CAT\ue007")
    page.wait(lambda: f"cat: cosine {cosine:.2f}" in page.find("#word-told").text, SECONDS)
    assert page.run(GET % "state.cosines[state.word]") == pytest.approx(cosine, abs=1e-4)
    scores = Segmenter(tok).class_scores(tokens, ["cat"], mode="lookup")[0, 0]
    enlarge = "import('./words.js').then(({ enlarge }) => Array.from(enlarge(state.heat, state.heat.stride).values))"
    found = torch.tensor(page.run(GET % enlarge)).view_as(scores)
    torch.testing.assert_close(found, scores, atol=1e-4, rtol=0)
    heat = canvas_of(page, "#photo").astype(int)
    warm = torch.from_numpy(heat[..., 0] - heat[..., 2])  # red less blue: none in the photo in grey
    assert warm.flatten()[scores.argmax()] > 150 and warm.flatten()[scores.argmin()] == 0
    page.find("#word").clear()
    page.find("#word").type("zzz\ue007")
    assert all(part in page.find("#word-told").text for part in ("1,000 words", "zzz"))
    page.find("#nearest button").click()
    best = page.find("#nearest button").text.rsplit(" ", 1)[0]
    page.wait(lambda: page.find("#word-told").text.startswith(f"{best}: cosine"))
    assert "place 1 of 1,000" in page.find("#word-told").text


def test_a_cell_is_chosen_by_keys_and_the_ids_are_tokens_in_python(
    page: Browser, tok: PyramidTokenizer, tmp_path: Path
) -> None:
    file = write(tmp_path / "photo.png", data.rocket()[200:296, 250:378])
    choose(page, file)
    tokens = tok.encode(file, levels=4)
    page.run("document.querySelector('#maps canvas').focus()")
    page.find("#maps canvas").type("\ue015\ue014\ue014")  # down, right, right
    told = f"Level 0, row 1, column 2: token {int(tokens.ids[0][0, 1, 2]):,}"
    page.wait(lambda: page.find("#cell-told").text.startswith(told))
    page.find("#download").click()
    saved = json.loads(page.wait_for_download("tokens*.json").read_text())
    assert saved["fingerprint"] == tok.fingerprint
    ids = [torch.tensor(level) for level in saved["ids"]]
    assert tok.tokens(ids, image_size=saved["image_size"], image_ids=saved["image_ids"]) == tokens


def test_a_broken_file_is_told_and_the_next_one_works(page: Browser, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 no photo")
    page.find("#file").type(str(broken))
    page.wait(lambda: "broken.jpg" in page.find("#error").text)
    assert page.find("#error").get("role") == "alert" and not page.find("#results").is_shown
    choose(page, write(tmp_path / "whole.png", data.chelsea()[:64, :64]))
    assert not page.find("#error").is_shown and page.find("#results").is_shown


def test_a_photo_that_is_too_large_and_a_model_that_is_not_there_are_told(
    chromium: Browser, built: Path, serve: Callable[[Path], str], tmp_path: Path
) -> None:
    partly = tmp_path / "page"
    shutil.copytree(built, partly, ignore=shutil.ignore_patterns("encode.onnx"))
    chromium.open(serve(partly))
    chromium.wait(lambda: "MB" in chromium.find("#status").text)
    chromium.find("#size").type("nothing")
    chromium.find("#file").type(str(write(tmp_path / "large.png", np.zeros((1100, 1000, 3), np.uint8))))
    chromium.wait(lambda: "1000 x 1100" in chromium.find("#error").text, SECONDS)
    chromium.find("#samples button").click()
    chromium.wait(lambda: "model/encode.onnx" in chromium.find("#error").text, SECONDS)
    assert "404" in chromium.find("#error").text


def test_the_page_is_small_and_as_wide_as_a_phone(built: Path, serve: Callable[[Path], str], tmp_path: Path) -> None:
    assert sum(path.stat().st_size for path in built.rglob("*") if path.is_file()) <= MOST_BYTES
    with open_browser(tmp_path, width=500) as browser:
        browser.open(serve(built))
        browser.run("document.getElementById('results').hidden = false; document.body.style.width = '360px'")
        parts = "[...document.querySelectorAll('button, input, select, figure, p')]"
        right = "(part) => part.getBoundingClientRect().right"
        assert browser.run(f"const right = {right}; return Math.max(...{parts}.map(right)) - right(document.body)") <= 0
        unnamed = "(part) => !part.labels?.length && !part.getAttribute('aria-label')"
        assert browser.run(f"return [...document.querySelectorAll('input, select')].filter({unnamed}).length") == 0
