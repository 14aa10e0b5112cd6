from __future__ import annotations

import dataclasses
import hashlib
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyramid_tokenizer.errors import TokenFileError
from pyramid_tokenizer.tokens import format as token_format
from pyramid_tokenizer.tokens.format import TokenHeader, pack, parse_header, read_file, unpack, write_file
from tests.tokens.pyramids import prune

FINGERPRINT = bytes(range(32)).hex()
ORIGIN = {"fingerprint": FINGERPRINT, "precision": "float32"}


def small() -> tuple[TokenHeader, list[np.ndarray], np.ndarray | None]:
    header = TokenHeader(codebook_sizes=(5, 300), grids=((1, 2), (2, 4)), batch_size=2, image_size=(9, 17), **ORIGIN)
    return header, [np.arange(4).reshape(2, 1, 2) + 1, np.arange(16).reshape(2, 2, 4) * 19], None


def small_sparse() -> tuple[TokenHeader, list[np.ndarray], np.ndarray | None]:
    """The same grids and a third level: one of four cells is split, and so are three of its children."""
    header = dataclasses.replace(
        small()[0], codebook_sizes=(5, 300, 9), grids=((1, 2), (2, 4), (4, 8)), sparse_counts=(4, 12)
    )
    coarse, fine, finest = small()[1][0], np.full((2, 2, 4), -1), np.full((2, 4, 8), -1)
    fine[1, :, :2] = [[1, 2], [3, 299]]
    finest[1, :2, 2:4], finest[1, 2:, :4] = [[0, 1], [2, 3]], [[4, 5, 6, 7], [8, 7, 6, 5]]
    return header, [coarse, fine, finest], None


def small_with_image_tokens() -> tuple[TokenHeader, list[np.ndarray], np.ndarray]:
    """The first two images, each with two image tokens."""
    header, ids, _ = small()
    return dataclasses.replace(header, image_codebook_sizes=(6, 400)), ids, np.array([[5, 1], [2, 399]])


SMALL = [small, small_sparse, small_with_image_tokens]


def sealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()[:16]


