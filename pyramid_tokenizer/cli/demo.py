"""`demo`: encodes four photos to token files, decodes them again, and finds words in the tokens."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from pyramid_tokenizer.cli.files import TOKEN_SUFFIX
from pyramid_tokenizer.cli.options import Model
from pyramid_tokenizer.cli.terminal import count_tokens, load_segmenter, make_console, make_table, show_progress
from pyramid_tokenizer.errors import MissingExtraError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.table import Table
    from torch import Tensor

    from pyramid_tokenizer.cli.prefixes import Prefix
    from pyramid_tokenizer.segmentation.segmenter import Segmenter
    from pyramid_tokenizer.tokenizer import PyramidTokenizer
    from pyramid_tokenizer.tokens.pyramid import TokenPyramid

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
"""Photos of the scikit-image package, in the public domain or CC0; nothing is downloaded."""
WORDS = {
    "chelsea": ("cat", "wall", "blanket"),
    "coffee": ("cup", "table"),
    "rocket": ("sky", "pole", "grass"),
}
"""The words that are looked for in the tokens of each photo."""
TIMED_RUNS = 3

Out = Annotated[
    Path,
    typer.Option(
        "--out", "-o", metavar="FOLDER", help="The folder for the results; those of an earlier demo are replaced."
    ),
]
Size = Annotated[int, typer.Option(metavar="PIXELS", min=1, help="The short side of the photos.")]
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shown:
    """The results of one photo."""

    tokens: TokenPyramid
    prefixes: list[Prefix]
    encode_ms: float
    decode_ms: float


def demo(out: Out = Path("out"), model: Model = "tiny", size: Size = 256) -> None:
    """Encode, decode and segment four photos.

    Encodes each photo, writes its tokens to a file, reads the file and decodes every prefix of its levels. The images are put
    on one sheet and the figures in a table; times are the medians of three runs after a first one. Three photos are also
    segmented by a few words, from the tokens alone.
    """
    from pyramid_tokenizer.cli.prefixes import prefix_sheet
    from pyramid_tokenizer.images.files import save_image
    from pyramid_tokenizer.images.pixels import to_pil
    from pyramid_tokenizer.images.read import read_image

    console = make_console()
    folder, sheet = out.expanduser() / "tokens", out.expanduser() / "demo.png"
    photos = {name: read_image(_load_photo(name), size=size) for name in PHOTOS}
    console.print(f"demo: loading the model {model}")
    segmenter = load_segmenter(model)
    console.print(f"demo: encoding and decoding {', '.join(PHOTOS)}")
    folder.mkdir(parents=True, exist_ok=True)
    shown = {}
    with show_progress(console, "photos", len(photos)) as advance:
        for name, photo in photos.items():
            shown[name] = _show(segmenter.tok, photo, folder / f"{name}{TOKEN_SUFFIX}")
            advance()
    originals = [to_pil(photo)[0] for photo in photos.values()]
    save_image(prefix_sheet(originals, [one.prefixes for one in shown.values()], row_titles=PHOTOS), sheet)
    found = [
        _segment(segmenter, shown[name].tokens, sheet.with_name(f"overlay-{name}.png"), WORDS[name]) for name in WORDS
    ]
    console.print()
    console.print(_table(shown, title=f"model {model}, photos with a short side of {size} px"), soft_wrap=False)
    console.print(f"\nimages       {sheet}")
    console.print(f"token files  {folder}")
    for line in found:
        console.print(f"words        {line}")


def _load_photo(name: str) -> NDArray[Any]:
    """(H, W, 3) uint8."""
    try:
        from skimage import data
    except ImportError as error:
        raise MissingExtraError(
            'expected the package scikit-image, whose photos the demo uses, got none: pip install "pyramid-tokenizer[eval]"'
        ) from error
    return getattr(data, name)()


def _show(tok: PyramidTokenizer, photo: Tensor, path: Path) -> _Shown:
    from pyramid_tokenizer.cli.prefixes import decode_prefixes
    from pyramid_tokenizer.tokens.pyramid import TokenPyramid

    written, encode_ms = _timed(lambda: tok.encode(photo))
    written.save(path)
    tokens = TokenPyramid.load(path)
    _, decode_ms = _timed(lambda: tok.decode(tokens))
    prefixes = decode_prefixes(tok, tokens, photo)
    return _Shown(tokens=tokens, prefixes=prefixes, encode_ms=encode_ms, decode_ms=decode_ms)


def _segment(segmenter: Segmenter, tokens: TokenPyramid, path: Path, words: Sequence[str]) -> str:
    """Writes an overlay of the words over the decoded image; returns its path and its words as a line of text."""
    from pyramid_tokenizer.images.files import save_image
    from pyramid_tokenizer.visualize import overlay

    found = segmenter.segment(tokens, words)
    save_image(overlay(segmenter.tok.decode(tokens), found.labels[0], found.names), path)
    return f"{path}: {', '.join(found.names)}"


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """Returns the result, and the median time of a few runs in milliseconds after a first one."""
    result, times = work(), []
    for _ in range(TIMED_RUNS):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return result, statistics.median(times)


def _table(shown: dict[str, _Shown], *, title: str) -> Table:
    columns = "photo", "tokens per level", "bits/px", "PSNR dB", "SSIM", "encode ms", "decode ms"
    table = make_table(title, *columns)
    for name, one in shown.items():
        times = f"{one.encode_ms:.0f}", f"{one.decode_ms:.0f}"
        table.add_row(name, count_tokens(one.tokens), *one.prefixes[-1].cells[1:], *times)
    return table
