"""Configs as plain JSON-ready data and back, strictly."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal, TypeVar

from pyramid_tokenizer.config.models import FORMAT_VERSION, TokenizerConfig, check, check_format
from pyramid_tokenizer.errors import ConfigError, did_you_mean

Config = TypeVar("Config")


def to_dict(config: Any) -> dict[str, Any]:
    """Plain JSON-ready data of any config of this package; `from_dict` inverts it.

    Example:
        >>> from pyramid_tokenizer.config import LevelConfig
        >>> to_dict(LevelConfig(stride=8, maps=(2,), codebook_size=64, dim=4))["maps"]
        (2,)
    """
    return dataclasses.asdict(config)


def from_dict(cls: type[Config], data: Any, *, where: str = "config") -> Config:
    """The config that `to_dict` wrote.

    Args:
        cls: A dataclass of this module.
        data: A mapping of its field names to plain values.
        where: Path of `data` in the file, for messages.

    Raises:
        ConfigError: A field is unknown (the nearest name is told), missing, of the wrong type or out of its range, or the
            file is of another format version.

    Example:
        >>> from pyramid_tokenizer.config import LevelConfig
        >>> level = LevelConfig(stride=8, maps=(2,), codebook_size=64, dim=4)
        >>> from_dict(LevelConfig, to_dict(level)) == level
        True
    """
    check(isinstance(data, dict), f"{where} as a mapping", data, "see config.json of a saved model")
    if cls is TokenizerConfig:  # before its fields: a newer format may have other ones
        check_format(data.get("format_version", FORMAT_VERSION))
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in data:
        if name not in fields:
            hint = did_you_mean(name, fields, otherwise=f"known fields: {', '.join(fields)}")
            raise ConfigError(f"expected only known fields in {where}, got {name!r}: {hint}")
    types_of = typing.get_type_hints(cls)
    missing = [
        n
        for n, f in fields.items()
        if n not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"expected all required fields in {where}, got none for {', '.join(missing)}: add them")
    return cls(**{name: _from_plain(types_of[name], value, f"{where}.{name}") for name, value in data.items()})


def _from_plain(kind: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return from_dict(kind, value, where=where)
    if origin is tuple:
        check(isinstance(value, (list, tuple)), f"{where} as a list", value, "write a JSON list")
        return tuple(_from_plain(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Literal:
        check(value in args, f"{where} as one of {args}", value, "name one of them")
        return value
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _from_plain(next(a for a in args if a is not type(None)), value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    check(right, f"{where} as {kind.__name__}", value, "correct its type")
    return value
