"""How far a dataset is: which shards are whole, what they were planned to be, and what else lies in the folder."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from pyramid_tokenizer.datasets import keys as listing
from pyramid_tokenizer.datasets.locks import LOCK_NAME
from pyramid_tokenizer.datasets.manifest import (
    ERRORS_NAME,
    KEYS_NAME,
    MANIFEST_NAME,
    PLAN_NAME,
    PROGRESS,
    Plan,
    ShardRecord,
    checksum,
    dump_errors,
    dump_manifest,
    dump_plan,
    dump_record,
    parse_manifest,
    parse_plan,
    parse_record,
)
from pyramid_tokenizer.datasets.shards import Shard
from pyramid_tokenizer.datasets.storage import LocalStorage, Storage, is_leftover
from pyramid_tokenizer.errors import DatasetError

_LOGGER = logging.getLogger(__name__)
_BESIDE = frozenset({"README.md", ".gitattributes", LOCK_NAME})
"""Files that may lie beside a dataset's own: a card, as the Hub wants it, and the lock."""


@dataclass(frozen=True, slots=True)
class State:
    """What a folder holds."""

    plan: Plan | None
    """None: no dataset was begun here."""
    records: Mapping[int, ShardRecord]
    """Of the shards that are whole."""
    complete: bool
    """Whether manifest.json is there, is the last word, and all shards are whole."""


def read_state(storage: Storage) -> State:
    """Reads how far a dataset is, and verifies its shards.

    The bytes of every local shard are compared with their checksum; at other addresses, where that would download all of
    them, their sizes are. A shard that does not fit its record counts as missing, with a warning that names it.

    Args:
        storage: Where the dataset lies; nothing is changed in it.

    Raises:
        DatasetError: A file there belongs to no dataset of this version, or the plan or the manifest is damaged.
    """
    sizes = {name: size for name, size in storage.sizes().items() if not is_leftover(name)}
    planned = next((name for name in (PLAN_NAME, MANIFEST_NAME) if name in sizes), None)
    if planned is None:
        _refuse_foreign(storage, [name for name in sizes if name not in _BESIDE and name != KEYS_NAME])
        return State(None, {}, complete=False)
    plan = parse_plan(storage.read(planned), f"{storage.address}/{planned}")
    records: dict[int, ShardRecord] = {}
    if MANIFEST_NAME in sizes:
        whole = storage.read(MANIFEST_NAME), storage.read(ERRORS_NAME)
        records |= parse_manifest(*whole, f"{storage.address}/{MANIFEST_NAME}")
    shards = {plan.shard_name(shard): shard for shard in range(plan.num_shards)}
    own = {plan.record_name(shard): shard for shard in shards.values()}
    foreign = set(sizes) - {*shards, *own, MANIFEST_NAME, ERRORS_NAME, PLAN_NAME, KEYS_NAME}
    _refuse_foreign(storage, [name for name in foreign if "/" in name or name not in _BESIDE])
    for name in own.keys() & sizes.keys():
        records[own[name]] = parse_record(storage.read(name), f"{storage.address}/{name}")
    kept = {shard: record for shard, record in sorted(records.items()) if _is_whole(storage, plan, record, sizes)}
    # a repair that was interrupted has records that are newer than the manifest
    settled = MANIFEST_NAME in sizes and not any(name.startswith(PROGRESS) for name in sizes)
    return State(plan, kept, complete=settled and len(kept) == len(shards))


def begin(storage: Storage, plan: Plan, keys: listing.Keys) -> None:
    """Writes the plan of a new dataset; from then on only calls that fit it go on.

    Args:
        storage: Where the dataset lies.
        plan: Its plan.
        keys: Keys of all images.
    """
    storage.write(KEYS_NAME, listing.pack(keys))
    storage.write(PLAN_NAME, dump_plan(plan))


def keep(storage: Storage, plan: Plan, shard: Shard) -> None:
    """Writes a finished shard, and then the record that says it is whole.

    Args:
        storage: Where the dataset lies.
        plan: Its plan.
        shard: The shard.
    """
    storage.write(plan.shard_name(shard.record.shard), shard.data)
    storage.write(plan.record_name(shard.record.shard), dump_record(shard.record))


def finish(storage: Storage, plan: Plan, records: Mapping[int, ShardRecord]) -> None:
    """Writes errors.jsonl and manifest.json, and then removes the folder of progress.

    Args:
        storage: Where the dataset lies.
        plan: Its plan.
        records: Of all shards, by number.
    """
    in_order = [records[shard] for shard in range(plan.num_shards)]
    storage.write(ERRORS_NAME, dump_errors(in_order))
    storage.write(MANIFEST_NAME, dump_manifest(plan, in_order))
    leftovers = [name for name in storage.sizes() if name.startswith(PROGRESS) or is_leftover(name)]
    for name in sorted(leftovers, key=lambda name: name == PLAN_NAME):  # the plan last, as it was first
        storage.remove(name)


def read_keys(storage: Storage) -> list[str] | None:
    """The keys of all images of the plan; None where the dataset is complete and they are in its rows alone."""
    if KEYS_NAME not in storage.sizes():
        return None
    return listing.unpack(storage.read(KEYS_NAME))


def _is_whole(storage: Storage, plan: Plan, record: ShardRecord, sizes: Mapping[str, int]) -> bool:
    name = plan.shard_name(record.shard)
    if name not in sizes:
        fault = "is missing"
    elif sizes[name] != record.bytes:
        fault = f"has {sizes[name]} bytes and not {record.bytes}"
    elif isinstance(storage, LocalStorage) and checksum(storage.read(name)) != record.sha256:
        fault = "has another checksum"
    else:
        return True
    _LOGGER.warning("%s in %s %s: it is encoded again", name, storage.address, fault)
    return False


def _refuse_foreign(storage: Storage, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise DatasetError(
            f"expected a new folder or a token dataset, got {storage.address!r} with {min(names)!r}{more}, which belong to none: "
            "choose another folder, or move these files away"
        )


def check_same(stored: Plan, wanted: Plan, where: str) -> None:
    """Raises DatasetError where a call wants other shards than those that were begun. Keys are not compared here.

    Args:
        stored: The plan of the dataset.
        wanted: The plan of the call.
        where: The dataset's address.
    """
    for name, what in (("fingerprint", "the tokenizer"), ("precision", "precision")):
        was, now = getattr(stored, name), getattr(wanted, name)
        if was != now:
            raise DatasetError(
                f"expected {what} {was[:12]} of the dataset in {where!r}, got {now[:12]}: tokens of two tokenizers or precisions "
                "cannot be in one dataset; name the same model, or another folder"
            )
    free = ("images", "keys_sha256")
    fields = [field.name for field in dataclasses.fields(Plan) if field.name not in free]
    changed = {name: (getattr(stored, name), getattr(wanted, name)) for name in fields}
    changed = {name: pair for name, pair in changed.items() if pair[0] != pair[1]}
    if len(stored.strides) != len(wanted.strides):  # of one tokenizer: the sizes and strides say no more
        changed = {"levels": (len(stored.strides), len(wanted.strides))} | {
            name: pair for name, pair in changed.items() if name not in ("codebook_sizes", "strides")
        }
    if changed:
        got = ", ".join(f"{name} {now} in place of {was}" for name, (was, now) in changed.items())
        raise DatasetError(
            f"expected the settings with which the dataset in {where!r} was begun, got {got}: use the same, or another folder"
        )
