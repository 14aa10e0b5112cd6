"""Measures how fast token datasets are read and searched, and how well search from tokens agrees with the backbone's embeddings.

    python benchmarks/datasets.py [--rows 65536] [--search-rows 1000000] [--images DIR] [--model tiny]

Reading: a synthetic dataset of 256 px images with random ids in the layout of the model, read through `__getitems__` of 256 rows
in random order and in that of the dataset, on one core. Search: the ten best of random unit vectors in a file of the layout that
`TokenDataset.search` keeps. With --images, recall at 10: of the ten images of the folder that are nearest to each one by the
backbone's own embedding, the share that are among the ten nearest by embeddings of tokens.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, from any current directory

from benchmarks.reconstruction import say, table
from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.datasets import TokenDataset
from pyramid_tokenizer.datasets.manifest import (
    ERRORS_NAME,
    MANIFEST_NAME,
    Plan,
    ShardRecord,
    checksum,
    dump_errors,
    dump_manifest,
)
from pyramid_tokenizer.datasets.schema import Row, build_table, id_types, to_parquet
from pyramid_tokenizer.datasets.search import best_rows
from pyramid_tokenizer.datasets.storage import LocalStorage
from pyramid_tokenizer.images import open_images
from pyramid_tokenizer.images.sources import read_resized
from pyramid_tokenizer.tokens.geometry import grids_of

BATCH = 256
SHARD = 1024
TOP = 10


def write_random(folder: Path, tok: PyramidTokenizer, rows: int, px: int) -> None:
    """A dataset of random ids, in the layout that `tokenize` writes."""
    storage, levels = LocalStorage(folder), tok.quantizer.base_levels
    sizes, strides = tok.quantizer.codebook_sizes[:levels], tok.quantizer.strides[:levels]
    plan = Plan(
        fingerprint=tok.fingerprint,
        precision=tok.precision,
        codebook_sizes=tuple(sizes),
        strides=tuple(strides),
        image_recipe={"version": 1, "size": px, "jpeg_draft": False},
        batch_size=1,
        shard_images=SHARD,
        images=rows,
        keys_sha256="0" * 64,
        columns={},
    )
    generator, records = np.random.default_rng(0), []
    cells = [h * w for h, w in grids_of((px, px), strides)]
    for shard in range(plan.num_shards):
        numbers = plan.rows_of(shard)
        ids = [
            generator.integers(size, size=(len(numbers), count), dtype=kind)
            for size, count, kind in zip(sizes, cells, id_types(sizes), strict=True)
        ]
        made = [Row(f"{n:09d}.jpg", n, (px, px), tuple(level[i] for level in ids)) for i, n in enumerate(numbers)]
        data, token_bytes = to_parquet(build_table(plan, made, None))
        storage.write(plan.shard_name(shard), data)
        counts = tuple(len(numbers) * count for count in cells)
        records.append(ShardRecord(shard, len(numbers), (), counts, len(data), token_bytes, checksum(data)))
    storage.write(ERRORS_NAME, dump_errors(records))
    storage.write(MANIFEST_NAME, dump_manifest(plan, records))


def rows_per_second(read: Callable[[Sequence[int]], object], orders: Sequence[Sequence[int]]) -> float:
    """The median over batches; the first batches, which map the file, are left out."""
    seconds = []
    for order in orders:
        start = time.perf_counter()
        read(order)
        seconds.append(time.perf_counter() - start)
    return BATCH / float(np.median(seconds[len(seconds) // 4 :]))


def measure_reading(tok: PyramidTokenizer, rows: int, px: int) -> list[list[str]]:
    with tempfile.TemporaryDirectory() as place:
        say(f"a dataset of {rows:,} rows of {px} px")
        write_random(Path(place) / "tokens", tok, rows, px)
        start = time.perf_counter()
        ds = TokenDataset(Path(place) / "tokens", cache_dir=Path(place) / "cache")
        copied = time.perf_counter() - start
        order = np.random.default_rng(1).permutation(rows)[: rows // BATCH * BATCH].reshape(-1, BATCH).tolist()
        batches = [list(range(first, first + BATCH)) for first in range(0, rows - BATCH + 1, BATCH)]
        found = [["first use: the copy, with every check", f"{rows / copied:,.0f} rows/s"]]
        for name, read in (
            ("a batch", lambda asked: ds.__getitems__(asked).batch()),
            ("single rows", lambda asked: list(ds.__getitems__(asked))),
        ):
            found += [
                [f"{name}, random", f"{rows_per_second(read, order):,.0f} rows/s"],
                [f"{name}, sequential", f"{rows_per_second(read, batches):,.0f} rows/s"],
            ]
        return found


def measure_search(rows: int, dim: int) -> list[list[str]]:
    with tempfile.TemporaryDirectory() as place:
        say(f"embeddings of {rows:,} rows, {dim} numbers each")
        generator, path = np.random.default_rng(0), Path(place) / "embeddings.f32"
        with path.open("wb") as file:
            for first in range(0, rows, SHARD):
                block = generator.standard_normal((min(SHARD, rows - first), dim), dtype=np.float32)
                file.write((block / np.linalg.norm(block, axis=1, keepdims=True)).data)
        embeddings = np.memmap(path, dtype=np.float32, mode="r", shape=(rows, dim))
        query, seconds = np.asarray(embeddings[rows // 2]), []
        for _ in range(3):
            start, cpu = time.perf_counter(), time.process_time()
            (first, *_), _ = best_rows(embeddings, query, top=20)
            seconds.append((time.perf_counter() - start, time.process_time() - cpu))
        assert first == rows // 2
        wall, used = min(seconds)
        return [[f"search in {rows:,} rows of {dim} numbers", f"{wall:.2f} s, of which {used:.2f} s of CPU"]]


def recall_at(tokens: Tensor, continuous: Tensor, top: int) -> float:
    """The mean share of each row's nearest others by one embedding that are so by the other."""
    near = []
    for rows in (tokens, continuous):
        cosines = F.normalize(rows, dim=1) @ F.normalize(rows, dim=1).T
        near.append(cosines.fill_diagonal_(-2).topk(top, dim=1).indices)
    return float((near[0][:, :, None] == near[1][:, None, :]).any(2).float().mean())


