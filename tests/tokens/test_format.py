from __future__ import annotations

import hashlib
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_tokenizer.errors import TokenFileError
from pyramid_tokenizer.tokens import format as token_format
from pyramid_tokenizer.tokens.format import TokenHeader, pack, parse_header, read_file, unpack, write_file

FINGERPRINT = bytes(range(32)).hex()
ORIGIN = {"fingerprint": FINGERPRINT, "precision": "float32"}


def small() -> tuple[TokenHeader, list[np.ndarray]]:
    header = TokenHeader(codebook_sizes=(5, 300), grids=((1, 2), (2, 4)), batch_size=2, image_size=(9, 17), **ORIGIN)
    return header, [np.arange(4).reshape(2, 1, 2) + 1, np.arange(16).reshape(2, 2, 4) * 19]


def sealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()[:16]


def slow_pack(header: TokenHeader, ids: list[np.ndarray]) -> bytes:
    """The format as its docstring says it, with Python's integers: a level is one long little-endian number."""
    precision = {None: 0, "float32": 1, "bfloat16": 2, "float16": 3, "float64": 4}[header.precision]
    body = b"PYRTOK" + bytes([2, len(ids), precision])
    for number in (header.batch_size, *header.image_size):
        body += number.to_bytes(4, "little")
    body += bytes.fromhex(header.fingerprint)
    for k, grid in zip(header.codebook_sizes, header.grids, strict=True):
        body += b"".join(n.to_bytes(4, "little") for n in (k, *grid))
    for k, level in zip(header.codebook_sizes, ids, strict=True):
        bits = next(n for n in range(33) if 2**n >= k)
        number = sum(int(x) << (i * bits) for i, x in enumerate(level.flatten()))
        body += number.to_bytes(-(-level.size * bits // 8), "little")
    return sealed(body)


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


@given(levels())
def test_bytes_equal_a_slow_reference_and_unpack_inverts_them(case):
    header, ids = case
    data = pack(header, ids)
    assert data == slow_pack(header, ids)
    assert len(data) == header.total_bytes
    got_header, got = unpack(data)
    assert got_header == header
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
    assert data[65:-16] == payload
    assert np.array_equal(unpack(data)[1][0], ids[0])


def test_the_bytes_of_a_small_pyramid_are_these():
    assert pack(*small()).hex() == (
        "505952544f4b020201"  # magic, version 2, 2 levels, float32
        "020000000900000011000000"  # 2 images of 9x17 px
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
        "050000000100000002000000"  # 5 entries, grid 1x2
        "2c0100000200000004000000"  # 300 entries, grid 2x4
        "d108"  # 1 + 2·8 + 3·64 + 4·512 = 0x8d1
        "002698c8c1e48b9c429856f98a46ee9ec28e"  # 0, 19, 38, … 285 in 9 bits each
        "b67b132a049465cecf665b5e7464eb41"  # SHA-256 of all that, 16 bytes of it
    )


def test_every_flipped_byte_is_found():
    data = pack(*small())
    for position in range(len(data)):
        for flip in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            altered = bytearray(data)
            altered[position] ^= flip
            with pytest.raises(TokenFileError):
                unpack(altered)


def test_every_missing_or_repeated_byte_and_every_truncation_is_found():
    data = pack(*small())
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
        (lambda d: b"PYR", "at least 53 bytes, got 3"),
        (lambda d: d[:70], "at least 77 bytes, got 70"),
        (lambda d: d[:6] + b"\x01" + d[7:], "version 2, got 1"),
        (lambda d: sealed(d[:8] + b"\x05" + d[9:-16]), r"precision in \[0, 5\), got 5"),
        (lambda d: d[:-1], r"expected a token file of 113 bytes by its header, got 112: it is truncated"),
        (lambda d: d + b"\0", r"expected a token file of 113 bytes by its header, got 114: bytes follow its end"),
        (lambda d: d[:-20] + b"\0" + d[-19:], r"expected checksum [0-9a-f]{32} .*got [0-9a-f]{32}: bytes were altered"),
        (lambda d: sealed(d[:7] + b"\0" + d[8:-16]), r"got 0 levels"),
        (lambda d: sealed(d[:9] + bytes(4) + d[13:-16]), r"got 2 levels, 0 images"),
    ],
)
def test_each_kind_of_damage_has_its_own_message(alter, message):
    with pytest.raises(TokenFileError, match=message):
        unpack(alter(pack(*small())))


def test_filling_bits_that_are_not_zero_are_refused_so_that_equal_tokens_have_equal_bytes():
    data = bytearray(pack(*small())[:-16])
    assert data[78] == 0x08  # 4 ids of 3 bits leave 4 bits of the second byte
    data[78] |= 0x10
    with pytest.raises(TokenFileError, match="zero bits behind the last id"):
        unpack(sealed(bytes(data)))


@pytest.mark.parametrize("k", [0, 1, 2, 2**32 - 1])
def test_a_header_that_promises_more_than_the_file_holds_costs_no_memory(k):
    fixed = struct.pack("<6sBBBIII32s", b"PYRTOK", 2, 255, 1, 2**32 - 1, 5, 5, bytes(32))
    data = sealed(fixed + struct.pack("<III", k, 2**32 - 1, 2**32 - 1) * 255)
    tracemalloc.start()
    with pytest.raises(TokenFileError):
        unpack(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_unpack_reads_any_buffer_and_gives_writable_ids_of_its_own():
    data = bytearray(pack(*small()))
    _, ids = unpack(memoryview(data))
    data[77:] = bytes(len(data) - 77)
    assert np.array_equal(ids[1], small()[1][1])
    ids[0][:] = 0


def test_packing_many_ids_takes_little_memory_beside_their_bytes():
    side = 1 << 11  # 4 million ids would be 134 million bits, a byte each if they were spread at once
    header = TokenHeader(codebook_sizes=(4096,), grids=((side, side),), batch_size=1, image_size=(side, side), **ORIGIN)
    ids = [np.arange(side * side).reshape(1, side, side) % 4096]
    tracemalloc.start()
    data = pack(header, ids)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(data) == 65 + side * side * 12 // 8 + 16
    assert peak < 5 * len(data)


def test_a_header_is_read_without_the_ids_behind_it():
    header, ids = small()
    data = pack(header, ids)
    assert parse_header(data[:77]) == parse_header(data) == header


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
    with pytest.raises(TokenFileError, match=r"a\.tokens: expected a token file of 113 bytes.*bytes follow"):
        read_file(path)
    with open(path, "wb") as file:
        file.truncate(2**40)
    with pytest.raises(TokenFileError, match=r"a\.tokens: expected a token file \(it begins with"):
        read_file(path)


def test_the_longest_header_is_read_at_once(tmp_path):
    grids, sizes = ((1, 1),) * 255, (2,) * 255
    header = TokenHeader(codebook_sizes=sizes, grids=grids, batch_size=1, image_size=(1, 1), **ORIGIN)
    data = pack(header, [np.full((1, 1, 1), i % 2) for i in range(255)])
    write_file(tmp_path / "a.tokens", data)
    assert header.num_bytes == token_format._LONGEST_HEADER
    assert read_file(tmp_path / "a.tokens") == data
