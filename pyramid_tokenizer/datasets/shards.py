"""One shard: images of a source, read ahead by threads, encoded in batches of one size -> the bytes of a Parquet file.

The bytes depend on the images and the plan alone. Images are encoded in the order in which the shard has them, in batches of
a fixed number of images of one size, and what is left of a size at the end is filled up to as many by repeating its last
image. So every product has the same shape and rounds alike, whichever images stand beside an image and whoever encodes it.
"""

from __future__ import annotations

import copy
import errno
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor

from pyramid_tokenizer.datasets.keys import GONE, Keys
from pyramid_tokenizer.datasets.manifest import ImageFailure, Plan, ShardRecord, checksum
from pyramid_tokenizer.datasets.schema import Row, build_table, rows_of, to_parquet
from pyramid_tokenizer.encoding import check_smallest
from pyramid_tokenizer.errors import ImageError, ImageFileError, PyramidTokenizerError, TokenRangeError
from pyramid_tokenizer.images.columns import SourceColumns
from pyramid_tokenizer.images.packed import PackedStrings
from pyramid_tokenizer.images.sources import ImageSource, read_resized
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.tokens.geometry import grids_of

if TYPE_CHECKING:
    import numpy as np

Stage: TypeAlias = Literal["reading", "read", "encoding", "encoded"]
Tell: TypeAlias = Callable[[Stage, Sequence[int]], None]
"""Called with what happens to which images, by their numbers in the source; from several threads at once."""

_Unfit: TypeAlias = ImageError | TokenRangeError
"""What is wrong with an image that gets no row."""

WAITING_BATCHES = 8
"""At most this many batches' worth of images wait in memory for others of their size."""

# What is wrong with the machine and not with an image: going on would take good images for damaged ones.
_OF_THE_MACHINE = frozenset(
    {errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN}
)


@dataclass(frozen=True, slots=True)
class Work:
    """What it takes to encode any shard of a dataset; pickled into worker processes."""

    plan: Plan
    source: ImageSource
    keys: Keys | PackedStrings
    """The key of every image of the plan."""
    columns: SourceColumns | None
    model: str | Path | PyramidTokenizer
    places: NDArray[np.int64] | None = None
    """Where the plan's images are in the source, if it has changed since (`keys.places_of`)."""

    def place(self, row: int) -> int:
        """The number in the source as it is now of the plan's image `row`, or `GONE`."""
        return row if self.places is None else int(self.places[row])

    def load_tokenizer(self, device: str) -> PyramidTokenizer:
        """A tokenizer of its own, on a device."""
        if isinstance(self.model, PyramidTokenizer):
            return copy.deepcopy(self.model).to(device)
        return PyramidTokenizer.from_pretrained(self.model, device=device)


@dataclass(frozen=True, slots=True)
class Shard:
    """A finished shard, before it is written."""

    record: ShardRecord
    data: bytes


