"""`serve`: the page at an address of this machine, with nothing fetched from elsewhere."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

from pyramid_tokenizer.app.page import build_page, import_gradio
from pyramid_tokenizer.app.texts import STYLE
from pyramid_tokenizer.app.workbench import Workbench
from pyramid_tokenizer.errors import ConfigError

MOST_UPLOADED_BYTES = 300 * 2**20
"""A file that is dropped on the page may have as many bytes: 89 million pixels without any compression have 268 MB."""
_POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; base-uri 'self'; form-action 'self'"
_UPLOADS = "GRADIO_TEMP_DIR"
"""The variable of the environment that Gradio keeps uploads by."""


class Server:
    """A page that is being served, until `close`."""

    def __init__(self, page: Any, address: str, folder: Path, uploads_before: str | None):
        self._page, self.address, self._folder, self._uploads_before = page, address, folder, uploads_before

    def wait(self) -> None:
        """Waits until the process is interrupted."""
        while True:
            time.sleep(3600)

    def close(self) -> None:
        """Ends the server and deletes what visitors have uploaded and what was made of it."""
        logger = logging.getLogger("uvicorn.error")
        logger.disabled = True  # it would tell of each browser that is cut off
        self._page.server.config.timeout_graceful_shutdown = 1  # second; open pages stay connected for ever
        self._page.close(verbose=False)
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
    gr = import_gradio()
    from starlette.middleware import Middleware

    port = _free_port(host, port)
    folder, before = Path(tempfile.mkdtemp(prefix="pyramid-tokenizer-app-")), os.environ.get(_UPLOADS)
    os.environ[_UPLOADS] = str(folder / "uploads")  # Gradio reads it whenever a file comes or goes
    page = build_page(bench, folder)
    page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        run_history=False,
        footer_links=[],
        max_file_size=MOST_UPLOADED_BYTES,
        css=STYLE,
        theme=_theme(gr),
        app_kwargs={"middleware": [Middleware(_OnlyFromHere)]},
    )
    shown = f"[{host}]" if ":" in host else host
    return Server(page, f"http://{shown}:{port}", folder, before)


def _theme(gr: Any) -> Any:
    """Gradio's own, with fonts of its package; of Source Sans its weight 600 has no Latin letters."""
    sans = gr.themes.LocalFont("Source Sans Pro", weights=(400, 700))
    return gr.themes.Default(primary_hue="indigo", font=(sans, "system-ui", "sans-serif"))


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


def _free_port(host: str, port: int) -> int:
    """The port, or any free one for 0. ConfigError where it is taken or the address is not this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return probe.getsockname()[1]
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"expected a free port at an address of this machine, got {host}:{port}: {error}; choose another, or port 0 for "
            "any free one"
        ) from error
