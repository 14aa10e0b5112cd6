"""What a token dataset says about itself: `manifest.json`, and the plan and records from which a run goes on.

    tokens/
      data/train-00000-of-00003.parquet   the shards, whole once they have this name
      errors.jsonl                        images that could not be read: key, source_row, reason
      manifest.json                       written last: a folder that has it is complete
      progress/                           while it is incomplete:
        plan.json                           what every shard is made of, fixed by the first call
        keys.gz                             the keys of all images, in order, with a NUL between two
        00000.json                          a record per finished shard: its checksum, counts and errors

A plan fixes each shard's bytes: shard number s holds the images from s * shard_images on, and how they are read and encoded
does not depend on who does it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log2
from typing import Any, TypeVar

from pyramid_tokenizer.config import Budget
from pyramid_tokenizer.errors import ConfigError, DatasetError, TokenError
from pyramid_tokenizer.files import load_json
from pyramid_tokenizer.tokens.vocabulary import Vocabulary

FORMAT = "pyramid-tokenizer token dataset"
SCHEMA_VERSION = 4
"""Counts changes of the columns and of the manifest that a reader of older versions cannot read."""
MANIFEST_NAME, ERRORS_NAME = "manifest.json", "errors.jsonl"
PROGRESS, PLAN_NAME, KEYS_NAME = "progress/", "progress/plan.json", "progress/keys.gz"
MOST_SHARDS = 99_999
"""Names have five digits, as Hugging Face names the shards of a split."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What decides the bytes of every shard."""

    fingerprint: str
    """Of the tokenizer."""
    precision: str
    """In which its backbone computes."""
    codebook_sizes: tuple[int, ...]
    """K_l per level, coarse to fine; of the levels that are stored."""
    strides: tuple[int, ...]
    """Pixels per cell of each level: level l of an image of H x W px has a grid as `tokens.geometry.grids_of` gives it."""
    image_recipe: Mapping[str, Any]
    """`version` (`images.IMAGE_RECIPE_VERSION`), `size` (of the short side, or None) and `jpeg_draft`."""
    batch_size: int
    """Images of one size that are encoded together; the last ones are filled up to as many."""
    shard_images: int
    """Images of the source per shard; a shard has a row for each that can be read."""
    images: int
    """Number of images in the source."""
    keys_sha256: str
    """SHA-256 of all keys in order, each followed by a NUL."""
    columns: Mapping[str, str]
    """The dataset's columns that come from the source -> their names there."""
    limit: Mapping[str, float] = field(default_factory=dict)
    """How many tokens an image got, as `config.Budget` names it, such as {"quality": 0.5}; empty where all levels are full."""
    image_codebook_sizes: tuple[int, ...] = ()
    """K of each image token; empty where there are none."""
    window_px: int | None = None
    """Side of the overlapping windows in which larger images were read; None: they were read whole, or with the same tokens."""

    @property
    def budget(self) -> Budget:
        """The limit as the tokenizer takes it."""
        return Budget(**self.limit)  # type: ignore[arg-type]

    @property
    def is_sparse(self) -> bool:
        """Whether levels may be sparse; then each level but the finest has a column of splits."""
        return bool(self.limit)

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-self.images // self.shard_images)

    def shard_name(self, shard: int) -> str:
        """The file of a shard, as Hugging Face names the shards of a split."""
        return f"data/train-{shard:05d}-of-{self.num_shards:05d}.parquet"

    def record_name(self, shard: int) -> str:
        """The file of a finished shard's record."""
        return f"{PROGRESS}{shard:05d}.json"

    def rows_of(self, shard: int) -> range:
        """The numbers of the shard's images in the source."""
        return range(shard * self.shard_images, min((shard + 1) * self.shard_images, self.images))


