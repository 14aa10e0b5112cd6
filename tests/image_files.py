"""Five noise images as files, and a cache of their own for all that copies images."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pyramid_tokenizer.images.read import read_image


@pytest.fixture
def image_cache(tmp_path_factory, monkeypatch) -> Path:
    """Where copies of Parquet files' images go."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("PYRAMID_TOKENIZER_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """0.png … 4.png, 40 to 44 px high: no two crops are alike."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(rng.integers(0, 256, (40 + i, 60, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def files(folder) -> list[Path]:
    return sorted(folder.iterdir())


@pytest.fixture(scope="session")
def encoded(files) -> list[bytes]:
    return [file.read_bytes() for file in files]


@pytest.fixture(scope="session")
def pixels(files) -> list[torch.Tensor]:
    return [read_image(file) for file in files]


@pytest.fixture(scope="session")
def write_tar():
    """write_tar(path, {member: bytes}) -> path"""

    def write(path: Path, members: dict[str, bytes]) -> Path:
        path.parent.mkdir(exist_ok=True, parents=True)
        with tarfile.open(path, "w") as tar:
            for name, data in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return path

    return write


@pytest.fixture(scope="session")
def write_parquet():
    """write_parquet(path, **columns) -> path; rows of a list of dicts become structs."""

    def write(path: Path, /, **columns: list) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path.parent.mkdir(exist_ok=True, parents=True)
        pq.write_table(pa.table(columns), path, row_group_size=2)
        return path

    return write
