"""What a dataset would take: images are counted, and a sample of them is read and encoded; nothing is written."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyramid_tokenizer.checks.arguments import check_kinds, check_whole
from pyramid_tokenizer.datasets.engines.inline import fixed_threads
from pyramid_tokenizer.datasets.keys import Keys
from pyramid_tokenizer.datasets.manifest import Plan, check_plan, fixed_bits
from pyramid_tokenizer.datasets.options import TokenizeOptions, cores
from pyramid_tokenizer.datasets.plan import load_fitted, open_source, plan_dataset
from pyramid_tokenizer.datasets.schema import Row, build_table, import_pyarrow, rows_of, to_parquet, token_columns
from pyramid_tokenizer.datasets.shards import check_size
from pyramid_tokenizer.errors import ConfigError, DataError, ImageError, TokenRangeError
from pyramid_tokenizer.images.columns import SourceColumns, open_columns
from pyramid_tokenizer.images.sources import ImageSource, Source, read_resized
from pyramid_tokenizer.tokenizer import PyramidTokenizer

SAMPLE = 32
"""Images that are read and encoded, spread evenly over the source."""
_PARQUET = 1.05
"""What token columns of a full shard take, as a multiple of their fixed rate (docs/datasets.md has the measurement)."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a call of `tokenize` is expected to take on this machine, or on several like it, when nothing else runs there."""

    images: int
    """Images in the source."""
    shards: int
    """Files that they would fill."""
    sampled: int
    """Images that were read."""
    unreadable: int
    """Of these, the ones that cannot be read."""
    reading_seconds: float
    """For reading and resizing one image, on one core."""
    encoding_seconds: float
    """For encoding one image, by one process."""
    images_per_second: float
    """Of all processes together."""
    tokens_per_image: float
    """The mean of the sample."""
    bytes_per_image: float
    """What a row takes on the disk."""

    @property
    def seconds(self) -> float:
        """For the whole source."""
        return self.images / self.images_per_second

    @property
    def bytes(self) -> float:
        """Of all shards."""
        return self.images * self.bytes_per_image


def estimate(
    source: Source,
    *,
    model: str | Path | PyramidTokenizer = "tiny",
    columns: Sequence[str] = (),
    sample: int = SAMPLE,
    **options: Any,
) -> Estimate:
    """Counts the images of a source, encodes a sample of them, and says what all of them would take.

    Args:
        source: As `tokenize` takes it.
        model: As `tokenize` takes it.
        columns: As `tokenize` takes them.
        sample: Images to read and encode.
        options: As `tokenize` takes them.

    Raises:
        DataError: The source is empty, names an image twice, has no such column, or no image of the sample can be read.
        ConfigError, NotFittedError, MissingExtraError: As for `tokenize`; ConfigError also for Ray without a number of workers.

    Example:
        >>> expected = estimate(torch.rand(4, 3, 32, 32), sample=2, workers=1)
        >>> expected.images, expected.sampled, expected.seconds > 0
        (4, 2, True)
    """
    import_pyarrow()
    check_kinds(columns, str, name="columns", fix='write ["caption"]')
    check_whole(sample=sample)
    settings = TokenizeOptions.of(**options)
    if settings.engine == "ray" and settings.workers is None:
        raise ConfigError(
            'expected workers with engine="ray" in an estimate, got none: say how many actors there will be'
        )
    devices = settings.devices()
    tok, images = load_fitted(model), open_source(source, settings.column)
    keys, own = Keys(images, source), open_columns(images, columns)
    plan = plan_dataset(tok, keys, columns, settings)
    check_plan(plan)
    tok = tok if str(tok.device) == devices[0] else copy.deepcopy(tok).to(devices[0])
    numbers = np.unique(np.linspace(0, len(images) - 1, min(sample, len(images))).round().astype(int)).tolist()
    with fixed_threads():
        rows, reading, encoding = _try(tok, images, keys, plan, numbers)
    if not rows:
        raise DataError(f"expected an image that can be read, got none in a sample of {len(numbers)}: check the source")
    here_on_cpu = settings.engine == "local" and not settings.on_gpu
    at_once = min(len(devices), cores()) if here_on_cpu else len(devices)
    per_image = max(reading / settings.threads(), encoding) if settings.on_gpu else reading + encoding
    return Estimate(
        images=len(images),
        shards=plan.num_shards,
        sampled=len(numbers),
        unreadable=len(numbers) - len(rows),
        reading_seconds=reading,
        encoding_seconds=encoding,
        images_per_second=at_once / per_image,
        tokens_per_image=len(plan.image_codebook_sizes) + sum(len(ids) for row in rows for ids in row.ids) / len(rows),
        bytes_per_image=_bytes_per_row(plan, rows, own),
    )


def _try(
    tok: PyramidTokenizer, images: ImageSource, keys: Keys, plan: Plan, numbers: Sequence[int]
) -> tuple[list[Row], float, float]:
    """The rows of the images that can be read, and the mean seconds of reading and of encoding one."""
    recipe, fixed = plan.image_recipe, {"levels": len(plan.strides), "window_px": plan.window_px}
    rows: list[Row] = []
    reading = encoding = 0.0
    for number in numbers:
        begun = time.perf_counter()
        try:
            pixels = read_resized(images, number, size=recipe["size"], jpeg_draft=recipe["jpeg_draft"])
            check_size(plan, pixels)
        except (ImageError, TokenRangeError):
            continue
        reading += time.perf_counter() - begun
        batch = torch.stack([pixels] * plan.batch_size)
        if not rows:
            tok.encode_within(batch, plan.budget, **fixed)  # the first pass of a process takes longer than the others
        begun = time.perf_counter()
        tokens = tok.encode_within(batch, plan.budget, **fixed).tokens
        parts, *_ = rows_of(tokens, plan)
        encoding += (time.perf_counter() - begun) / plan.batch_size
        rows.append(Row(keys[number], number, tokens.image_size, *parts))
    return rows, reading / max(1, len(rows)), encoding / max(1, len(rows))


def _bytes_per_row(plan: Plan, rows: list[Row], own: SourceColumns | None) -> float:
    """Token columns at their fixed rate, and the rest as it is stored; a sample is too small for a shard's dictionaries."""
    table = build_table(plan, rows, None if own is None else own.read([row.source_row for row in rows]))
    names = [*itertools.chain(*token_columns(plan))]
    rest, _ = to_parquet(table.drop_columns([name for name in table.schema.names if name in names]))
    counts = [sum(map(len, ids)) for ids in zip(*(row.ids for row in rows), strict=True)]
    bits = fixed_bits(plan, counts, len(rows))
    return (_PARQUET * bits / 8 + len(rest)) / len(rows)