@dataclass(frozen=True, slots=True)
class ImageFailure:
    """An image that has no row: a line of errors.jsonl."""

    key: str
    source_row: int
    reason: str


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """A finished shard."""

    shard: int
    rows: int
    """Images that it holds."""
    errors: tuple[ImageFailure, ...]
    """Images that could not be read, by source_row."""
    tokens: tuple[int, ...]
    """Number of tokens per level."""
    bytes: int
    """Size of the file."""
    token_bytes: int
    """Of which the token columns."""
    sha256: str
    """Of the file."""
    missed: int = 0
    """Images that do not reach the `target_psnr` of the plan with all their tokens."""


def fixed_bits(plan: Plan, tokens: Sequence[int], rows: int) -> float:
    """What the tokens of images take at their fixed rate, in bits: log2(K) each, and their splits.

    Args:
        plan: Of the dataset.
        tokens: Number of tokens per level, of all images.
        rows: Number of images.
    """
    ids = sum(count * log2(size) for count, size in zip(tokens, plan.codebook_sizes, strict=True))
    image = rows * sum(map(log2, plan.image_codebook_sizes))
    return ids + image + (sum(tokens[:-1]) if plan.is_sparse else 0)


def dump_plan(plan: Plan) -> bytes:
    """The bytes of plan.json."""
    return _dump({"format": FORMAT, "schema_version": SCHEMA_VERSION, **dataclasses.asdict(plan)})


def dump_record(record: ShardRecord) -> bytes:
    """The bytes of a record."""
    return _dump(dataclasses.asdict(record))


def dump_manifest(plan: Plan, records: Sequence[ShardRecord]) -> bytes:
    """The bytes of manifest.json, the same whoever wrote the shards.

    Args:
        plan: The dataset's plan.
        records: Of all shards, in order.
    """
    shards = [
        {
            "file": plan.shard_name(record.shard),
            "rows": record.rows,
            "errors": len(record.errors),
            "tokens": record.tokens,
            "bytes": record.bytes,
            "token_bytes": record.token_bytes,
            "missed": record.missed,
            "sha256": record.sha256,
        }
        for record in records
    ]
    counts = {
        "rows": sum(record.rows for record in records),
        "errors": sum(len(record.errors) for record in records),
        "missed": sum(record.missed for record in records),
    }
    head = {"format": FORMAT, "schema_version": SCHEMA_VERSION, **dataclasses.asdict(plan), **counts}
    lines = ",\n".join("  " + json.dumps(shard) for shard in shards)  # a line per shard
    return (_dump(head).decode()[:-3] + ',\n "shards": [\n' + lines + "\n ]\n}\n").encode()


def dump_errors(records: Sequence[ShardRecord]) -> bytes:
    """The bytes of errors.jsonl: a JSON object per image, in the order of the source."""
    lines = [json.dumps(dataclasses.asdict(failure)) + "\n" for record in records for failure in record.errors]
    return "".join(lines).encode()


def parse_plan(data: bytes, where: str) -> Plan:
    """The plan in plan.json or manifest.json.

    Args:
        data: Bytes of the file.
        where: What errors call it.

    Raises:
        DatasetError: It is damaged, of another format, or of another version.
    """
    found = _parse(data, where)
    if found.get("format") != FORMAT:
        raise DatasetError(f"expected a {FORMAT} in {where}, got format {found.get('format')!r}: name another folder")
    version = found.get("schema_version")
    if version != SCHEMA_VERSION:
        older = isinstance(version, int) and version < SCHEMA_VERSION
        kind, fix = ("an older", "tokenize the images anew") if older else ("a newer", "update this one")
        raise DatasetError(
            f"expected schema version {SCHEMA_VERSION} in {where}, got {version} of {kind} pyramid-tokenizer: {fix}"
        )
    try:
        plan = Plan(**{field.name: found[field.name] for field in dataclasses.fields(Plan)})
        plan.budget  # noqa: B018 - refuses a limit that is none
        names = ("codebook_sizes", "strides", "image_codebook_sizes")
        codebooks = {name: tuple(getattr(plan, name)) for name in names}
        Vocabulary(**codebooks, fingerprint=plan.fingerprint)  # refuses what no tokenizer has
        if min(plan.batch_size, plan.shard_images) < 1:
            raise ValueError(f"{plan.shard_images} images per shard and batches of {plan.batch_size}")
        return _of_its_kinds(dataclasses.replace(plan, **codebooks))
    except (KeyError, TypeError, ValueError, ConfigError, TokenError) as error:
        raise _damaged(where, error) from error


