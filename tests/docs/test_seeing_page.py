"""The Python lines of docs/seeing.md run, one after another."""

from __future__ import annotations

from pathlib import Path

from pyramid_tokenizer.images import to_pil
from pyramid_tokenizer.tokenizer import PyramidTokenizer

PAGE = Path(__file__).parents[2] / "docs" / "seeing.md"


def test_the_pages_lines_run(tmp_path, monkeypatch, smooth, toy_tokenizer, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(PyramidTokenizer, "from_pretrained", classmethod(lambda cls, name, **_: toy_tokenizer))
    to_pil(smooth(1, 64, 96, seed=3))[0].save("photo.jpg")
    code = "\n".join(block.split("```")[0] for block in PAGE.read_text(encoding="utf-8").split("```python\n")[1:])
    exec(compile(code.replace("size=256", "size=64"), str(PAGE), "exec"), {})
    assert Path("prefixes.png").exists()
    printed = capsys.readouterr().out
    assert any(word in printed for word in ("cat", "dog", "grass", "sky"))
