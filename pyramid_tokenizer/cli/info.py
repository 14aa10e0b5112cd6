"""`info`: shows what a model or a token file contains, or what a new model on a backbone would contain."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyramid_tokenizer.cli.extras import show_extra
from pyramid_tokenizer.cli.files import TOKEN_SUFFIX
from pyramid_tokenizer.cli.terminal import describe_size, load_segmenter, make_console, make_table
from pyramid_tokenizer.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from torch import Tensor

    from pyramid_tokenizer.backbones import BackboneDescription
    from pyramid_tokenizer.config.models import QuantizerConfig
    from pyramid_tokenizer.segmentation.segmenter import Segmenter
    from pyramid_tokenizer.tokens.outline import TokenOutline

What = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL|FILE",
        help=f"The name or directory of a model, or a token file ({TOKEN_SUFFIX}).  [default: tiny]",
        show_default=False,
    ),
]
Backbone = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help='Instead of a model: the backbone of a new model, for example "ViT-B-16"; its weights are not needed.',
    ),
]
ImageSize = Annotated[
    int, typer.Option(metavar="PIXELS", min=1, help="The side of the square image whose tokens are counted.")
]
Extra = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Instead of a model: the packages of an extra of pip, such as eval, and which of them are installed.",
    ),
]


def info(what: What = None, backbone: Backbone = None, size: ImageSize = 256, extra: Extra = None) -> None:
    """Show what a model or a token file contains, or what a new model on a backbone would contain.

    With --backbone it shows the blocks that are read, the levels that suit the backbone, and the command that trains the model.
    """
    console = make_console()
    if extra is not None:
        if what is not None or backbone is not None:
            raise ConfigError(f"expected --extra alone, got it with {what or backbone}: run two commands")
        show_extra(extra, console)
        return
    if backbone is not None:
        if what is not None:
            raise ConfigError(f"expected MODEL|FILE or --backbone, got both, {what} and {backbone}: leave one out")
        _show_backbone(backbone, size, console)
        return
    path = Path(what or "tiny").expanduser()
    if path.is_file() or path.suffix == TOKEN_SUFFIX:
        _show_tokens(path, console)
    else:
        _show_model(what or "tiny", size, console)


def _show_tokens(path: Path, console: Console) -> None:
    from pyramid_tokenizer.tokens.outline import read_outline  # without torch, which takes seconds to import

    outline = read_outline(path)
    header = outline.header
    console.print(f"token file   {path}, {path.stat().st_size:,} bytes")
    console.print(f"images       {header.batch_size} of {describe_size(header.image_size)} px")
    console.print(f"tokens       {_describe_counts(outline)}, {outline.bits_per_pixel():.4f} bits per pixel")
    console.print(f"fingerprint  {header.fingerprint}")
    made = f"of the backbone: {header.precision}" if header.precision else "none: no encoder made these tokens"
    console.print(f"precision    {made}")
    console.print()
    console.print(_token_table(outline), soft_wrap=False)


def _describe_counts(outline: TokenOutline) -> str:
    """The tokens of an image in words, such as "1,344 an image" or "212 to 640 an image, of 1,344"."""
    image_tokens = len(outline.header.image_codebook_sizes)
    if not outline.is_sparse:
        return f"{outline.num_cells + image_tokens:,} an image"
    totals = outline.counts.sum(0) + image_tokens
    least, most = int(totals.min()), int(totals.max())
    counts = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return f"{counts} an image, of {outline.num_cells + image_tokens:,}"


def _token_table(outline: TokenOutline) -> Table:
    """A row for the image tokens and one per level; numbers of tokens are means over the images, rates include split bits."""
    header = outline.header
    means = outline.counts.mean(1).tolist()
    share = ["present"] if outline.is_sparse else []
    table = make_table(None, "level", "grid", "tokens", *share, "entries", "bits/token", "bits/px so far")
    if header.image_codebook_sizes:
        count, entries, bits = _image_cells(header.image_codebook_sizes)
        table.add_row("image", "", count, *[""] * len(share), entries, bits, f"{outline.bits_per_pixel(0):.4f}")
    for level, ((height, width), entries) in enumerate(zip(header.grids, header.codebook_sizes, strict=True)):
        present = [f"{means[level] / (height * width):.1%}"] if outline.is_sparse else []
        count = f"{means[level]:,.{0 if means[level].is_integer() else 1}f}"
        rate = f"{outline.bits_per_pixel(level + 1):.4f}"
        table.add_row(
            str(level), f"{width}x{height}", count, *present, f"{entries:,}", f"{math.log2(entries):.2f}", rate
        )
    return table


def _image_cells(sizes: Sequence[int]) -> tuple[str, str, str]:
    """Tokens, entries and bits per token of the image tokens."""
    entries = f"{sizes[0]:,}" if len(set(sizes)) == 1 else "+".join(f"{size:,}" for size in sizes)
    return str(len(sizes)), entries, f"{sum(map(math.log2, sizes)) / len(sizes):.2f}"


def _show_model(name: str, size: int, console: Console) -> None:
    from pyramid_tokenizer import hub

    directory = hub.resolve_model(name)
    segmenter = load_segmenter(str(directory))
    tok = segmenter.tok
    found = tok.config.backbone
    address = " ".join(part for part in (found.name, found.pretrained) if part) or "in the model's own folder"
    console.print(f"model        {name}, in {directory}")
    console.print(f"fingerprint  {tok.fingerprint}")
    console.print(f"backbone     {found.kind}: {address if found.kind != 'toy' else 'computed by formulas, for tests'}")
    console.print(f"             {_describe_maps(tok.backbone)}")
    console.print(f"composition  {tok.config.quantizer.composition}")
    console.print(f"vocabulary   {tok.vocabulary.size:,} integers")
    console.print(f"terms        of the code: Apache-2.0; of the weights: {hub.weight_terms(directory)}")
    _show_levels(tok.config.quantizer, size, console)
    _show_sizes(segmenter, directory, console)


def _show_backbone(name: str, size: int, console: Console) -> None:
    from pyramid_tokenizer.backbones import describe_backbone
    from pyramid_tokenizer.quantizer.recipe import preset_config

    found = describe_backbone(name)
    layout = preset_config(found.config, strides=found.strides).quantizer
    console.print(f"backbone     {name}")
    console.print(f"family       {found.family}, {found.num_parameters:,} parameters, frozen")
    console.print(f"blocks       {', '.join(str(block) for block in found.config.blocks)} of {found.num_blocks}")
    console.print(f"             {_describe_maps(found)}")
    readings = ", ".join(found.dense_readings)
    console.print(
        f"text-aligned {f'features of every location: {readings}' if readings else 'embedding of the whole image only'}"
    )
    console.print(f"weights      {', '.join(found.pretrained) or 'open_clip publishes none'}")
    _show_levels(layout, size, console)
    console.print()
    console.print(f"train it     {_train_command(name, found, layout.levels[0].stride)}")


def _train_command(name: str, found: BackboneDescription, stride: int) -> str:
    words = ["pyramid-tokenizer", "train", "--images", "FOLDER", "--backbone", shlex.quote(name)]
    if found.config.kind != "toy" and ":" not in found.config.name:
        words += ["--pretrained", found.pretrained[0] if found.pretrained else "FILE"]
    multiple = math.lcm(stride, found.multiple_px)
    if 128 % multiple:  # the default crop
        words += ["--crop", str(max(1, round(128 / multiple)) * multiple)]
    return " ".join([*words, "--out", "my-tokenizer"])


def _describe_maps(found: Any) -> str:
    """Describes the maps of a backbone, or of the description of one."""
    maps = ", ".join(f"{c} at stride {s}" for c, s in zip(found.channels, found.strides, strict=True))
    return f"channels {maps}; {found.embedding_dim} dimensions shared with text"


def _show_levels(layout: QuantizerConfig, size: int, console: Console) -> None:
    """A table of image tokens and levels; the sums are without detail levels: what is encoded without a limit."""
    levels, base, image = layout.levels, layout.base_levels, layout.image_codebooks
    padded = math.ceil(size / levels[0].stride) * levels[0].stride
    note = f", padded to {padded}x{padded}" if padded > size else ""
    titles = "level", "stride", "grid", "tokens", "entries", "dims", "bits/token", "bits/px"
    table = make_table(f"levels, for an image of {size}x{size} px{note}", *titles)
    total_tokens, total_bits = len(image), sum(map(math.log2, image), 0.0)
    if image:
        count, entries, bits_each = _image_cells(image)
        table.add_row("image", "", "", count, entries, "", bits_each, f"{total_bits / size**2:.4f}")
    for index, level in enumerate(levels):
        side = padded // level.stride
        bits = math.log2(level.codebook_size)
        counts = f"{side}x{side}", f"{side**2:,}", f"{level.codebook_size:,}", str(level.dim)
        rates = f"{bits:.2f}", f"{side**2 * bits / size**2:.4f}"
        table.add_row(f"{index}{' detail' if index >= base else ''}", str(level.stride), *counts, *rates)
        if index < base:
            total_tokens, total_bits = total_tokens + side**2, total_bits + side**2 * bits
    entries = f"{sum(image) + sum(level.codebook_size for level in levels[:base]):,}"
    name = "all" if base == len(levels) else "all without detail"
    table.add_row(name, "", "", f"{total_tokens:,}", entries, "", "", f"{total_bits / size**2:.4f}")
    console.print()
    console.print(table, soft_wrap=False)
    if base < len(levels):
        console.print("\nencode opens detail levels with --levels or a limit such as --quality")


def _show_sizes(segmenter: Segmenter, directory: Path, console: Console) -> None:
    tok = segmenter.tok
    parts = {
        "backbone, frozen": tok.backbone.state_dict(),
        "quantizer: codebooks and adapters": tok.quantizer.state_dict(),
        "trunk": tok.trunk.state_dict(),
        "pixel decoder": tok.pixel_decoder.state_dict(),
    }
    if segmenter.head is not None:
        parts["segmentation head"] = segmenter.head.state_dict()
    table = make_table(None, "part", "parameters")
    for part, tensors in parts.items():
        table.add_row(part, f"{_count(tensors.values()):,}")
    console.print()
    console.print(table, soft_wrap=False)
    files = make_table(None, "file", "bytes")
    for path in sorted(path for path in directory.rglob("*") if path.is_file() and not _is_hidden(path, directory)):
        files.add_row(path.relative_to(directory).as_posix(), f"{path.stat().st_size:,}")
    console.print()
    console.print(files, soft_wrap=False)


def _is_hidden(path: Path, directory: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(directory).parts)


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)
