"""The second tab: images of a token dataset by words, or like the image that is open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyramid_tokenizer.app import texts, views
from pyramid_tokenizer.app.image_tab import EVENT, ImageTab
from pyramid_tokenizer.app.workbench import Opened, Workbench, open_row
from pyramid_tokenizer.errors import PyramidTokenizerError

_COLUMNS, _HEIGHT_PX = 6, 560


class SearchTab:
    """Builds the tab where it is made, and says what happens in `connect`.

    Args:
        gr: The module gradio.
        bench: The model, with a dataset or without.
    """

    def __init__(self, gr: Any, bench: Workbench):
        self.gr, self.bench = gr, bench
        self.rows = gr.State(None)
        self.message = gr.HTML(texts.dataset_line(bench), elem_id="search-message", padding=False)
        with gr.Column(visible=bench.dataset is not None):
            self.words = gr.Textbox(label="What the images show", placeholder="a red flower", elem_id="search-words")
            with gr.Row():
                self.find = gr.Button("Search", variant="primary", scale=0, min_width=200, elem_id="search")
                self.alike = gr.Button("Images like the open one", scale=0, min_width=260, elem_id="alike")
            self.gallery = gr.Gallery(
                label="Found",
                format="png",
                columns=_COLUMNS,
                allow_preview=False,
                object_fit="contain",
                height=_HEIGHT_PX,
                buttons=[],
                elem_id="found",
            )

    def connect(self, image_tab: ImageTab, tabs: Any, *, image: str) -> None:
        """Says what happens when words are typed, or a found image is clicked: it is opened in the other tab.

        Args:
            image_tab: The other tab.
            tabs: Both.
            image: The id of the other tab.
        """
        shown = [self.gallery, self.message, self.rows]
        for event in (self.find.click, self.words.submit):
            event(self._search, [self.words], shown, **EVENT)
        self.alike.click(self._search_alike, [image_tab.opened], shown, **EVENT)

        def click(event: Any, rows: list[int], files: Path | None) -> Any:
            opened = open_row(self.bench, rows[event.index])
            return {**image_tab.show(opened, files), image_tab.file: None, tabs: self.gr.Tabs(selected=image)}

        click.__annotations__ = {"event": self.gr.SelectData}  # by which Gradio knows it
        targets = [*image_tab.targets(), image_tab.file, tabs]
        opening = self.gallery.select(click, [self.rows, image_tab.files], targets, **EVENT)
        image_tab.show_all(opening)

    def _search_alike(self, opened: Opened | None) -> Any:
        if opened is None:
            return {self.message: texts.note("Open an image in the other tab first.")}
        return self._search(opened)

    def _search(self, query: str | Opened) -> Any:
        dataset = self.bench.dataset
        try:
            found = views.search_dataset(self.bench, query)
        except (PyramidTokenizerError, OSError) as error:
            return {self.message: texts.error_line(error)}
        assert dataset is not None
        return {
            self.gallery: [(one.image, one.caption) for one in found],
            self.message: texts.found_line(found, len(dataset)),
            self.rows: [one.row for one in found],
        }
