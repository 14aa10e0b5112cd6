"""The first tab: one image, its levels, the tokens at a place, and words."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from pyramid_tokenizer.app import downloads, texts, views
from pyramid_tokenizer.app.workbench import Opened, Workbench, open_file
from pyramid_tokenizer.errors import PyramidTokenizerError

_MODES = [("tokens and the trained head", "decoder"), ("tokens alone", "lookup")]
EVENT = {"api_visibility": "private", "show_progress": "minimal", "concurrency_id": "model"}
"""What every event has: it is for this page alone, and one of them at a time uses the model."""


class ImageTab:
    """Builds the tab where it is made, and says what happens in `connect`.

    Args:
        gr: The module gradio.
        bench: The model.
        folder: Each visitor's files are written into a folder below it.
    """

    def __init__(self, gr: Any, bench: Workbench, folder: Path):
        self.gr, self.bench, self.folder = gr, bench, folder
        self.opened, self.place = gr.State(None), gr.State(None)
        self.files = gr.State(None, delete_callback=_remove)
        with gr.Row():
            with gr.Column(scale=1, min_width=290):
                self._build_controls()
            with gr.Column(scale=4, min_width=600):
                self._build_images()

    def _build_controls(self) -> None:
        gr, quantizer = self.gr, self.bench.tok.quantizer
        self.file = gr.File(label="Drop a photo or a .tokens file", height=160, elem_id="file")
        self.message = gr.HTML(texts.limits_line(self.bench), elem_id="message", padding=False)
        levels = {"minimum": 1, "maximum": self.bench.num_levels, "value": quantizer.base_levels, "step": 1}
        self.levels = gr.Slider(label="Levels, coarse to fine", elem_id="levels", **levels)
        self.figures = gr.HTML(elem_id="figures", padding=False)
        words = {"max_lines": 3, "lines": 1}
        self.words = gr.Textbox(label="Words to find", placeholder="cat, wall, sofa|blanket", elem_id="words", **words)
        self.background = gr.Textbox(label="Words for everything else, if any", elem_id="background", **words)
        has_head = self.bench.segmenter.head is not None
        mode = "decoder" if has_head else "lookup"
        self.mode = gr.Radio(_MODES, value=mode, label="Masks from", visible=has_head, elem_id="mode")
        self.find = gr.Button("Find the words", variant="primary", elem_id="find")
        self.words_message = gr.HTML(elem_id="words-message", padding=False)
        with gr.Row():
            self.tokens_file, self.decoded_file = self._button("Tokens"), self._button("Decoded image")
            self.masks_file, self.labels_file = self._button("Masks"), self._button("Label map")

    def _button(self, title: str) -> Any:
        name = f"download-{title.split(maxsplit=1)[0].lower()}"
        return self.gr.DownloadButton(f"↓ {title}", size="sm", min_width=130, interactive=False, elem_id=name)

    def _build_images(self) -> None:
        with self.gr.Row():
            self.photo = self._image("Photo: click a place", "photo", "pt-click")
            self.decoded = self._image("Decoded", "decoded")
            self.masks = self._image("Where the words are", "masks")
        self.table = self.gr.HTML(elem_id="place", padding=False)
        self.sheet = self._image(None, "same-tokens")

    def _image(self, label: str | None, name: str, *classes: str) -> Any:
        look = {"min_width": 260, "buttons": ["fullscreen"], "elem_classes": ["pt-image", *classes]}
        shown = {"label": label, "show_label": label is not None, "alt_text": label or "Where the same tokens are"}
        return self.gr.Image(**shown, format="png", interactive=False, elem_id=name, **look)

    def connect(self) -> None:
        """Says what happens when a file is dropped, the slider is moved, a place is clicked, or a word is typed."""
        opening = self.file.upload(self._open, [self.file, self.files], self.targets(), **EVENT)
        self.show_all(opening)
        moved = self.levels.input(*self._levels_event(), trigger_mode="always_last", **EVENT)
        moved.then(*self._place_event(), **EVENT).then(*self._masks_event(), **EVENT)

        def click(event: Any, opened: Opened | None) -> Any:
            if opened is None:
                return self.gr.skip()
            scale = views.screen_scale(opened.tokens.image_size)
            return tuple(round(place) // scale for place in event.index)

        click.__annotations__ = {"event": self.gr.SelectData}  # by which Gradio knows it
        clicked = self.photo.select(click, [self.opened], [self.place], **EVENT)
        clicked.then(*self._place_event(), **EVENT)
        for event in (self.find.click, self.words.submit, self.background.submit, self.mode.input):
            event(*self._masks_event(), **EVENT)

    def show_all(self, event: Any) -> None:
        """Shows all of an image after an event that has opened one."""
        for step in (self._levels_event(), self._place_event(), self._masks_event()):
            event = event.then(*step, **EVENT)

    def show(self, opened: Opened, files: Path | None) -> dict[Any, Any]:
        """Updates of `targets` for another image; `show_all` brings the rest."""
        height, width = opened.tokens.image_size
        photo = views.on_screen(views.photo_of(self.bench, opened))
        title = "Decoded from all tokens" if opened.photo is None else "Photo"
        return {
            self.opened: opened,
            self.files: files or Path(tempfile.mkdtemp(dir=self.folder)),
            self.place: (width // 2, height // 2),
            self.message: texts.opened_line(opened),
            self.photo: self.gr.update(value=photo, label=f"{title}: click a place"),
        }

    def targets(self) -> list[Any]:
        """The components that `show` updates."""
        return [self.opened, self.files, self.place, self.message, self.photo]

    def _open(self, path: str | None, files: Path | None) -> Any:
        if path is None:
            return self.gr.skip()
        try:
            return self.show(open_file(self.bench, path), files)
        except (PyramidTokenizerError, OSError) as error:
            return {self.message: texts.error_line(error, Path(path))}

    def _levels_event(self) -> tuple[Any, list[Any], list[Any]]:
        inputs = [self.opened, self.levels, self.files]
        return self._show_levels, inputs, [self.decoded, self.figures, self.tokens_file, self.decoded_file]

    def _show_levels(self, opened: Opened | None, levels: int, files: Path) -> Any:
        if opened is None:
            return self.gr.skip()
        decoded = views.decode_prefix(self.bench, opened, levels)
        tokens_file, image_file = downloads.save_decoded(decoded, opened, files)
        title = texts.decoded_title(len(decoded.tokens))
        return {
            self.decoded: self.gr.update(value=views.on_screen(decoded.image), label=title),
            self.figures: texts.decoded_line(decoded),
            self.tokens_file: self._offer(tokens_file),
            self.decoded_file: self._offer(image_file),
        }

    def _place_event(self) -> tuple[Any, list[Any], list[Any]]:
        return self._show_place, [self.opened, self.place, self.levels], [self.table, self.sheet]

    def _show_place(self, opened: Opened | None, place: tuple[int, int] | None, levels: int) -> Any:
        if opened is None or place is None:
            return self.gr.skip()
        try:
            found = views.look_at(self.bench, opened, *place, levels=levels)
        except PyramidTokenizerError as error:
            return {self.table: texts.error_line(error)}
        return {self.table: texts.place_table(found), self.sheet: found.sheet}

    def _masks_event(self) -> tuple[Any, list[Any], list[Any]]:
        inputs = [self.opened, self.levels, self.words, self.background, self.mode, self.files]
        return self._show_masks, inputs, [self.masks, self.words_message, self.masks_file, self.labels_file]

    def _show_masks(
        self, opened: Opened | None, levels: int, words: str, background: str, mode: Any, files: Path
    ) -> Any:
        gone = self.gr.update(value=None, interactive=False)
        nothing = {self.masks: None, self.masks_file: gone, self.labels_file: gone}
        if opened is None or not words.strip():
            return {**nothing, self.words_message: ""}
        try:
            found = views.find_words(self.bench, opened, words, background=background, mode=mode, levels=levels)
        except PyramidTokenizerError as error:
            return {**nothing, self.words_message: texts.error_line(error)}
        masks_file, labels_file = downloads.save_masks(found, opened, files)
        return {
            self.masks: found.image,
            self.words_message: texts.masks_line(found),
            self.masks_file: self._offer(masks_file),
            self.labels_file: self._offer(labels_file),
        }

    def _offer(self, path: Path) -> Any:
        return self.gr.update(value=str(path), interactive=True)


def _remove(folder: Path | None) -> None:
    """Deletes the files of a visitor who has left."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
