"""Makes docs/app.png: the page of `pyramid-tokenizer app` in a real browser, with a photo, a place and three words.

    python -m docs.make_app_image

It needs the extra `dev`, chromium and chromedriver (on Debian `apt install chromium chromium-driver`).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from tests.browser import Browser, open_browser

TARGET = Path(__file__).resolve().with_name("app.png")
WIDTH_PX = 1280
PLACE = 0.6, 0.36
"""Shares of the photo's width and height: the forehead of the cat."""
WORDS = "cat, wall, sofa|blanket"
COLOURS = 255


def main() -> None:
    """Starts the app, does what a visitor would do, and keeps what the window then shows."""
    from skimage import data

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.fromarray(data.chelsea()).save(folder / "cat.png")
        command = [sys.executable, "-m", "pyramid_tokenizer.cli", "app", "--port", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[1]
            with open_browser(folder, width=WIDTH_PX, height=1200) as browser:
                browser.open(address)
                show(browser, folder / "cat.png")
                keep(browser, folder / "window.png")
        finally:
            server.terminate()  # it deletes what was uploaded
            server.wait()


def show(browser: Browser, photo: Path) -> None:
    """Opens the photo, finds the words and clicks the place."""
    browser.wait(lambda: browser.find("#file input[type=file]")).type(str(photo))
    browser.wait(lambda: "PSNR" in browser.find("#figures").text)
    browser.find("#words textarea").type(WORDS)
    browser.find("#find").click()
    browser.wait(lambda: browser.find("#masks img") and browser.find("#place table"))
    before = browser.find("#place").text
    browser.click_at(browser.find("#photo img"), *PLACE)
    browser.wait(lambda: browser.find("#place").text != before)
    browser.run("document.activeElement.blur(); window.scrollTo(0, 0)")
    browser.wait(lambda: not browser.find_all(".progress-text, .generating"))
    time.sleep(1)  # the toolbars of images fade


def keep(browser: Browser, window: Path) -> None:
    """Writes what the page covers of the window, in few colours."""
    bottom = browser.run(
        "return Math.max(...[...document.querySelectorAll('#same-tokens, #download-label')]"
        ".map(one => one.getBoundingClientRect().bottom))"
    )
    browser.screenshot(window)
    with Image.open(window) as taken:
        cut = taken.convert("RGB").crop((0, 0, taken.width, round(bottom) + 24))
    # three rounds of k-means halve the error; dithering would triple it, and grey the white
    few = cut.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, kmeans=3, dither=Image.Dither.NONE)
    few.save(TARGET, optimize=True)


if __name__ == "__main__":
    main()