def encode_shard(tok: PyramidTokenizer, work: Work, shard: int, *, readers: int, tell: Tell) -> Shard:
    """Reads and encodes the images of one shard.

    Args:
        tok: The plan's tokenizer.
        work: Source and plan.
        shard: Number of the shard.
        readers: Threads that read images ahead; results do not depend on it.
        tell: Told what happens to which images.

    Raises:
        DataError: A column of the source cannot be read.
        OSError: The machine cannot read: an error of a disk or network and not of an image.
    """
    plan = work.plan
    rows: dict[int, Row] = {}
    failures: list[ImageFailure] = []
    missed: set[int] = set()
    waiting: dict[torch.Size, list[tuple[int, Tensor]]] = defaultdict(list)

    def flush(size: torch.Size) -> None:
        group = waiting.pop(size)
        numbers = [number for number, _ in group]
        tell("encoding", numbers)
        pixels = [image for _, image in group]
        batch = torch.stack(pixels + pixels[-1:] * (plan.batch_size - len(pixels)))
        try:
            kept = tok.encode_within(batch, plan.budget, levels=len(plan.strides), window_px=plan.window_px)
        except PyramidTokenizerError as error:
            names = ", ".join(repr(work.keys[number]) for number in numbers)
            raise type(error)(f"{error} (while {names} was encoded)") from error
        for number, parts in zip(numbers, rows_of(kept.tokens, plan), strict=False):
            rows[number] = Row(work.keys[number], number, kept.tokens.image_size, *parts)
        missed.update(number for place, number in enumerate(numbers) if place in kept.missed)
        tell("encoded", numbers)

    for number, image in _read_ahead(work, plan.rows_of(shard), readers, tell):
        if isinstance(image, PyramidTokenizerError):
            failures.append(ImageFailure(work.keys[number], number, str(image)))
            continue
        waiting[image.shape].append((number, image))
        if len(waiting[image.shape]) == plan.batch_size:
            flush(image.shape)
        elif sum(map(len, waiting.values())) >= WAITING_BATCHES * plan.batch_size:
            flush(max(waiting, key=lambda size: len(waiting[size])))
    for size in list(waiting):
        flush(size)
    return _pack(work, shard, [rows[number] for number in sorted(rows)], failures, missed=len(missed))


def _pack(work: Work, shard: int, rows: list[Row], failures: list[ImageFailure], *, missed: int) -> Shard:
    own = work.columns.read([work.place(row.source_row) for row in rows]) if work.columns is not None else None
    data, token_bytes = to_parquet(build_table(work.plan, rows, own))
    record = ShardRecord(
        shard=shard,
        rows=len(rows),
        errors=tuple(failures),
        tokens=tuple(sum(len(row.ids[level]) for row in rows) for level in range(len(work.plan.strides))),
        bytes=len(data),
        token_bytes=token_bytes,
        missed=missed,
        sha256=checksum(data),
    )
    return Shard(record, data)


def _read_ahead(work: Work, numbers: range, readers: int, tell: Tell) -> Iterator[tuple[int, Tensor | _Unfit]]:
    """Number and pixels of each image, or what is wrong with it, in order; a few are read while others are encoded."""

    def read(number: int) -> Tensor | _Unfit:
        tell("reading", [number])
        try:
            image = read_planned(work, number)
        except (ImageError, TokenRangeError) as error:
            _raise_of_the_machine(error)
            image = error
        tell("read", [number])  # not after any other error, so that this image is named as the one that was being read
        return image

    pending: deque[tuple[int, Future[Tensor | _Unfit]]] = deque()
    with ThreadPoolExecutor(readers) as pool:
        try:
            for number in numbers:
                pending.append((number, pool.submit(read, number)))
                if len(pending) > readers:
                    first, image = pending.popleft()
                    yield first, image.result()
            while pending:
                first, image = pending.popleft()
                yield first, image.result()
        finally:
            for _, image in pending:
                image.cancel()


def read_planned(work: Work, number: int) -> Tensor:
    """The pixels of the plan's image `number`: (3, H, W) float32 in [0, 1].

    Raises:
        ImageError: It cannot be read.
        TokenRangeError: It has more cells on level 0 than the plan allows tokens.
    """
    place, recipe = work.place(number), work.plan.image_recipe
    if place == GONE:
        raise ImageFileError("expected the image that the source had when the run began, got none: it is gone")
    pixels = read_resized(work.source, place, size=recipe["size"], jpeg_draft=recipe["jpeg_draft"])
    check_size(work.plan, pixels)
    return pixels


def check_size(plan: Plan, pixels: Tensor) -> None:
    """Raises TokenRangeError for an image (3, H, W) with more cells on level 0 than the plan allows tokens."""
    size = int(pixels.shape[1]), int(pixels.shape[2])
    image_tokens = len(plan.image_codebook_sizes)
    check_smallest(plan.budget, grids_of(size, plan.strides[:1])[0], size, image_tokens=image_tokens)


def _raise_of_the_machine(error: BaseException | None) -> None:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
            raise error
        error = error.__cause__
