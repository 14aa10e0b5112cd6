"""The app in a real headless Chromium: a photo goes in, the slider moves, words are typed, files come out; nothing is fetched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyramid_tokenizer.datasets import tokenize
from pyramid_tokenizer.images.pixels import to_pil
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from tests.browser import Browser, Element, needs_browser, open_browser

pytest.importorskip("gradio")
pytestmark = [pytest.mark.slow, needs_browser]
SECONDS = 120
"""Each step waits so long for the page: a first one loads code, on a machine that runs other tests too."""

# As `pyramid-tokenizer app`, with every connection to another machine refused and noted.
REFUSING = """
import signal, socket, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have turned it off for what it starts
connect = socket.socket.connect

def connect_here(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        print("refused", address, file=sys.stderr, flush=True)
        raise ConnectionRefusedError(address)
    return connect(self, address)

socket.socket.connect = connect_here
from pyramid_tokenizer.cli import main
main()
"""
RETURN, LEFT, BACKSPACE = "\ue006", "\ue012", "\ue003"
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, smooth) -> Path:
    """Has photo.png and a token dataset, `set`, of two photos."""
    folder = tmp_path_factory.mktemp("app")
    to_pil(smooth(1, 300, 450, seed=4))[0].save(folder / "photo.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 not a photo")
    tokenize(smooth(2, 96, 96, seed=5), folder / "set", model="tiny", workers=0)
    return folder


@pytest.fixture(scope="module")
def server(folder) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of the app, and its process."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "TMPDIR": str(folder),
    }
    command = [sys.executable, "-c", REFUSING, "app", "--port", "0", "--dataset", str(folder / "set")]
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("app: http://127.0.0.1:"), line + (process.stderr.read() if process.stderr else "")
        yield line.split()[1], process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def browser(folder) -> Iterator[Browser]:
    with open_browser(folder, width=1440, height=1200) as browser:
        browser.open("about:blank")
        assert browser.requests is not None  # those of the browser's own first page are left behind
        yield browser


def find(browser: Browser, selector: str) -> Element:
    """The element, once there is one."""
    return browser.wait(lambda: browser.find(selector), SECONDS)


def wait_for(browser: Browser, selector: str, text: str) -> None:
    """Waits until the element shows the text."""
    browser.wait(lambda: text in " ".join(browser.find(selector).text.split()), SECONDS)


def download(browser: Browser, name: str, file: str) -> Path:
    """What a button gives, as the browser has saved it."""
    enabled = (
        "const one = document.querySelector(arguments[0]); return !one.disabled && !one.querySelector('[disabled]')"
    )
    browser.wait(lambda: browser.run(enabled, f"#download-{name}"), SECONDS)
    browser.find(f"#download-{name}").click()
    return browser.wait_for_download(file)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_broken_file_gives_a_message_and_no_traceback(browser, server, folder):
    browser.open(server[0])
    find(browser, "#file input[type=file]").type(str(folder / "broken.jpg"))
    wait_for(browser, "#message .pt-error", "broken.jpg")
    assert "Traceback" not in browser.text


def test_a_photo_is_opened_and_looked_at(browser, server, folder):
    browser.open(server[0])
    find(browser, "#file input[type=file]").type(str(folder / "photo.png"))
    wait_for(browser, "#message", "450 x 300 to 384 x 256 px")
    wait_for(browser, "#figures", "96 + 384 + 1,536 tokens")

    find(browser, "#levels input[type=range]").type(LEFT)
    wait_for(browser, "#figures", "96 + 384 tokens")
    tokens = TokenPyramid.load(download(browser, "tokens", "photo.tokens"))
    assert (len(tokens), tokens.image_size) == (2, (256, 384))
    assert read(download(browser, "decoded", "photo.decoded.png")).shape == (256, 384, 3)

    browser.click_at(find(browser, "#photo img"), 0.76, 0.27)  # about column 292, row 69
    wait_for(browser, "#place", f"0 {int(tokens.ids[0][0, 2, 9])} 2 9 ")
    wait_for(browser, "#place", f"1 {int(tokens.ids[1][0, 4, 18])} 4 18 ")
    assert find(browser, "#same-tokens img")

    words = find(browser, "#words textarea")
    words.type("sky, grass, <b>${1+1}" + RETURN)
    wait_for(browser, "#words-message .pt-error", "<b>${1+1}")  # neither markup nor a template
    words.type(BACKSPACE * 11 + RETURN)
    find(browser, "#masks img")
    labels = read(download(browser, "label", "photo.labels.png"))
    assert labels.shape == (256, 384) and set(np.unique(labels)) <= {0, 1}
    height, width, _ = read(download(browser, "masks", "photo.masks.png")).shape
    assert height > 256 and width == 384  # with a legend


def test_a_dataset_is_searched_and_a_found_image_opened(browser, server, folder):
    tabs = "[...document.querySelectorAll('button[role=tab]')]"
    browser.run(f"{tabs}.find(one => one.textContent.includes('Search')).click()")
    find(browser, "#search-words textarea").type("a cat" + RETURN)
    wait_for(browser, "#search-message", "2 best of 2")
    find(browser, "#found img").click()
    wait_for(browser, "#message", "tokens and no photo")
    wait_for(browser, "#figures", "9 + 36 tokens")


def test_nothing_was_asked_of_another_machine_and_an_interruption_is_the_end(browser, server, folder):
    address, process = server
    asked = browser.requests
    assert len(asked) > 20
    assert [one for one in asked if not one.startswith(address)] == []
    assert [one for one in browser.errors if "Content Security Policy" in one] == []
    uploads = [path for path in folder.iterdir() if path.name.startswith("pyramid-tokenizer-app-")]
    assert len(uploads) == 1
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (0, "")
    assert not uploads[0].exists()
