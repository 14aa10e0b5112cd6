"""`tokenize`: a source of images -> a folder of Parquet shards of tokens, whatever interrupts it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyramid_tokenizer.checks.arguments import check_kinds
from pyramid_tokenizer.datasets import state
from pyramid_tokenizer.datasets.engines.choice import check_engine, choose_engine
from pyramid_tokenizer.datasets.engines.contract import Engine
from pyramid_tokenizer.datasets.keys import Keys, describe_change, places_of
from pyramid_tokenizer.datasets.locks import only_writer
from pyramid_tokenizer.datasets.manifest import Plan, ShardRecord, check_plan, fixed_bits
from pyramid_tokenizer.datasets.options import OnChange, TokenizeOptions
from pyramid_tokenizer.datasets.plan import load_fitted, open_source, plan_dataset
from pyramid_tokenizer.datasets.schema import import_pyarrow
from pyramid_tokenizer.datasets.shards import Shard, Work
from pyramid_tokenizer.datasets.storage import LocalStorage, RemoteStorage, open_storage
from pyramid_tokenizer.errors import DatasetError
from pyramid_tokenizer.images.columns import open_columns
from pyramid_tokenizer.images.packed import PackedStrings
from pyramid_tokenizer.images.sources import Source
from pyramid_tokenizer.tokenizer import PyramidTokenizer


@dataclass(frozen=True, slots=True)
class TokenizeReport:
    """What a call of `tokenize` found and did."""

    out: str
    """Where the dataset lies."""
    images: int
    """Images in the source when the dataset was begun."""
    rows: int
    """Images that have tokens."""
    errors: int
    """Images that have none, because they could not be read or have too many cells; errors.jsonl in `out` says which and why."""
    missed: int
    """Images that do not reach a `target_psnr` with all their tokens, which they keep."""
    shards: int
    """Shards of the dataset."""
    new_shards: int
    """Of which this call wrote; the others were whole already."""
    bytes: int
    """Size of all shards."""
    fixed_rate: float
    """What the columns of ids and splits take, as a multiple of log2(K) / 8 bytes per token and of 1/8 per split."""


def tokenize(
    source: Source,
    out: str | os.PathLike[str],
    *,
    model: str | Path | PyramidTokenizer = "tiny",
    columns: Sequence[str] = (),
    resume: bool = True,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> TokenizeReport:
    """Encodes all images of a source into a token dataset: Parquet shards, a manifest, a list of images that cannot be read.

    A call that was interrupted, by whatever it was, is repeated: it goes on after the shards that are whole, and the result
    has the same bytes as that of one call. They do not depend on the number of processes either. docs/datasets.md describes
    the files.

    Args:
        source: What `images.open_images` takes: a folder, tar shards, Parquet files, a data set, a list.
        out: A folder, or an address of fsspec such as "s3://bucket/tokens"; new, or one where such a call was interrupted.
        model: A tokenizer, or the name of one as `PyramidTokenizer.from_pretrained` takes it.
        columns: Columns of the source that come along, such as "caption" (`images.columns.open_columns`).
        resume: Whether to go on where a dataset was begun in `out`; False makes that an error.
        progress: Called as progress(3000, 10000): images that are done, and all. A shard that is begun again is taken back.
        options: The fields of `TokenizeOptions`, such as size=256 or workers=2, and one of the limits that `encode` takes:
            max_tokens=400, target_psnr=26 or quality=0.5. Then levels may be sparse.

    Raises:
        DatasetError: `out` holds other files or the dataset of another model, of other options or of images that are not the
            source's; it cannot be written; or a shard cannot be encoded. Also where no image at all could be read.
        DatasetInUseError: Another process writes in `out`.
        DataError: The source is empty, names an image twice, or has no such column.
        ConfigError, NotFittedError, MissingExtraError: An option is out of its range, the model is not fitted, pyarrow or Ray
            is missing.

    Example:
        >>> import tempfile, torch
        >>> report = tokenize(torch.rand(3, 3, 64, 64), tempfile.mkdtemp(), workers=0)
        >>> report.images, report.rows, report.errors, report.shards
        (3, 3, 0, 1)
    """
    import_pyarrow()
    check_kinds(columns, str, name="columns", fix='write ["caption"]')
    settings = TokenizeOptions.of(**options)
    check_engine(settings)  # before anything is loaded
    storage = open_storage(out)
    _refuse_inside(source, storage)
    tok = load_fitted(model)
    images = open_source(source, settings.column)
    with only_writer(storage):
        found = state.read_state(storage)
        if found.plan is not None and not resume:
            raise DatasetError(
                f"expected a new folder with resume=False, got the dataset in {storage.address!r}: choose another, or resume it"
            )
        keys = Keys(images, source)
        wanted = plan_dataset(tok, keys, columns, settings, stored=found.plan)
        work = Work(
            plan=wanted if found.plan is None else found.plan,
            source=images,
            keys=keys,
            columns=open_columns(images, columns),
            model=model,
        )
        if found.plan is None:
            check_plan(wanted)
            state.begin(storage, wanted, keys)
        else:
            state.check_same(found.plan, wanted, storage.address)
            work = _follow(work, wanted, keys, storage, settings.on_change)
        records = dict(found.records)
        if not found.complete:
            # closed at once, whatever ends the loop: workers must not outlive it
            with closing(_encode(work, records, choose_engine(settings, tok), progress)) as shards:
                for shard in shards:
                    state.keep(storage, work.plan, shard)
                    records[shard.record.shard] = shard.record
            _refuse_nothing(work.plan, records)
            state.finish(storage, work.plan, records)
        return _report(storage, work.plan, records, len(records) - len(found.records))


def _refuse_inside(source: object, storage: LocalStorage | RemoteStorage) -> None:
    """Raises DatasetError for a dataset inside the folder of its images: its files would count among them at the next call."""
    if not isinstance(source, (str, os.PathLike)) or not isinstance(storage, LocalStorage):
        return
    folder = Path(source).expanduser()
    if os.path.isdir(folder) and storage.folder.resolve().is_relative_to(folder.resolve()):
        raise DatasetError(
            f"expected a folder outside of the images' own, {str(folder)!r}, got {storage.address!r}: the next call would take "
            "its files for images; name another"
        )


def _follow(work: Work, wanted: Plan, keys: Keys, storage: LocalStorage | RemoteStorage, on_change: OnChange) -> Work:
    """The work of a plan that was made before, on the source as it is now."""
    if wanted.keys_sha256 == work.plan.keys_sha256:
        return work
    planned, present = state.read_keys(storage), list(keys)
    if planned is None:
        raise DatasetError(
            f"expected the {work.plan.images:,} images of which the dataset in {storage.address!r} was made, got "
            f"{wanted.images:,}, other ones among them: it is complete; tokenize other images into another folder"
        )
    if on_change == "refuse":
        raise DatasetError(
            f"expected the {work.plan.images:,} images with which the dataset in {storage.address!r} was begun, got a source "
            f"that has changed: {describe_change(planned, present)}. Restore it, or go on with the images of the plan: "
            'on_change="go_on", on the command line --go-on-if-changed'
        )
    return dataclasses.replace(work, keys=PackedStrings(planned), places=places_of(planned, present))


def _encode(
    work: Work, records: Mapping[int, ShardRecord], engine: Engine, progress: Callable[[int, int], None] | None
) -> Generator[Shard]:
    """The shards that have no record."""
    missing = [shard for shard in range(work.plan.num_shards) if shard not in records]
    done = sum(len(work.plan.rows_of(shard)) for shard in records)

    def advance(images: int) -> None:
        nonlocal done
        done += images
        if progress is not None:
            progress(done, work.plan.images)

    advance(0)
    if missing:
        yield from engine.encode(work, missing, advance=advance)


def _refuse_nothing(plan: Plan, records: Mapping[int, ShardRecord]) -> None:
    if not any(record.rows for record in records.values()):
        first = records[0].errors[0]
        raise DatasetError(
            f"expected images that can be encoded, got {plan.images:,} of which none can be; of the first, {first.key!r}: "
            f"{first.reason}"
        )


def _report(
    storage: LocalStorage | RemoteStorage, plan: Plan, records: Mapping[int, ShardRecord], new: int
) -> TokenizeReport:
    tokens = [sum(record.tokens[level] for record in records.values()) for level in range(len(plan.strides))]
    rows = sum(record.rows for record in records.values())
    least = fixed_bits(plan, tokens, rows) / 8
    return TokenizeReport(
        out=storage.address,
        images=plan.images,
        rows=rows,
        errors=sum(len(record.errors) for record in records.values()),
        missed=sum(record.missed for record in records.values()),
        shards=plan.num_shards,
        new_shards=new,
        bytes=sum(record.bytes for record in records.values()),
        fixed_rate=sum(record.token_bytes for record in records.values()) / least if least else 0.0,
    )