def parse_record(data: bytes, where: str) -> ShardRecord:
    """The record in a file that `dump_record` wrote; DatasetError where it is damaged."""
    try:
        found = _parse(data, where)
        found["errors"] = tuple(ImageFailure(**failure) for failure in found["errors"])
        return _of_its_kinds(ShardRecord(**{**found, "tokens": tuple(found["tokens"])}))
    except (KeyError, TypeError) as error:
        raise _damaged(where, error) from error


def parse_manifest(manifest: bytes, errors: bytes, where: str) -> dict[int, ShardRecord]:
    """The records of all shards of a complete dataset, by number.

    Args:
        manifest: Bytes of manifest.json.
        errors: Bytes of errors.jsonl.
        where: What errors call the manifest.

    Raises:
        DatasetError: One of the two is damaged, or they do not belong together.
    """
    plan = parse_plan(manifest, where)
    try:
        shards = _parse(manifest, where)["shards"]
        failures: dict[int, list[ImageFailure]] = {}
        for line in errors.decode().splitlines():
            failure = _of_its_kinds(ImageFailure(**load_json(line)))
            failures.setdefault(failure.source_row // plan.shard_images, []).append(failure)
        records = {
            number: _of_its_kinds(
                ShardRecord(
                    shard=number,
                    rows=shard["rows"],
                    errors=tuple(failures.get(number, [])),
                    tokens=tuple(shard["tokens"]),
                    bytes=shard["bytes"],
                    token_bytes=shard["token_bytes"],
                    missed=shard["missed"],
                    sha256=shard["sha256"],
                )
            )
            for number, shard in enumerate(shards)
        }
        counts = [len(records[number].errors) == shard["errors"] for number, shard in enumerate(shards)]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(where, error) from error
    if len(records) != plan.num_shards or not all(counts):
        raise _damaged(where, "counts that do not fit its shards and errors.jsonl")
    return records


def check_plan(plan: Plan) -> None:
    """Raises ConfigError where the plan has more shards than names can count."""
    if plan.num_shards > MOST_SHARDS:
        least = -(-plan.images // MOST_SHARDS)
        raise ConfigError(
            f"expected at most {MOST_SHARDS:,} shards, got {plan.num_shards:,} of {plan.shard_images} images: take shard_images "
            f"of at least {least}"
        )


def checksum(data: bytes) -> str:
    """SHA-256 as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _dump(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=1) + "\n").encode()


Stored = TypeVar("Stored", Plan, ShardRecord, ImageFailure)


def _of_its_kinds(stored: Stored) -> Stored:
    """The same, unless a field holds something else than it is declared to: that raises TypeError."""
    for declared in dataclasses.fields(stored):
        value: Any = getattr(stored, declared.name)
        kind = str(declared.type)
        numbers = value if kind == "tuple[int, ...]" else [value] if kind in ("int", "int | None") else []
        numbers = [] if kind == "int | None" and value is None else numbers
        right = all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in numbers)
        right = right and (kind != "str" or isinstance(value, str))
        if kind.startswith("Mapping"):
            names = value.values() if isinstance(value, Mapping) and kind == "Mapping[str, str]" else []
            right = isinstance(value, Mapping) and all(isinstance(name, str) for name in names)
        if not right:
            raise TypeError(f"{declared.name} that is no {kind}")
    return stored


def _parse(data: bytes, where: str) -> dict[str, Any]:
    try:
        found = load_json(data)
    except ValueError as error:
        raise _damaged(where, error) from error
    if not isinstance(found, dict):
        raise _damaged(where, "no JSON object")
    return found


def _damaged(where: str, error: object) -> DatasetError:
    return DatasetError(f"expected whole JSON in {where}, got {error}: it is damaged; delete the folder and start anew")
