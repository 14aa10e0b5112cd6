"""A folder of small images of three sizes, one of them damaged, and a way to tokenise it in this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pyramid_tokenizer.datasets import TokenDataset, TokenizeReport, arrow_copy, tokenize
from pyramid_tokenizer.images import to_pil

pytest.importorskip("pyarrow")

SIZES = ((32, 40), (40, 32), (32, 32))
DAMAGED = "b/05.png"


@pytest.fixture(scope="session")
def shared_photos(tmp_path_factory, smooth) -> Path:
    """12 images a/00.png, a/02.png, ..., b/01.png, ... of which b/05.png is damaged. Never change it."""
    folder = tmp_path_factory.mktemp("source") / "photos"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
    for number in range(12):
        height, width = SIZES[number % 3]
        path = folder / "ab"[number % 2] / f"{number:02d}.png"
        to_pil(smooth(1, height, width, seed=number))[0].save(path)
    (folder / DAMAGED).write_bytes((folder / DAMAGED).read_bytes()[:100])
    return folder


@pytest.fixture(scope="session")
def written(tmp_path_factory, toy_tokenizer, shared_photos) -> Path:
    """A dataset of the shared photos, of three image sizes and three shards. Never change it."""
    out = tmp_path_factory.mktemp("written") / "tokens"
    tokenize(shared_photos, out, model=toy_tokenizer, workers=0, shard_images=4)
    return out


@pytest.fixture(scope="session")
def ds(written) -> TokenDataset:
    return TokenDataset(written, cache_dir=written.parent / "cache")


QUALITY = 0.3
"""Leaves some images of the shared photos half of their tokens, and none all of them."""


@pytest.fixture(scope="session")
def written_sparse(tmp_path_factory, toy_tokenizer, shared_photos) -> Path:
    """As `written`, with as many tokens as an image needs. Never change it."""
    out = tmp_path_factory.mktemp("sparse") / "tokens"
    tokenize(shared_photos, out, model=toy_tokenizer, workers=0, shard_images=4, quality=QUALITY)
    return out


@pytest.fixture(scope="session")
def sparse_ds(written_sparse) -> TokenDataset:
    return TokenDataset(written_sparse, cache_dir=written_sparse.parent / "cache")


@pytest.fixture(scope="session", params=["full", "sparse"])
def any_ds(request, ds, sparse_ds) -> TokenDataset:
    return ds if request.param == "full" else sparse_ds


@pytest.fixture
def write(toy_tokenizer, shared_photos, monkeypatch) -> Callable[..., TokenizeReport]:
    """write(out, source=..., **options): `tokenize` in this process, four images to a shard."""
    monkeypatch.setattr(os, "fsync", lambda _: None)

    def call(out: Path, source: object = shared_photos, **options: object) -> TokenizeReport:
        return tokenize(source, out, **{"model": toy_tokenizer, "workers": 0, "shard_images": 4} | options)

    return call


def files_of(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of all files of a dataset but its lock."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in sorted(found.items()) if name != ".lock"}


@pytest.fixture
def small_groups(written, tmp_path, monkeypatch) -> TokenDataset:
    """The dataset `ds` with a group for each shard."""
    monkeypatch.setattr(arrow_copy, "GROUP_ROWS", 1)
    return TokenDataset(written, cache_dir=tmp_path / "small")
