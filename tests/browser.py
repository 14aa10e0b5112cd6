"""A headless Chromium for tests of pages: chromedriver by its HTTP interface (W3C WebDriver), with the standard library alone.

    with open_browser(tmp_path) as browser:
        browser.open((folder / "index.html").as_uri())
        browser.find("#words").type("dog")
        browser.wait(lambda: browser.find("#found").text == "1 code")

Pages may reach 127.0.0.1 and files, and nothing else. Files that a page offers come into the folder `downloads`.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

Found = TypeVar("Found")
SECONDS = 30
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element's id in WebDriver's JSON
_DRIVER = shutil.which("chromedriver")
_CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

needs_browser = pytest.mark.skipif(
    not (_DRIVER and _CHROMIUM), reason="no chromium and chromedriver here: apt-get install chromium chromium-driver"
)
"""Marks a test that is left out where there is no browser."""


class BrowserError(Exception):
    """What chromedriver refused, with its reason, such as "no such element"."""


class Session:
    """One window of a browser, as chromedriver numbers it."""

    def __init__(self, address: str):
        self._address = address

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The value that chromedriver answers; BrowserError where it answers with an error."""
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(
            self._address + path, data, {"Content-Type": "application/json"}, method=method
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=2 * SECONDS) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            value = json.load(error)["value"]
            raise BrowserError(f"{value['error']}: {value['message']}") from None


class Element:
    """A part of the page."""

    def __init__(self, session: Session, number: str):
        self._session, self.number = session, number

    def click(self) -> None:
        """Clicks on its middle."""
        self._session.ask("POST", f"/element/{self.number}/click")

    def type(self, text: str) -> None:
        """Types at its end; into an input for files, paths (one a line) choose files. "\ue007" is Enter."""
        self._session.ask("POST", f"/element/{self.number}/value", {"text": text})

    def clear(self) -> None:
        """Empties an input."""
        self._session.ask("POST", f"/element/{self.number}/clear")

    @property
    def text(self) -> str:
        """The text that can be seen."""
        return self._session.ask("GET", f"/element/{self.number}/text")

    @property
    def is_shown(self) -> bool:
        """Whether it can be seen."""
        return self._session.ask("GET", f"/element/{self.number}/displayed")

    def get(self, name: str) -> Any:
        """A property of its object in JavaScript, such as "value" or "src"."""
        return self._session.ask("GET", f"/element/{self.number}/property/{name}")


