"""Search: words or an example image -> the rows of a token dataset that suit them best, from tokens alone.

Every image has an embedding in CLIP's joint space, the mean of its codes' text embeddings through a linear map. Those of all
rows are computed once and kept in a file beside the dataset's copy; a search reads them block by block and compares each with
the query. So it is exact, and holds one block in memory whatever the number of rows.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pyramid_tokenizer.checks.arguments import check_whole
from pyramid_tokenizer.datasets.manifest import Plan
from pyramid_tokenizer.errors import ConfigError, DatasetError
from pyramid_tokenizer.files import replacing
from pyramid_tokenizer.images.read import ImageLike, to_batch
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.tokens.wrapping import check_own

if TYPE_CHECKING:
    from pyramid_tokenizer.datasets.reader import TokenDataset

_FORMAT = 1
BLOCK_ROWS = 16_384
"""Embeddings that are compared at once: 17 MB of 256 numbers each."""
_ENCODED_ROWS = 256


@dataclass(frozen=True, slots=True)
class Match:
    """A row that was found."""

    row: int
    """Its number in the dataset."""
    key: str
    """Its stable name."""
    score: float
    """Cosine of its embedding and the query's, in [-1, 1]."""


def search(
    ds: TokenDataset,
    query: str | TokenPyramid | ImageLike,
    *,
    top: int = 20,
    model: str | Path | PyramidTokenizer = "tiny",
    progress: Callable[[int, int], None] | None = None,
) -> list[Match]:
    """The rows whose tokens suit the query best, best first; of equal ones the first in the dataset.

    Args:
        ds: The dataset.
        query: Words as a str, which are read as they are; or an example: an image (a Path, not a str, for a file), or the
            tokens of one image.
        top: How many rows, at most.
        model: The tokenizer that made the dataset, or its name.
        progress: Called as progress(3000, 10000) while the embeddings of rows are computed, at the first search.

    Raises:
        TokenMismatchError: Another tokenizer made the dataset.
        ConfigError: `top` is below 1, or the words are empty, or there are several example images.
        DatasetError: The embeddings cannot be written.
        ImageError, TokenRangeError: The example is no image, or too large for the limit of the dataset.
    """
    check_whole(top=top)
    tok = model if isinstance(model, PyramidTokenizer) else PyramidTokenizer.from_pretrained(model)
    check_own(ds.plan.fingerprint, tok.fingerprint)
    wanted = embed_query(tok, query, plan=ds.plan)
    embeddings = open_embeddings(ds, tok, progress=progress)
    rows, scores = best_rows(embeddings, wanted, top=top)
    found = ds.__getitems__(rows.tolist())
    return [Match(row.row, row.key, float(score)) for row, score in zip(found, scores, strict=True)]


def embed_query(tok: PyramidTokenizer, query: str | TokenPyramid | ImageLike, *, plan: Plan) -> NDArray[np.float32]:
    """(D,) float32 of unit norm: the embedding of words, or of the tokens of an example image.

    Args:
        tok: The tokenizer.
        query: As for `search`.
        plan: Of the dataset; an image is resized and encoded as those of the dataset were.

    Raises:
        ConfigError: The words are empty, or there are several images.
        ImageError: The example is no image.
        TokenRangeError: It has more cells on level 0 than images of the dataset may have tokens.
    """
    if isinstance(query, str):
        if not query.strip():
            raise ConfigError('expected words to search for, got none: write what an image shows, e.g. "a red flower"')
        found = tok.text.encode([query], templates="plain")
    else:
        found = tok.embedding(query if isinstance(query, TokenPyramid) else _encode_as(tok, query, plan))
    if len(found) != 1:
        raise ConfigError(f"expected one example image, got {len(found)}: search for each of them alone")
    return found[0].float().cpu().numpy()


def _encode_as(tok: PyramidTokenizer, image: ImageLike, plan: Plan) -> TokenPyramid:
    batch = to_batch(image, size=plan.image_recipe["size"])
    return tok.encode_within(batch, plan.budget, levels=len(plan.strides), window_px=plan.window_px).tokens


def open_embeddings(
    ds: TokenDataset, tok: PyramidTokenizer, *, progress: Callable[[int, int], None] | None = None
) -> NDArray[np.float32]:
    """(rows, D) float32 of unit norm: the embeddings of all rows, mapped into memory; computed where there are none yet.

    They lie in `ds.cache_folder` under a name that follows from the levels that are read, and from the text embeddings and
    the linear map of the tokenizer, which a fingerprint does not cover.

    Args:
        ds: The dataset.
        tok: The tokenizer that made it.
        progress: Called with the rows that are done, and all.

    Raises:
        DatasetError: They cannot be written.
    """
    from filelock import FileLock

    shape = len(ds), tok.quantizer.to_embedding.out_features
    path = ds.cache_folder / f"embeddings-{_digest(ds, tok)[:32]}.f32"
    size = shape[0] * shape[1] * 4
    try:
        with FileLock(path.with_name(f"{path.name}.lock")):
            if not path.exists() or os.path.getsize(path) != size:
                with replacing(path) as part, part.open("xb") as file:
                    for first in range(0, len(ds), _ENCODED_ROWS):
                        last = min(first + _ENCODED_ROWS, len(ds))
                        file.write(_embed_rows(ds, tok, first, last).data)
                        if progress is not None:
                            progress(last, len(ds))
    except OSError as error:
        raise DatasetError(
            f"expected to write {size:,} bytes of embeddings to {str(path)!r}, got {error}: free some space, or open the "
            "dataset with another cache_dir"
        ) from error
    return np.memmap(path, dtype=np.float32, mode="r", shape=shape)


def best_rows(
    embeddings: NDArray[np.float32], wanted: NDArray[np.float32], *, top: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The rows with the largest products, best first, and these products; of equal ones the first.

    Args:
        embeddings: (rows, D), in memory or mapped; they are read block by block.
        wanted: (D,).
        top: How many rows, at most.

    Example:
        >>> rows, scores = best_rows(np.eye(3, dtype=np.float32), np.float32([0.1, 0.9, 0.5]), top=2)
        >>> rows.tolist()
        [1, 2]
    """
    rows, scores = np.empty(0, np.int64), np.empty(0, np.float32)
    for first in range(0, len(embeddings), BLOCK_ROWS):
        found = np.asarray(embeddings[first : first + BLOCK_ROWS]) @ wanted
        (better,) = np.nonzero(found > scores[-1]) if len(scores) == top else (np.arange(len(found)),)
        rows, scores = np.concatenate([rows, better + first]), np.concatenate([scores, found[better]])
        order = np.lexsort((rows, -scores))[:top]
        rows, scores = rows[order], scores[order]
    return rows, scores


def _embed_rows(ds: TokenDataset, tok: PyramidTokenizer, first: int, stop: int) -> NDArray[np.float32]:
    out = np.empty((stop - first, tok.quantizer.to_embedding.out_features), dtype=np.float32)
    for part in ds.__getitems__(range(first, stop)).by_size():
        out[part.rows.numpy() - first] = tok.embedding(part.tokens).cpu().numpy()
    return out


def _digest(ds: TokenDataset, tok: PyramidTokenizer) -> str:
    digest = hashlib.sha256(f"{_FORMAT} {ds.levels}".encode())
    quantizer = tok.quantizer
    maps = (*quantizer.weighted_text_embeddings(), *quantizer.to_embedding.state_dict().values())
    for tensor in (*maps, *quantizer.image.codebooks):
        digest.update(f"{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
