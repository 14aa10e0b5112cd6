"""Rows that are made once and kept as files, so that the same command goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def kept(out: Path, name: str, made_from: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The row of that name: as it was kept, or made now and kept.

    Args:
        out: The folder.
        name: Of the row; its file's name begins with it.
        made_from: All that the figures depend on, plain data: rows made from other things lie beside it.
        make: Its figures.
    """
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:8]
    path = out / f"{name}-{digest}.json"
    if not path.exists():
        write(path, {"variant": name, **make(), **made_from})
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, row: dict[str, Any]) -> None:
    """Writes the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)