def slow_pack(header: TokenHeader, ids: list[np.ndarray], image_ids: np.ndarray) -> bytes:
    """The format as its docstring says it, with Python's integers: a level is one long little-endian number."""
    precision = {None: 0, "float32": 1, "bfloat16": 2, "float16": 3, "float64": 4}[header.precision]
    full = [(x >= 0).all() for x in ids]
    body = b"PYRTOK" + bytes([4, len(ids), sum(full), precision, image_ids.shape[1]])
    for number in (header.batch_size, *header.image_size):
        body += number.to_bytes(4, "little")
    body += bytes.fromhex(header.fingerprint)
    for k, grid in zip(header.codebook_sizes, header.grids, strict=True):
        body += b"".join(n.to_bytes(4, "little") for n in (k, *grid))
    body += b"".join(k.to_bytes(4, "little") for k in header.image_codebook_sizes)
    for level in ids[sum(full) :]:
        body += int((level >= 0).sum()).to_bytes(8, "little")
    for k, column in zip(header.image_codebook_sizes, image_ids.T.tolist(), strict=True):
        body += slow_bits(k, column)
    for index, (k, level) in enumerate(zip(header.codebook_sizes, ids, strict=True)):
        if not full[index]:
            ratio = level.shape[1] // ids[index - 1].shape[1]
            parents = np.argwhere(ids[index - 1] >= 0).tolist()
            splits = sum(int(level[image, ratio * y, ratio * x] >= 0) << i for i, (image, y, x) in enumerate(parents))
            body += splits.to_bytes(-(-len(parents) // 8), "little")
        body += slow_bits(k, [int(x) for x in level.flatten() if x >= 0])
    return sealed(body)


def slow_bits(k: int, ids: list[int]) -> bytes:
    bits = next(n for n in range(33) if 2**n >= k)
    number = sum(x << (i * bits) for i, x in enumerate(ids))
    return number.to_bytes(-(-len(ids) * bits // 8), "little")


@st.composite
def levels(draw: st.DrawFn) -> tuple[TokenHeader, list[np.ndarray]]:
    size = draw(st.integers(1, 3))
    grids = draw(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4))
    ks = [draw(st.sampled_from([2, 3, 4, 255, 256, 257, 1000, 65536, 65537, 2**32 - 1])) for _ in grids]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ids = [rng.integers(0, k, (size, *grid)) for k, grid in zip(ks, grids, strict=True)]
    ids[-1].flat[-1] = ks[-1] - 1
    header = TokenHeader(
        codebook_sizes=tuple(ks),
        grids=tuple(grids),
        batch_size=size,
        image_size=draw(st.tuples(st.integers(1, 2**32 - 1), st.integers(1, 9))),
        fingerprint=draw(st.binary(min_size=32, max_size=32)).hex(),
        precision=draw(st.sampled_from([None, "float32", "bfloat16", "float16", "float64"])),
    )
    return header, ids


@st.composite
def sparse_levels(draw: st.DrawFn) -> tuple[TokenHeader, list[np.ndarray]]:
    size, (h, w) = draw(st.integers(1, 3)), draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    scales = np.cumprod([1, *draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))])
    ks = [draw(st.sampled_from([5, 256, 257, 2**32 - 1])) for _ in scales]
    seed = draw(st.integers(0, 2**32))
    full = [
        torch.from_numpy(np.random.default_rng(seed).integers(0, k, (size, h * n, w * n)))
        for n, k in zip(scales, ks, strict=True)
    ]
    ids = [x.numpy() for x in prune(full, torch.Generator().manual_seed(seed))]
    header = TokenHeader(
        codebook_sizes=tuple(ks),
        grids=tuple((x.shape[1], x.shape[2]) for x in ids),
        batch_size=size,
        image_size=(9, 9),
        sparse_counts=tuple(int(n) for x in ids if (n := (x >= 0).sum()) < x.size),
        **ORIGIN,
    )
    return header, ids


@given(st.one_of(levels(), sparse_levels()), st.lists(st.sampled_from([2, 5, 256, 257, 2**32 - 1]), max_size=3))
def test_bytes_equal_a_slow_reference_and_unpack_inverts_them(case, image_sizes):
    header = dataclasses.replace(case[0], image_codebook_sizes=tuple(image_sizes))
    ids, image_ids = case[1], np.array([[k - 1 - i for k in image_sizes] for i in range(2)], int)
    image_ids = image_ids[np.arange(header.batch_size) % 2].reshape(header.batch_size, -1)
    data = pack(header, ids, image_ids)
    assert data == slow_pack(header, ids, image_ids)
    assert len(data) == header.total_bytes
    got_header, got, got_image = unpack(data)
    assert got_header == header
    assert got_image.dtype == np.int64 and np.array_equal(got_image, image_ids)
    assert [x.dtype for x in got] == [np.int64] * len(ids)
    assert all(np.array_equal(a, b) for a, b in zip(got, ids, strict=True))


@pytest.mark.parametrize(
    ("count", "k"), [(65535, 5), (65536, 2), (65537, 17), pytest.param(131072 + 3, 5, marks=pytest.mark.slow)]
)
def test_levels_longer_than_one_chunk_pack_like_the_slow_reference(count, k):
    header = TokenHeader(codebook_sizes=(k,), grids=((1, count),), batch_size=1, image_size=(1, count), **ORIGIN)
    ids = [(np.arange(count) * 7919 % k).reshape(1, 1, count)]
    data = pack(header, ids)
    bits = "".join(format(x, f"0{(k - 1).bit_length()}b")[::-1] for x in ids[0].flat)
    payload = b"".join(int(bits[i : i + 8][::-1], 2).to_bytes(1, "little") for i in range(0, len(bits), 8))
    assert data[67:-16] == payload
    assert np.array_equal(unpack(data)[1][0], ids[0])


def test_the_bytes_of_a_small_pyramid_are_these():
    assert pack(*small()).hex() == (
        "505952544f4b0402020100"  # magic, version 4, 2 levels, both full, float32, no image tokens
        "020000000900000011000000"  # 2 images of 9x17 px
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
        "050000000100000002000000"  # 5 entries, grid 1x2
        "2c0100000200000004000000"  # 300 entries, grid 2x4
        "d108"  # 1 + 2·8 + 3·64 + 4·512 = 0x8d1
        "002698c8c1e48b9c429856f98a46ee9ec28e"  # 0, 19, 38, … 285 in 9 bits each
        "042ae948864520889ce3aa1df1c2cb6e"  # SHA-256 of all that, 16 bytes of it
    )


def test_the_bytes_of_a_small_sparse_pyramid_are_these():
    assert pack(*small_sparse()).hex() == (
        "505952544f4b0403010100"  # magic, version 4, 3 levels, 1 of them full, float32, no image tokens
        "020000000900000011000000"  # 2 images of 9x17 px
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
        "050000000100000002000000"  # 5 entries, grid 1x2
        "2c0100000200000004000000"  # 300 entries, grid 2x4
        "090000000400000008000000"  # 9 entries, grid 4x8
        "0400000000000000"  # 4 of 16 cells of level 1 are present
        "0c00000000000000"  # and 12 of 64 cells of level 2
        "d108"  # level 0, as in a full pyramid
        "04"  # of its 4 cells the third is split
        "01040c5809"  # 1, 2, 3, 299 in 9 bits each
        "0e"  # of these 4 cells the second, third and fourth are split
        "103254767856"  # 0, 1, 2, … 8, 7, 6, 5 in 4 bits each, row by row
        "dcac6a62be36bbfaa42b855e3c0c78ec"
    )


def test_the_bytes_of_image_tokens_are_these():
    data = pack(*small_with_image_tokens())
    assert data[10] == 2  # image tokens
    assert data[79:87].hex() == "0600000090010000"  # of 6 and 400 entries
    assert data[87:91].hex() == "15011e03"  # 5, 2 in 3 bits each; 1, 399 in 9 bits each
    assert data[91:-16] == pack(*small())[79:-16]  # then the levels


@pytest.mark.parametrize("case", SMALL)
def test_every_flipped_byte_is_found(case):
    data = pack(*case())
    for position in range(len(data)):
        for flip in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            altered = bytearray(data)
            altered[position] ^= flip
            with pytest.raises(TokenFileError):
                unpack(altered)


@pytest.mark.parametrize("case", SMALL)
def test_every_missing_or_repeated_byte_and_every_truncation_is_found(case):
    data = pack(*case())
    for position in range(len(data)):
        for altered in (
            data[:position],
            data[:position] + data[position + 1 :],
            data[:position] + data[position : position + 1] + data[position:],
        ):
            with pytest.raises(TokenFileError):
                unpack(altered)


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (lambda d: b"", r"begins with b'PYRTOK'.*got b''"),
        (lambda d: b"\x89PNG\r\n\x1a\n" + d, r"begins with b'PYRTOK'"),
        (lambda d: b"PYR", "at least 55 bytes, got 3"),
        (lambda d: d[:70], "at least 79 bytes, got 70"),
        (lambda d: d[:8], "at least 55 bytes, got 8"),
        (lambda d: d[:6] + b"\x02" + d[7:], "version 4, got 2"),
        (lambda d: sealed(d[:9] + b"\x05" + d[10:-16]), r"precision in \[0, 5\), got 5"),
        (lambda d: d[:-1], r"expected a token file of 115 bytes by its header, got 114: it is truncated"),
        (lambda d: d + b"\0", r"expected a token file of 115 bytes by its header, got 116: bytes follow its end"),
        (lambda d: d[:-20] + b"\0" + d[-19:], r"expected checksum [0-9a-f]{32} .*got [0-9a-f]{32}: bytes were altered"),
        (lambda d: sealed(d[:7] + b"\0" + d[8:-16]), r"got 0 levels"),
        (lambda d: sealed(d[:11] + bytes(4) + d[15:-16]), r"got 2 levels, 0 images"),
        (lambda d: sealed(d[:8] + b"\0" + d[9:-16]), r"1 to 2 full levels, got 0"),
        (lambda d: sealed(d[:8] + b"\3" + d[9:-16]), r"1 to 2 full levels, got 3"),
    ],
)
def test_each_kind_of_damage_has_its_own_message(alter, message):
    with pytest.raises(TokenFileError, match=message):
        unpack(alter(pack(*small())))


