"""What a token file holds, told without torch and without the ids themselves."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyramid_tokenizer.errors import TokenFileError, TokenRangeError
from pyramid_tokenizer.tokens.format import TokenHeader, read_file, unpack
from pyramid_tokenizer.tokens.geometry import check_grids


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenOutline:
    """The header of a token file, and how many tokens its images have. `read_outline` makes one.

    Example:
        >>> grids = {"codebook_sizes": (4, 16), "grids": ((1, 1), (2, 2)), "batch_size": 1, "image_size": (8, 8)}
        >>> header = TokenHeader(**grids, fingerprint="0" * 64, precision=None)
        >>> outline = TokenOutline(header=header, counts=np.array([[1], [4]]))
        >>> outline.num_tokens, outline.bits_per_pixel(1), outline.bits_per_pixel()
        (5, 0.03125, 0.28125)
    """

    header: TokenHeader
    """What stands before the ids."""
    counts: NDArray[np.int64]
    """(L, B), tokens of each image on each level."""

    @property
    def is_sparse(self) -> bool:
        """Whether some cells of some level have no token."""
        return bool(self.header.sparse_counts)

    @property
    def num_cells(self) -> int:
        """Cells of all levels of an image, absent ones included."""
        return sum(height * width for height, width in self.header.grids)

    @property
    def num_tokens(self) -> int:
        """Tokens of all images together, image tokens included."""
        return int(self.counts.sum()) + self.header.batch_size * len(self.header.image_codebook_sizes)

    def bits_per_pixel(self, levels: int | None = None) -> float:
        """The size of image tokens, ids and split bits of the first levels, as `TokenPyramid.bits_per_pixel` counts them.

        Args:
            levels: How many levels; None for all.
        """
        counts = self.counts[:levels].astype(float)
        sizes = np.array([math.log2(k) for k in self.header.codebook_sizes[:levels]])
        cells = np.array([height * width for height, width in self.header.grids[:levels]])
        splits = (counts[:-1] * (counts[1:] < cells[1:, None])).sum()
        height, width = self.header.image_size
        image = sum(math.log2(k) for k in self.header.image_codebook_sizes)
        batch = self.header.batch_size
        return float((counts.sum(1) @ sizes + splits + batch * image) / (batch * height * width))


def read_outline(path: str | os.PathLike[str]) -> TokenOutline:
    """Reads a token file whole and checks it as `TokenPyramid.load` does.

    Args:
        path: Name of the file.

    Raises:
        TokenFileError: There is no such file, or its bytes are of another format, too few, too many or altered; the message
            names the file.
    """
    data = read_file(path)
    try:
        header, ids, image_ids = unpack(data)
        check_grids(header.grids, header.image_size)
        for level, (found, size) in enumerate(zip(ids, header.codebook_sizes, strict=True)):
            if found.max() >= size:
                raise TokenRangeError(f"expected ids of level {level} below {size}, got {found.max()}: encode again")
        if (image_ids >= np.array(header.image_codebook_sizes, int)).any():
            raise TokenRangeError(
                f"expected image ids below {header.image_codebook_sizes}, got {image_ids.max(0)}: encode again"
            )
    except (TokenFileError, TokenRangeError) as error:
        raise TokenFileError(f"{os.fspath(path)}: {error}") from error
    counts = np.stack([(found >= 0).sum((1, 2)) for found in ids])
    return TokenOutline(header=header, counts=counts)
