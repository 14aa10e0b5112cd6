"""Files that are whole or absent: written beside their final name, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def write_bytes(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