def test_filling_bits_that_are_not_zero_are_refused_so_that_equal_tokens_have_equal_bytes():
    data = bytearray(pack(*small())[:-16])
    assert data[80] == 0x08  # 4 ids of 3 bits leave 4 bits of the second byte
    data[80] |= 0x10
    with pytest.raises(TokenFileError, match="zero bits behind the last id"):
        unpack(sealed(bytes(data)))
    data = bytearray(pack(*small_sparse())[:-16])
    assert data[109] == 0x04  # 4 split bits leave 4 bits of their byte
    data[109] |= 0x10
    with pytest.raises(TokenFileError, match="zero bits behind the last split bit"):
        unpack(sealed(bytes(data)))


def with_counts(*counts: int) -> bytes:
    data = pack(*small_sparse())[:-16]
    return sealed(data[:91] + struct.pack("<QQ", *counts) + data[107:])


@pytest.mark.parametrize(
    ("counts", "level", "most"),
    [
        ((3, 12), 1, 15),  # three of four children
        ((16, 12), 1, 15),  # all cells: a full level is stored as a full level
        ((4, 20), 2, 16),  # more children than four cells have
        ((4, 2**64 - 4), 2, 16),
        ((0, 4), 2, 0),
    ],
)
def test_numbers_of_present_cells_that_no_splits_make_are_refused(counts, level, most):
    with pytest.raises(TokenFileError, match=rf"sparse level {level}, at most {most} .*got {counts[level - 1]}"):
        unpack(with_counts(*counts))


