"""`TokenSequences` and `to_megatron`: all images, once, as integers that can be read back."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from pyramid_tokenizer.datasets import to_megatron
from pyramid_tokenizer.errors import ConfigError, DatasetError
from pyramid_tokenizer.tokens.interleaving import deinterleave


def read_back(vocabulary, order, sequence):
    return vocabulary.unflatten(sequence) if order == "levels" else deinterleave(vocabulary, sequence)


@pytest.mark.parametrize("order", ["levels", "interleaved"])
@pytest.mark.parametrize(("length", "levels"), [(13, 1), (50, None), (1000, 2)])
def test_pieces_hold_every_image_once_with_its_boundaries(any_ds, order, length, levels):
    packed = any_ds.sequences(length, levels=levels, order=order)
    pieces = [packed[number] for number in range(len(packed))]
    assert all(part.shape == (length,) for piece in pieces for part in piece)
    ids, documents, positions = (torch.cat([piece[part] for piece in pieces]) for part in range(3))
    for row in any_ds:
        own = ids[documents == row.row]
        assert read_back(any_ds.vocabulary, order, own) == row.tokens[: levels or 3]
        assert positions[documents == row.row].tolist() == list(range(len(own)))
    padding = documents == -1
    assert int(padding.sum()) == len(packed) * length - packed.num_integers < length
    assert set(ids[padding].tolist()) <= {any_ds.vocabulary.end}
    assert documents[~padding].equal(documents[~padding].sort().values)


def test_pieces_are_found_in_any_group_and_join_to_batches(small_groups, ds):
    whole, parts = ds.sequences(50), small_groups.sequences(50)
    assert all(a.equal(b) for i in range(len(whole)) for a, b in zip(whole[i], parts[i], strict=True))
    assert default_collate([whole[0], whole[-1]]).ids.shape == (2, 50)


def test_the_sampler_of_pieces_refuses_the_state_of_other_pieces(ds):
    state = ds.sequences(50).sampler(seed=1).state_dict()
    assert sorted(ds.sequences(50).sampler(seed=1)) == list(range(len(ds.sequences(50))))
    with pytest.raises(DatasetError):
        ds.sequences(51).sampler(seed=1).load_state_dict(state)


def test_lengths_orders_and_levels_that_there_are_not_are_refused(ds):
    for bad in ({"length": 0}, {"length": 9, "levels": 4}, {"length": 9, "order": "rows"}):
        with pytest.raises(ConfigError):
            ds.sequences(**bad)
    with pytest.raises(IndexError):
        ds.sequences(50)[len(ds.sequences(50))]


def read_megatron(prefix):
    """As megatron/core/datasets/indexed_dataset.py reads the files."""
    index = prefix.with_suffix(".idx").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, code, sequences, documents = struct.unpack("<QBQQ", index[9:34])
    assert version == 1
    kind = {4: np.int32, 8: np.uint16}[code]
    lengths = np.frombuffer(index, np.int32, sequences, 34)
    places = np.frombuffer(index, np.int64, sequences, 34 + lengths.nbytes)
    bounds = np.frombuffer(index, np.int64, documents, 34 + lengths.nbytes + places.nbytes)
    assert len(index) == 34 + lengths.nbytes + places.nbytes + bounds.nbytes
    data = prefix.with_suffix(".bin").read_bytes()
    assert len(data) == int(lengths.sum()) * kind().itemsize
    assert bounds.tolist() == list(range(sequences + 1))
    return [np.frombuffer(data, kind, n, place) for n, place in zip(lengths.tolist(), places.tolist(), strict=True)]


@pytest.mark.parametrize(("order", "levels"), [("levels", None), ("interleaved", 2)])
def test_megatron_files_hold_every_image(any_ds, tmp_path, order, levels):
    files = to_megatron(any_ds, tmp_path / "images", order=order, levels=levels)
    assert [file.name for file in files] == ["images.bin", "images.idx"]
    read = read_megatron(tmp_path / "images")
    assert len(read) == len(any_ds)
    for own, row in zip(read, any_ds, strict=True):
        assert own.dtype == np.uint16
        assert read_back(any_ds.vocabulary, order, torch.from_numpy(own.astype(np.int64))) == row.tokens[: levels or 3]


def test_megatron_files_that_cannot_be_written_are_an_error(ds, tmp_path):
    with pytest.raises(DatasetError, match="nowhere"):
        to_megatron(ds, tmp_path / "nowhere" / "images")
