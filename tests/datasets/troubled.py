"""Sources that end or stop the process that reads them, or have a fault."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch

from pyramid_tokenizer.errors import DataError


class Deadly:
    """Ten images; reading the sixth ends or stops the process the first `times` times, which a file counts."""

    def __init__(self, file: Path, times: int, *, hangs: bool = False):
        self.file, self.times, self.hangs = file, times, hangs

    def __len__(self):
        return 10

    def name(self, index):
        return f"image {index}"

    def read(self, index):
        if index == 5:
            before = int(self.file.read_text()) if self.file.exists() else 0
            self.file.write_text(str(before + 1))
            if before < self.times:
                if self.hangs:
                    time.sleep(600)
                os.kill(os.getpid(), signal.SIGKILL)
        return torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(index))


class Broken(Deadly):
    """A source with a bug, which one image meets."""

    def read(self, index):
        return super().read(index) if index != 5 else [][index]


class WithBrokenColumn(Deadly):
    """A source whose columns cannot be read."""

    def own_columns(self, names):
        return BrokenColumns()


class BrokenColumns:
    def __init__(self):
        import pyarrow as pa

        self.schema = pa.schema([("x", pa.int8())])

    def read(self, indices):
        raise DataError("expected a complete Parquet file, got less: write it again")