def test_split_bits_that_do_not_make_as_many_cells_as_the_header_says_are_refused():
    data = bytearray(pack(*small_sparse())[:-16])
    data[109] = 0x0C
    with pytest.raises(TokenFileError, match="expected 4 present cells .* got 8"):
        unpack(sealed(bytes(data)))


def test_grids_between_which_there_are_no_splits_are_refused():
    data = bytearray(pack(*small_sparse())[:-16])
    for height in (0x03, 0x01):
        data[71] = height  # of level 1, on 1x2 cells
        with pytest.raises(TokenFileError, match="sparse level 1"):
            unpack(sealed(bytes(data)))


def test_a_short_file_of_many_absent_cells_is_neither_written_nor_read(monkeypatch):
    header = TokenHeader(
        codebook_sizes=(2, 2),
        grids=((1, 1), (700, 700)),
        batch_size=1,
        image_size=(700, 700),
        sparse_counts=(0,),
        **ORIGIN,
    )
    ids = [np.zeros((1, 1, 1), int), np.full((1, 700, 700), -1)]
    with pytest.raises(TokenFileError, match="at most 430080 cells in a token file of 105 bytes, got 490001"):
        pack(header, ids)
    monkeypatch.setattr(token_format, "_MOST_CELLS_PER_BYTE", 1 << 20)
    data = pack(header, ids)
    monkeypatch.undo()
    with pytest.raises(TokenFileError, match="got 490001"):
        unpack(data)


