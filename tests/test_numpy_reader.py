"""The reader without torch takes and refuses what `TokenPyramid.from_bytes` does."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_tokenizer import numpy_reader
from pyramid_tokenizer.errors import TokenFileError
from pyramid_tokenizer.numpy_reader import read_tokens
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from tests.tokens.pyramids import make_sparse, pyramids

GOLDEN = Path(__file__).parent / "golden"


@given(pyramids(), st.data())
def test_it_reads_every_prefix_of_what_a_pyramid_writes(tokens, data):
    levels = data.draw(st.integers(1, len(tokens)))
    read = read_tokens(tokens.to_bytes(), levels=levels)
    for a, b in zip(read.ids, tokens[:levels].ids, strict=True):
        assert (a.dtype, a.tolist()) == (np.int64, b.tolist())
    expected = tokens.codebook_sizes[:levels], tokens.image_size, tokens.fingerprint, tokens.precision
    assert (read.codebook_sizes, read.image_size, read.fingerprint, read.precision) == expected
    assert len(read_tokens(tokens.to_bytes()).ids) == len(tokens)


@given(pyramids(), st.data())
def test_it_agrees_with_the_pyramid_about_altered_bytes_whose_checksum_is_right(tokens, data):
    body = bytearray(tokens.to_bytes()[:-16])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, min(len(body) - 1, 120)))
        body[place] = data.draw(st.integers(0, 255))
    forged = bytes(body) + hashlib.sha256(body).digest()[:16]
    try:
        expected = TokenPyramid.from_bytes(forged)
    except TokenFileError:
        with pytest.raises(TokenFileError):
            read_tokens(forged)
    else:
        assert [x.tolist() for x in read_tokens(forged).ids] == [x.tolist() for x in expected.ids]


def test_it_reads_a_golden_file_and_tells_what_is_wrong_with_others(tmp_path):
    file = GOLDEN / "toy-tokenizer.tokens"
    expected = TokenPyramid.load(file)
    assert [x.tolist() for x in read_tokens(file).ids] == [x.tolist() for x in expected.ids]
    whole = make_sparse().to_bytes()
    for data, fault in {
        b"": "begins with b''",
        b"PNG and more": "begins with",
        whole[:6] + b"\x02" + whole[7:]: "version 02",
        whole[:50]: "50 bytes",
        whole[:-1]: f"{len(whole) - 1} bytes where its header says {len(whole)}",
        whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:]: "checksum",
    }.items():
        with pytest.raises(TokenFileError, match=fault):
            read_tokens(data)
    for levels in (0, 4, 1.5):
        with pytest.raises(TokenFileError, match="3 levels"):
            read_tokens(whole, levels=levels)
    with pytest.raises(TokenFileError, match=r"none\.tokens"):
        read_tokens(tmp_path / "none.tokens")


@pytest.mark.slow
def test_a_copy_of_the_file_works_without_the_package_and_without_torch(tmp_path):
    shutil.copy(numpy_reader.__file__, tmp_path / "copied.py")
    (tmp_path / "a.tokens").write_bytes(make_sparse().to_bytes())
    script = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
sys.modules["pyramid_tokenizer"] = sys.modules["torch"] = None  # imports of them fail
import copied
print([x.shape for x in copied.read_tokens("a.tokens").ids], copied.TokenFileError.__module__)
"""
    shown = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert shown.stdout == "[(2, 1, 2), (2, 2, 4), (2, 4, 8)] copied\n"
