"""Decodes every prefix of the levels of an image and measures it; `reconstruct` and `demo` show the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from PIL import Image

from pyramid_tokenizer.cli.terminal import count_levels
from pyramid_tokenizer.errors import ImageValueError

if TYPE_CHECKING:
    from torch import Tensor

    from pyramid_tokenizer.tokenizer import PyramidTokenizer
    from pyramid_tokenizer.tokens.pyramid import TokenPyramid


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefix:
    """What the first levels of one image decode to, and its figures."""

    image: Image.Image
    levels: int
    num_tokens: int
    bits_per_pixel: float
    psnr: float
    """PSNR in dB, on 8-bit pixels."""
    ssim: float | None
    """SSIM; None if a side of the image is shorter than the window of SSIM."""

    @property
    def title(self) -> str:
        """The number of levels in words, such as "2 levels"."""
        return count_levels(self.levels)

    @property
    def caption(self) -> str:
        """The figures in two lines."""
        return f"{self.num_tokens:,} tokens · {self.bits_per_pixel:.3f} bits per pixel\nPSNR {self.psnr:.2f} dB"

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """The number of tokens, bits per pixel, PSNR and SSIM, formatted for a table."""
        ssim = "-" if self.ssim is None else f"{self.ssim:.3f}"
        return f"{self.num_tokens:,}", f"{self.bits_per_pixel:.3f}", f"{self.psnr:.2f}", ssim


def mean_cells(prefixes: Sequence[Prefix]) -> tuple[str, str, str, str]:
    """The means of one prefix of several images, formatted as `Prefix.cells`; SSIM is that of the images large enough for it."""
    figures = [(float(p.num_tokens), p.bits_per_pixel, p.psnr) for p in prefixes]
    tokens, bits, psnr = (fmean(column) for column in zip(*figures, strict=True))
    ssims = [p.ssim for p in prefixes if p.ssim is not None]
    return f"{tokens:,.0f}", f"{bits:.3f}", f"{psnr:.2f}", f"{fmean(ssims):.3f}" if ssims else "-"


def decode_prefixes(tok: PyramidTokenizer, tokens: TokenPyramid, original: Tensor) -> list[Prefix]:
    """Decodes and measures every prefix of the levels, the shortest first.

    Args:
        tok: The tokenizer that made the tokens.
        tokens: The tokens of one image.
        original: The image itself, (3, H, W) float in [0, 1].

    Raises:
        MissingExtraError: scikit-image, which measures SSIM, is not installed.
    """
    from pyramid_tokenizer.evaluation import psnr
    from pyramid_tokenizer.images.pixels import to_pil

    prefixes = []
    for n in range(1, len(tokens) + 1):
        part = tokens[:n]
        decoded = tok.decode(part).cpu()
        prefix = Prefix(
            image=to_pil(decoded)[0],
            levels=n,
            num_tokens=part.num_tokens,
            bits_per_pixel=part.bits_per_pixel,
            psnr=psnr(original[None], decoded).item(),
            ssim=_ssim(original[None], decoded),
        )
        prefixes.append(prefix)
    return prefixes


def _ssim(original: Tensor, decoded: Tensor) -> float | None:
    from pyramid_tokenizer.evaluation import ssim

    try:
        return ssim(original, decoded).item()
    except ImageValueError:  # smaller than the window
        return None


def prefix_sheet(
    originals: Sequence[Image.Image],
    prefixes: Sequence[Sequence[Prefix]],
    *,
    row_titles: Sequence[str] = (),
    cells: Sequence[Image.Image] = (),
) -> Image.Image:
    """Draws a sheet with a row per image: the original, then its prefixes, then where its tokens are if `cells` are given."""
    from pyramid_tokenizer.visualize import contact_sheet
    from pyramid_tokenizer.visualize.cells import COARSEST, FINEST

    rows = [[original, *(p.image for p in row)] for original, row in zip(originals, prefixes, strict=True)]
    captions = [
        [f"{original.width} x {original.height} px", *(p.caption for p in row)]
        for original, row in zip(originals, prefixes, strict=True)
    ]
    titles = ["original", *(p.title for p in prefixes[0])]
    if cells:
        rows = [[*row, image] for row, image in zip(rows, cells, strict=True)]
        captions = [[*row, f"{COARSEST}: level 0 alone\n{FINEST}: every level"] for row in captions]
        titles.append("where the tokens are")
    return contact_sheet(rows, column_titles=titles, row_titles=row_titles, captions=captions)