@pytest.mark.parametrize("k", [0, 1, 2, 2**32 - 1])
def test_a_header_that_promises_more_than_the_file_holds_costs_no_memory(k):
    tracemalloc.start()
    for num_full in (255, 1):
        fixed = struct.pack("<6sBBBBBIII32s", b"PYRTOK", 4, 255, num_full, 1, 255, 2**32 - 1, 5, 5, bytes(32))
        levels = struct.pack("<III", k, 2**32 - 1, 2**32 - 1) * 255 + struct.pack("<I", k) * 255
        for count in (0, 1, 2**64 - 1):
            with pytest.raises(TokenFileError):
                unpack(sealed(fixed + levels + struct.pack("<Q", count) * (255 - num_full)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_unpack_reads_any_buffer_and_gives_writable_ids_of_its_own():
    for case in SMALL:
        data = bytearray(pack(*case()))
        _, ids, _ = unpack(memoryview(data))
        data[79:] = bytes(len(data) - 79)
        assert np.array_equal(ids[1], case()[1][1])
        ids[0][:] = ids[-1][:] = 0


def test_packing_many_ids_takes_little_memory_beside_their_bytes():
    side = 1 << 11  # 4 million ids would be 134 million bits, a byte each if they were spread at once
    header = TokenHeader(codebook_sizes=(4096,), grids=((side, side),), batch_size=1, image_size=(side, side), **ORIGIN)
    ids = [np.arange(side * side).reshape(1, side, side) % 4096]
    tracemalloc.start()
    data = pack(header, ids)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(data) == 67 + side * side * 12 // 8 + 16
    assert peak < 5 * len(data)


def test_a_header_is_read_without_the_ids_behind_it():
    for (header, *ids), length in ((small(), 79), (small_sparse(), 107), (small_with_image_tokens(), 87)):
        data = pack(header, *ids)
        assert header.num_bytes == length
        assert parse_header(data[:length]) == parse_header(data) == header


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for name, reason in (
        ("none/a.tokens", "No such file or directory"),
        ("file/a.tokens", "Not a directory"),
        ("folder", "Is a directory"),
    ):
        with pytest.raises(TokenFileError, match=f"{name}.*{reason}"):
            write_file(tmp_path / name, b"x")
    with pytest.raises(TokenFileError, match="expected the name of a token file"):
        write_file("", b"x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_reading_a_file_names_it_and_stops_at_a_header_that_does_not_fit(tmp_path):
    path = tmp_path / "a.tokens"
    data = pack(*small())
    write_file(path, data)
    assert read_file(path) == read_file(str(path)) == data
    with pytest.raises(TokenFileError, match="b.tokens.*No such file"):
        read_file(tmp_path / "b.tokens")
    with pytest.raises(TokenFileError, match="Is a directory"):
        read_file(tmp_path)
    with open(path, "r+b") as file:
        file.truncate(2**40)  # sparse: takes no disk, but would not fit into memory
    with pytest.raises(TokenFileError, match=r"a\.tokens: expected a token file of 115 bytes.*bytes follow"):
        read_file(path)
    with open(path, "wb") as file:
        file.truncate(2**40)
    with pytest.raises(TokenFileError, match=r"a\.tokens: expected a token file \(it begins with"):
        read_file(path)


def test_the_longest_header_is_read_at_once(tmp_path):
    grids, sizes = ((1, 1),) * 255, (2,) * 255
    counts = {"sparse_counts": (0,) * 254, "image_codebook_sizes": sizes}
    header = TokenHeader(codebook_sizes=sizes, grids=grids, batch_size=1, image_size=(1, 1), **counts, **ORIGIN)
    data = pack(header, [np.full((1, 1, 1), -1 if level else 1) for level in range(255)], np.ones((1, 255), int))
    write_file(tmp_path / "a.tokens", data)
    assert header.num_bytes == token_format._LONGEST_HEADER
    assert read_file(tmp_path / "a.tokens") == data
