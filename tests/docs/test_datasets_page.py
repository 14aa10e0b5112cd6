"""The Python lines of docs/datasets.md run, among them a reader that does not know this library."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pyramid_tokenizer.images import to_pil
from pyramid_tokenizer.tokenizer import PyramidTokenizer

PAGE = Path(__file__).parents[2] / "docs" / "datasets.md"


@pytest.fixture
def blocks(tmp_path, monkeypatch, smooth, toy_tokenizer) -> list[str]:
    """The page's blocks of Python, in a folder with three photos; the toy stands in for the bundled model."""
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(PyramidTokenizer, "from_pretrained", classmethod(lambda cls, name, **_: toy_tokenizer))
    (tmp_path / "photos").mkdir()
    for number, (height, width) in enumerate([(32, 40), (64, 32), (33, 32)]):
        to_pil(smooth(1, height, width, seed=number))[0].save(tmp_path / "photos" / f"{number}.png")
    return [part.split("```")[0] for part in PAGE.read_text(encoding="utf-8").split("```python\n")[1:]]


def test_a_reader_of_pyarrow_alone_gets_the_grids_that_decode(blocks, toy_tokenizer, capsys):
    writes, reads, _, _, decodes, _, rows, sequences, finds = (block.replace("size=256", "size=32") for block in blocks)
    assert "pyramid_tokenizer" not in reads
    assert len([line for line in reads.splitlines() if line.strip()]) <= 15 + 3  # and its three imports
    names: dict = {}
    for block in (writes, reads, decodes):
        exec(compile(block, "docs/datasets.md", "exec"), names)
    assert capsys.readouterr().out.startswith("3 0 ")
    expected = toy_tokenizer.encode("photos/2.png", size=32)
    assert names["tokens"].ids[2].equal(expected.ids[2])
    assert torch.equal(names["image"], toy_tokenizer.decode(expected))
    exec(compile(rows, "docs/datasets.md", "exec"), names)
    assert [row.key for row in names["rows"]] == ["2.png", "0.png", "1.png"]
    assert names["rows"][0].tokens == expected
    exec(compile(sequences, "docs/datasets.md", "exec"), names)
    assert Path("images.idx").is_file()
    exec(compile(finds, "docs/datasets.md", "exec"), names)
    assert names["like_it"][0].row == 0


def test_the_same_reader_gets_the_present_cells_of_sparse_pyramids(blocks, toy_tokenizer):
    write = blocks[0].replace("size=256", "size=32, quality=0.5")
    names: dict = {}
    for block in (write, blocks[1], blocks[4]):
        exec(compile(block, "docs/datasets.md", "exec"), names)
    expected = toy_tokenizer.encode("photos/2.png", size=32, quality=0.5)
    assert expected.is_sparse
    assert names["tokens"] == expected


@pytest.mark.slow
@pytest.mark.parametrize(("block", "library"), [(2, "duckdb"), (3, "polars")])
@pytest.mark.parametrize("limit", ["", ", quality=0.5"])
def test_duckdb_and_polars_give_the_reader_the_same_rows(blocks, block, library, limit):
    pytest.importorskip(library)
    names: dict = {}
    exec(compile(blocks[0].replace("size=256", f"size=32{limit}"), "docs/datasets.md", "exec"), names)
    reader = blocks[1] + "    found.append((row['key'], levels))\n"
    names["found"] = by_pyarrow = []
    exec(compile(reader, "docs/datasets.md", "exec"), names)
    names["found"] = by_library = []
    exec(compile(blocks[block], "docs/datasets.md", "exec"), names)
    lines = ["for row in rows:" if line.startswith("for row in") else line for line in reader.splitlines()]
    exec(compile("\n".join(lines), "docs/datasets.md", "exec"), names)
    assert library in blocks[block]
    assert [key for key, _ in by_pyarrow] == ["0.png", "1.png", "2.png"]
    assert by_library == by_pyarrow


@pytest.mark.slow
def test_hugging_face_streams_the_folder(blocks):
    pytest.importorskip("datasets")
    names: dict = {}
    exec(compile(blocks[0], "docs/datasets.md", "exec"), names)
    exec(compile(blocks[5], "docs/datasets.md", "exec"), names)
    assert names["first"]["key"] == "0.png"
