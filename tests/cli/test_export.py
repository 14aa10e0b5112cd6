"""The command `export`: what it refuses before it loads a model. `tests/export` has what is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyramid_tokenizer.cli.export import read_size
from pyramid_tokenizer.errors import ConfigError


@pytest.mark.parametrize("size", ["", "0", "-3", "256x", "1x2x3", "large"])
def test_a_size_that_is_none_is_refused(size: str) -> None:
    with pytest.raises(ConfigError, match="256x384"):
        read_size(size)


def test_files_that_exist_are_kept(tmp_path: Path, run) -> None:
    (tmp_path / "encode.onnx").write_bytes(b"old")
    result = run("export", "tiny", "--out", tmp_path)
    assert result.exit_code == 1
    assert "encode.onnx" in result.stderr
    assert (tmp_path / "encode.onnx").read_bytes() == b"old"
