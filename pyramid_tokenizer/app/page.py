"""`build_page`: the page as Gradio's blocks, two tabs over what `views` computes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pyramid_tokenizer.app import texts
from pyramid_tokenizer.app.image_tab import ImageTab
from pyramid_tokenizer.app.search_tab import SearchTab
from pyramid_tokenizer.app.workbench import Workbench
from pyramid_tokenizer.errors import MissingExtraError

_IMAGE, _SEARCH = "image", "search"  # the ids of the two tabs
_CACHE_SECONDS = 600, 3600  # how often copies of shown files are looked through, and how old those are that go


def require_gradio() -> None:
    """Raises MissingExtraError unless Gradio is installed; it is not imported, which takes seconds."""
    if find_spec("gradio") is None:
        raise MissingExtraError('expected gradio, got none: pip install "pyramid-tokenizer[app]"')


def import_gradio() -> Any:
    """Gradio.

    Raises:
        MissingExtraError: It is not installed.
    """
    require_gradio()
    import gradio

    return gradio


def build_page(bench: Workbench, folder: Path) -> Any:
    """The page of a model, a `gradio.Blocks` that is not launched yet.

    Args:
        bench: The model.
        folder: Files that are offered for download are written into folders below it.

    Raises:
        MissingExtraError: Gradio is not installed.
    """
    gr = import_gradio()
    # without analytics Gradio asks nothing of the network
    with gr.Blocks(
        title="pyramid-tokenizer", analytics_enabled=False, delete_cache=_CACHE_SECONDS, fill_width=True
    ) as page:
        gr.HTML(texts.heading(bench), padding=False)
        with gr.Tabs(selected=_IMAGE) as tabs:
            with gr.Tab("Look at an image", id=_IMAGE):
                image_tab = ImageTab(gr, bench, folder)
            with gr.Tab("Search a token folder", id=_SEARCH):
                search_tab = SearchTab(gr, bench)
        image_tab.connect()
        search_tab.connect(image_tab, tabs, image=_IMAGE)
    return page
