"""`export`: writes a model as files for onnxruntime or for torch without this library."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pyramid_tokenizer.cli.options import Force
from pyramid_tokenizer.cli.terminal import load_tokenizer, make_console, show_waiting
from pyramid_tokenizer.cli.words import TextCache, cache_folder, read_names
from pyramid_tokenizer.errors import ConfigError


class Format(StrEnum):
    """What `--to` takes."""

    ONNX = "onnx"
    TORCH = "torch"


class Part(StrEnum):
    """What `--part` takes."""

    ENCODE = "encode"
    DECODE = "decode"
    EMBED = "embed"
    ALL = "all"


ModelArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", help='The name of a bundled model, a directory, or a Hub repository "user/repo".'),
]
To = Annotated[Format, typer.Option(help="ONNX files, or programs of torch.export.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="The folder for the files; it is made where it is missing.")]
ImageSize = Annotated[
    str,
    typer.Option(
        metavar="SIZE",
        help='The one size of images that the files take: a side in pixels or HEIGHTxWIDTH; or "dynamic" for all sizes.',
    ),
]
PartOption = Annotated[Part, typer.Option(help="Which part to write: a file for each.")]
Classes = Annotated[
    str | None,
    typer.Option(
        metavar="WORDS", help="Names whose text embeddings are written too, for naming images; as for segment."
    ),
]
ClassesFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A file to use instead of --classes, one class per line.")
]


def export(
    model: ModelArgument,
    *,
    out: Out,
    to: To = Format.ONNX,
    size: ImageSize = "dynamic",
    part: PartOption = Part.ALL,
    classes: Classes = None,
    classes_file: ClassesFile = None,
    text_cache: TextCache = "auto",
    force: Force = False,
) -> None:
    """Write a model as files for onnxruntime, or for torch without this library.

    Each file is compared with the model before it gets its name: where more than 1 in 10,000 ids differ, nothing is written.
    pyramid_tokenizer.export.reader.OnnxTokenizer runs the ONNX files with numpy, Pillow and onnxruntime alone.
    """
    from pyramid_tokenizer.export.exporter import export_model
    from pyramid_tokenizer.export.programs import PARTS
    from pyramid_tokenizer.text import TextEncoder

    listed = classes is not None or classes_file is not None
    names = read_names(classes, classes_file, option="--classes") if listed else []
    sides = read_size(size)
    parts = PARTS if part is Part.ALL else (part.value,)
    _refuse_existing(
        out, [*(f"{name}.{'onnx' if to is Format.ONNX else 'pt2'}" for name in parts), *["words.npz"] * listed], force
    )
    tok = load_tokenizer(model)
    tok.text = TextEncoder(tok.backbone, cache_dir=cache_folder(text_cache))
    options: dict[str, Any] = {"to": to.value, "size": sides, "parts": parts, "names": names}
    console = make_console()
    with show_waiting(console, f"recording and comparing {', '.join(parts)}: a minute or more"):
        report = export_model(tok, out, **options)
    for found in report.differences:
        console.print(f"{found.part:6}  {found}")
    for path in report.files:
        console.print(f"wrote {path}, {path.stat().st_size:,} bytes")


def read_size(size: str) -> tuple[int, int] | None:
    """Reads `--size`: (height, width), or None for "dynamic".

    Raises:
        ConfigError: It is neither of these.

    Example:
        >>> read_size("256"), read_size("256x384"), read_size("dynamic")
        ((256, 256), (256, 384), None)
    """
    if size == "dynamic":
        return None
    sides = size.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise ConfigError(f'expected --size as 256, 256x384 or "dynamic", got {size!r}: write it like one of these')
    return int(sides[0]), int(sides[-1])


def _refuse_existing(out: Path, names: list[str], force: bool) -> None:
    there = [name for name in names if (out / name).exists()]
    if there and not force:
        raise ConfigError(f"expected no {there[0]} in {str(out)!r}, got one: choose another folder, or add --force")
