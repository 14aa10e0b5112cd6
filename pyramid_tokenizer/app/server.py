"""`serve`: the page at an address of this machine, with nothing fetched from elsewhere."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from pyramid_tokenizer.app.page import build_page, import_gradio, require_gradio
from pyramid_tokenizer.app.texts import STYLE
from pyramid_tokenizer.app.workbench import Workbench
from pyramid_tokenizer.errors import ConfigError

MOST_UPLOADED_BYTES = 300 * 2**20
"""A file that is dropped on the page may have as many bytes: 89 million pixels without any compression have 268 MB."""
_POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; base-uri 'self'; form-action 'self'"
_UPLOADS = "GRADIO_TEMP_DIR"
"""The variable of the environment that Gradio keeps uploads by; it is read whenever a file comes or goes."""
_GRACE_SECONDS = 1  # for open pages, which stay connected for ever


class Server:
    """A page that is being served, until `close`; `serve` makes one."""

    def __init__(self, server: Any, address: str, folder: Path, uploads_before: str | None):
        self._server, self.address, self._folder, self._uploads_before = server, address, folder, uploads_before
        self._thread: threading.Thread | None = None

    def start(self, listening: socket.socket) -> None:
        """Begins to answer at a socket, in a thread of its own."""
        thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not self._server.started and thread.is_alive():
            time.sleep(0.01)
        self._thread = thread

    def wait(self) -> None:
        """Waits until the process is interrupted."""
        while True:
            time.sleep(3600)

    def close(self) -> None:
        """Ends the server and deletes what visitors have uploaded and what was made of it."""
        logger = logging.getLogger("uvicorn.error")
        logger.disabled = True  # it would tell of each browser that is cut off
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()
        logger.disabled = False
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._uploads_before is None:
            os.environ.pop(_UPLOADS, None)
        else:
            os.environ[_UPLOADS] = self._uploads_before


def serve(bench: Workbench, *, host: str = "127.0.0.1", port: int = 7860) -> Server:
    """Serves the page in the background, and returns when a browser can open it.

    Browsers are told to load nothing from anywhere else, and Gradio's analytics and sharing are off. Everybody who reaches
    the address can use the page: there is no password.

    Args:
        bench: The model.
        host: An address of this machine: "127.0.0.1" for this machine alone, "0.0.0.0" for every machine that reaches it.
        port: 0 takes any free one.

    Raises:
        MissingExtraError: Gradio is not installed.
        ConfigError: The machine has no such address, or the port is taken.
    """
    require_gradio()
    listening = _listen(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
    folder, before = Path(tempfile.mkdtemp(prefix="pyramid-tokenizer-app-")), os.environ.get(_UPLOADS)
    os.environ[_UPLOADS] = str(folder / "uploads")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # a step may be at work still when `close` returns
    web = _web_app(bench, folder)
    import uvicorn

    options = {"log_level": "warning", "timeout_graceful_shutdown": _GRACE_SECONDS}
    server = Server(uvicorn.Server(uvicorn.Config(web, **options)), address, folder, before)
    server.start(listening)
    return server


def _web_app(bench: Workbench, folder: Path) -> Any:
    """The page as an application that uvicorn runs."""
    gr = import_gradio()
    from fastapi import FastAPI

    web = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    web.add_middleware(_OnlyFromHere)
    # of Source Sans, which comes with Gradio, the usual weight 600 has no Latin letters
    sans = gr.themes.LocalFont("Source Sans Pro", weights=(400, 700))
    return gr.mount_gradio_app(
        web,
        build_page(bench, folder),
        path="/",
        ssr_mode=False,
        run_history=False,
        footer_links=[],
        show_error=False,
        max_file_size=MOST_UPLOADED_BYTES,
        css=STYLE,
        theme=gr.themes.Default(primary_hue="indigo", font=(sans, "system-ui", "sans-serif")),
    )


class _OnlyFromHere:
    """Adds a header to every answer that tells the browser to load nothing from another address."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"content-security-policy", _POLICY)]
            await send(message)

        await self.app(scope, receive, send_with_policy)


def _listen(host: str, port: int) -> socket.socket:
    """A socket at that address. ConfigError where the port is taken or the address is not this machine's."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"expected a free port at an address of this machine, got {host}:{port}: {error}; choose another, or port 0 for "
            "any free one"
        ) from error
