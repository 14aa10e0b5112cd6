"""The command line: one thin file per command over the library.

    pyramid-tokenizer encode photo.jpg          image -> token file
    pyramid-tokenizer decode tokens/            token files -> PNGs
    pyramid-tokenizer reconstruct photo.jpg     the original beside every prefix of levels, and how close they are
    pyramid-tokenizer segment photo.jpg --classes "sky,tree,car|automobile"
    pyramid-tokenizer classify --tokens photo.tokens --names "dog,cat,bicycle|bike"
    pyramid-tokenizer info                      what a model or a token file contains, or a new model would contain
    pyramid-tokenizer demo                      encode, decode and segment four photos
    pyramid-tokenizer train --images photos --backbone ViT-B-16 --pretrained openai --out my-model
    pyramid-tokenizer finetune tiny --images photos --out my-tiny
    pyramid-tokenizer finetune tiny --segmentation my-masks --out my-tiny
    pyramid-tokenizer evaluate segmentation --data VOC2012 --protocol voc-20
    pyramid-tokenizer tokenize --images photos --out tokens --columns caption
    pyramid-tokenizer search tokens "a red flower" --sheet found.png
    pyramid-tokenizer atlas tiny --images photos --out atlas
    pyramid-tokenizer inspect photo.jpg         token maps, prefixes, and what single tokens add
    pyramid-tokenizer app                       a page in the browser: levels, single tokens, masks, search
    pyramid-tokenizer export tiny --to onnx --out exported
    pyramid-tokenizer selfcheck tiny --device cuda

Every command has --json: one JSON object in place of text. Exit codes: 0 success; 1 an error, written as one line to stderr;
2 a wrong option; 130 interrupted. No large library is
imported before a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from pyramid_tokenizer.cli import (
    atlas,
    classify,
    decode,
    demo,
    encode,
    evaluate,
    export,
    finetune,
    info,
    inspection,
    reconstruct,
    search,
    segment,
    selfcheck,
    tokenize,
    train,
    web_app,
)
from pyramid_tokenizer.cli.examples import EXAMPLES
from pyramid_tokenizer.cli.group import OneLineErrors
from pyramid_tokenizer.cli.json_output import with_json

app = typer.Typer(
    name="pyramid-tokenizer",
    cls=OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help is the same in every version of rich and is shown sooner
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for _command in (
    encode.encode,
    decode.decode,
    reconstruct.reconstruct,
    segment.segment,
    classify.classify,
    info.info,
    train.train,
    finetune.finetune,
    tokenize.tokenize,
    search.search,
    inspection.inspect,
    atlas.atlas,
    web_app.app,
    export.export,
    selfcheck.selfcheck,
    demo.demo,
):
    app.command()(with_json(_command))
for _registered in (*app.registered_commands, *evaluate.app.registered_commands):
    _registered.epilog = f"Example:  {EXAMPLES[getattr(_registered.callback, '__name__', '')]}"
app.add_typer(evaluate.app, name="evaluate")


def _print_version(wanted: bool) -> None:
    if wanted:
        from pyramid_tokenizer import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Turn images into a small pyramid of discrete tokens, and tokens back into pixels and masks."""


def main() -> None:
    """Runs the command that the process was started with, and exits."""
    app()