def measure_recall(tok: PyramidTokenizer, folder: str, px: int, most: int) -> list[list[str]]:
    source = open_images(folder)
    chosen = np.linspace(0, len(source) - 1, min(most, len(source)), dtype=int)
    tokens, continuous = [], []
    with torch.no_grad():
        for number in chosen:
            image = read_resized(source, int(number), size=px)[None]
            tokens.append(tok.embedding(tok.encode(image)))
            embedding = tok.features(image, with_dense=True).embedding
            assert embedding is not None
            continuous.append(embedding)
    found = recall_at(torch.cat(tokens), torch.cat(continuous), TOP)
    by_chance = TOP / (len(chosen) - 1)
    return [
        [
            f"recall at {TOP} against the backbone's embedding, {len(chosen):,} images",
            f"{found:.3f} (by chance {by_chance:.3f})",
        ]
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--rows", type=int, default=65_536, help="rows of the synthetic dataset")
    parser.add_argument("--search-rows", type=int, default=1_000_000)
    parser.add_argument("--px", type=int, default=256)
    parser.add_argument("--images", help="a source of images for recall")
    parser.add_argument("--most-images", type=int, default=2000)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    tok = PyramidTokenizer.from_pretrained(args.model)
    found = measure_reading(tok, args.rows, args.px)
    found += measure_search(args.search_rows, tok.quantizer.to_embedding.out_features)
    if args.images:
        found += measure_recall(tok, args.images, args.px, args.most_images)
    print(table(["what", "figure"], found))


if __name__ == "__main__":
    main()