class Browser:
    """A page in a headless Chromium."""

    def __init__(self, session: Session, downloads: Path):
        self._session, self.downloads = session, downloads

    def open(self, address: str) -> None:
        """Opens a page, file:// or http://127.0.0.1, and waits until it is loaded."""
        self._session.ask("POST", "/url", {"url": address})

    def find(self, selector: str) -> Element:
        """The first element of a CSS selector; BrowserError if there is none."""
        found = self._session.ask("POST", "/element", {"using": "css selector", "value": selector})
        return Element(self._session, found[_ELEMENT])

    def find_all(self, selector: str) -> list[Element]:
        """All elements of a CSS selector, in the order of the page."""
        found = self._session.ask("POST", "/elements", {"using": "css selector", "value": selector})
        return [Element(self._session, one[_ELEMENT]) for one in found]

    def run(self, script: str, *arguments: Any) -> Any:
        """What the body of a JavaScript function returns, as plain data; it reads `arguments`, and a promise is awaited."""
        return self._session.ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def click_at(self, element: Element, x: float, y: float) -> None:
        """Clicks on a place of an element; x and y are shares of its width and height."""
        self.run("arguments[0].scrollIntoView({block: 'center'})", {_ELEMENT: element.number})
        box = self._session.ask("GET", f"/element/{element.number}/rect")
        place = {"x": round((x - 0.5) * box["width"]), "y": round((y - 0.5) * box["height"])}  # from its middle
        moves = [
            {"type": "pointerMove", "duration": 0, "origin": {_ELEMENT: element.number}, **place},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        self._session.ask("POST", "/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": moves}]})

    def wait(self, look: Callable[[], Found], seconds: float = SECONDS) -> Found:
        """What `look` returns as soon as that is true; until then, what the page does not have yet is no error."""
        end = time.monotonic() + seconds
        while True:
            missing: BrowserError | None = None
            try:
                if found := look():
                    return found
            except BrowserError as error:
                missing = error
            if time.monotonic() > end:
                raise TimeoutError(f"nothing after {seconds} s on the page that has: {self.text!r}") from missing
            time.sleep(0.05)

    def wait_for_download(self, pattern: str = "*") -> Path:
        """The first whole file in `downloads` of this pattern."""
        parts = (".crdownload", ".tmp")
        return self.wait(
            lambda: next((file for file in self.downloads.glob(pattern) if file.suffix not in parts), None)
        )  # type: ignore[return-value]

    @property
    def text(self) -> str:
        """All text that can be seen."""
        return self.run("return document.body ? document.body.innerText : ''")

    @property
    def errors(self) -> list[str]:
        """Errors in the console since the last call: what JavaScript raised, and what could not be loaded."""
        lines = self._session.ask("POST", "/se/log", {"type": "browser"})
        return [line["message"] for line in lines if line["level"] == "SEVERE"]

    @property
    def requests(self) -> list[str]:
        """The addresses, http and ws alone, that the browser has asked for since the last call."""
        lines = self._session.ask("POST", "/se/log", {"type": "performance"})
        events = [json.loads(line["message"])["message"] for line in lines]
        kinds = {"Network.requestWillBeSent", "Network.webSocketCreated"}
        asked = [one["params"] for one in events if one["method"] in kinds]
        addresses = [one["url"] if "url" in one else one["request"]["url"] for one in asked]
        return [address for address in addresses if address.startswith(("http", "ws"))]

    def screenshot(self, file: Path) -> None:
        """Writes what can be seen as PNG."""
        file.write_bytes(base64.b64decode(self._session.ask("GET", "/screenshot")))


@contextmanager
def open_browser(folder: Path, *, width: int = 1280, height: int = 900) -> Iterator[Browser]:
    """Starts a browser whose profile and downloads lie in a folder, and ends it."""
    assert _DRIVER and _CHROMIUM
    downloads = folder / "downloads"
    downloads.mkdir(exist_ok=True)
    arguments = [
        "--headless=new",
        "--no-sandbox",  # which containers and root do not allow
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
        "--no-proxy-server",
        "--force-device-scale-factor=1",
        f"--window-size={width},{height}",
        f"--user-data-dir={folder / 'profile'}",
    ]
    preferences = {"download.default_directory": str(downloads), "download.prompt_for_download": False}
    options = {"binary": _CHROMIUM, "args": arguments, "prefs": preferences}
    logs = {"browser": "ALL", "performance": "ALL"}
    wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": logs}
    with _driver(_DRIVER, folder) as address:
        started = Session(address).ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        session = Session(f"{address}/session/{started['sessionId']}")
        try:
            yield Browser(session, downloads)
        finally:
            session.ask("DELETE", "")


@contextmanager
def _driver(program: str, folder: Path) -> Iterator[str]:
    """Runs chromedriver on a free port of its own choice; gives its address."""
    log = folder / "chromedriver.txt"
    environment = {**os.environ, "HOME": str(folder)}
    with log.open("wb") as output:
        process = subprocess.Popen([program, "--port=0"], stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        yield f"http://127.0.0.1:{_port(log, process)}"
    finally:
        process.terminate()
        process.wait(SECONDS)


def _port(log: Path, process: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        _, found, rest = log.read_text(errors="replace").partition("started successfully on port ")
        if found and "\n" in rest:
            return int(rest.split()[0].rstrip("."))
        time.sleep(0.02)
    raise BrowserError(f"chromedriver did not start: {log.read_text(errors='replace')[-500:]!r}")
