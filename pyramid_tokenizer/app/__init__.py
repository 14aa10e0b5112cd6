"""A page in the browser that shows what the tokens of an image are: `pyramid-tokenizer app`.

    a file ─opened─▶ tokens ─views─▶ decoded image, tokens at a place, masks, images of a dataset ─page─▶ the browser
                                └─ texts: the sentences and tables of the page   └─ downloads: files    └─ server

`page` alone knows Gradio (extra `app`); everything that is computed runs and is tested without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyramid_tokenizer.app.server import Server, serve
    from pyramid_tokenizer.app.workbench import Workbench

__all__ = ["Server", "Workbench", "serve"]

_HOMES = {"Server": "server", "Workbench": "workbench", "serve": "server"}


def __getattr__(name: str) -> Any:
    """The public name, from its home module."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
