"""`app`: a page in the browser that shows what the tokens of an image are."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from pyramid_tokenizer.cli.json_output import collected
from pyramid_tokenizer.cli.options import Device, Model
from pyramid_tokenizer.cli.terminal import load_segmenter, make_console
from pyramid_tokenizer.cli.words import TextCache, cache_folder

Host = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        help='The address of this machine that the page is served at. With "0.0.0.0" everybody who reaches the machine can use '
        "the page, without a password.",
    ),
]
Port = Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="The port; 0 takes any free one.")]
Size = Annotated[
    int, typer.Option(metavar="PIXELS", min=1, help="Photos with a longer short side are shrunk to this one.")
]
Dataset = Annotated[
    str | None,
    typer.Option(metavar="FOLDER", help="A token dataset to search by words: what tokenize wrote with this model."),
]


def app(
    *,
    model: Model = "tiny",
    host: Host = "127.0.0.1",
    port: Port = 7860,
    size: Size = 256,
    dataset: Dataset = None,
    device: Device = "cpu",
    text_cache: TextCache = "auto",
) -> None:
    """Show tokens in the browser: levels, the words of single tokens, masks for any words, and search.

    Drop a photo on the page, or a token file. It shows what each prefix of the levels decodes to, the tokens at a place and
    where else they are, and masks for words; tokens, images and masks can be downloaded. The page loads nothing from the
    network. Ctrl-C ends it; with --json the address is also written to stderr, at once.
    """
    from pyramid_tokenizer.app.page import require_gradio
    from pyramid_tokenizer.app.server import serve
    from pyramid_tokenizer.app.workbench import Workbench
    from pyramid_tokenizer.datasets import TokenDataset

    require_gradio()  # before the model is loaded
    searched = None if dataset is None else TokenDataset(dataset)
    segmenter = load_segmenter(model, device, text_cache=cache_folder(text_cache))
    title = Path(model).name if Path(model).is_dir() else model
    server = serve(Workbench.of(segmenter, title=title, size=size, dataset=searched), host=host, port=port)
    line = f"app: {server.address} (Ctrl-C ends it)"
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that uploads are deleted then too
    try:
        make_console().print(line)
        if collected() is not None:
            typer.echo(line, err=True)
        server.wait()
    except KeyboardInterrupt:  # the way to end it, and no error
        pass
    finally:
        server.close()
        signal.signal(signal.SIGTERM, before)
