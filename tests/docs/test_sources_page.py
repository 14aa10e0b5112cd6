"""The lines of docs/sources.md run."""

from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "sources.md"


def test_the_pages_python_lines_run(tmp_path, image_cache, encoded, write_tar, write_parquet, monkeypatch, capsys):
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    (tmp_path / "photos").mkdir()
    for i, data in enumerate([*encoded, b"damaged"]):
        (tmp_path / "photos" / f"{i}.png").write_bytes(data)
    for shard in ("000", "001"):
        write_tar(tmp_path / "shards" / f"{shard}.tar", {"a.png": encoded[0], "a.seg.png": encoded[1]})
    file = write_parquet(tmp_path / "tables" / "photos.parquet", image=encoded, caption=list("abcde"))
    datasets.Dataset.from_parquet(str(file)).save_to_disk("saved")
    blocks = [part.split("```")[0] for part in PAGE.read_text(encoding="utf-8").split("```python\n")[1:]]
    names: dict = {}
    lengths = []
    for block in blocks:
        exec(compile(block, "docs/sources.md", "exec"), names)
        lengths.append(len(names["images"]))
    assert lengths == [6, 6, 2, 5, 3, 5, 5, 5, 5]
    assert names["captions"] == [{"caption": "a"}, {"caption": "c"}]
    assert names["batch"].shape == (8, 3, 32, 32)
    assert "6 photos/0.png torch.Size([3, 40, 60])" in capsys.readouterr().out
