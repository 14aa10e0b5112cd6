"""What a call of `tokenize` asks for -> a `Plan`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pyramid_tokenizer.datasets.keys import Keys, digest_of
from pyramid_tokenizer.datasets.manifest import Plan
from pyramid_tokenizer.datasets.options import TokenizeOptions
from pyramid_tokenizer.datasets.schema import name_columns
from pyramid_tokenizer.errors import ConfigError, DataError
from pyramid_tokenizer.images.read import IMAGE_RECIPE_VERSION
from pyramid_tokenizer.images.sources import ImageSource, Source, open_images
from pyramid_tokenizer.tokenizer import PyramidTokenizer

_CPU_BATCH, _GPU_BATCH = 1, 8


def plan_dataset(
    tok: PyramidTokenizer, keys: Keys, columns: Sequence[str], options: TokenizeOptions, *, stored: Plan | None = None
) -> Plan:
    """The plan of a call.

    Args:
        tok: The tokenizer.
        keys: Keys of the source.
        columns: Columns of the source that come along.
        options: Of the call.
        stored: The plan of the dataset that the call goes on with, which decides the batch size where the call leaves it
            open.

    Raises:
        ConfigError: There are not that many levels, or windows cannot have that side.
    """
    tok.check_window(options.window_px)
    levels = count_levels(tok, options)
    batch_size = options.batch_size or (stored.batch_size if stored is not None else None)
    recipe = {"version": IMAGE_RECIPE_VERSION, "size": options.size, "jpeg_draft": options.jpeg_draft}
    return Plan(
        fingerprint=tok.fingerprint,
        precision=tok.precision,
        codebook_sizes=tuple(tok.quantizer.codebook_sizes[:levels]),
        strides=tuple(tok.quantizer.strides[:levels]),
        image_recipe=recipe,
        batch_size=batch_size or (_GPU_BATCH if options.on_gpu else _CPU_BATCH),
        shard_images=options.shard_images,
        images=len(keys),
        keys_sha256=digest_of(keys),
        columns=name_columns(columns, levels),
        image_codebook_sizes=tok.quantizer.image.codebook_sizes,
        window_px=options.window_px,
        limit={name: int(n) if name == "max_tokens" else float(n) for name, n in options.budget.limit.items()},
    )


def count_levels(tok: PyramidTokenizer, options: TokenizeOptions) -> int:
    """How many levels a dataset has.

    Raises:
        ConfigError: The model has no such number of levels, or a limit finds nothing to leave out.
    """
    most = len(tok.quantizer.strides)
    usual = tok.quantizer.base_levels if options.budget.is_open else most  # what `encode` gives
    levels = usual if options.levels is None else options.levels
    if not 1 <= levels <= most:
        raise ConfigError(f"expected levels from 1 to {most}, got {levels}: the model has no more")
    if levels == 1 and not options.budget.is_open:
        raise ConfigError(
            f"expected 2 levels or more with a limit, got 1 level and {options.budget.limit}: level 0 is never thinned"
        )
    return levels


def load_fitted(model: str | Path | PyramidTokenizer) -> PyramidTokenizer:
    """A tokenizer, or the one of a name; NotFittedError where its codebooks are empty."""
    tok = model if isinstance(model, PyramidTokenizer) else PyramidTokenizer.from_pretrained(model)
    tok.require_fitted()
    return tok


def open_source(source: Source, column: str | None) -> ImageSource:
    """As `open_images`; DataError also where a source of one's own has no image."""
    images = open_images(source, column=column)
    if not len(images):
        raise DataError(f"expected at least one image, got a {type(images).__name__} without any: check the source")
    return images
