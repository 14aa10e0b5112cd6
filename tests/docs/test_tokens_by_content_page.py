"""The Python lines of docs/tokens-by-content.md run, one after another."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyramid_tokenizer.images import to_pil
from pyramid_tokenizer.tokenizer import PyramidTokenizer

PAGE = Path(__file__).parents[2] / "docs" / "tokens-by-content.md"


@pytest.mark.parametrize("kind", ["toy_tokenizer", "detailed_tokenizer"])
@pytest.mark.filterwarnings("ignore:image 0 of the batch has:UserWarning")  # a toy reaches few targets
def test_the_pages_lines_give_what_it_says(kind, tmp_path, monkeypatch, smooth, request, capsys):
    monkeypatch.chdir(tmp_path)
    tok = request.getfixturevalue(kind)  # stands in for the bundled model
    monkeypatch.setattr(PyramidTokenizer, "from_pretrained", classmethod(lambda cls, name, **_: tok))
    to_pil(smooth(1, 64, 96, seed=3))[0].save("photo.jpg")
    code = "\n".join(block.split("```")[0] for block in PAGE.read_text(encoding="utf-8").split("```python\n")[1:])
    names: dict = {}
    exec(compile(code.replace("size=256", "size=64"), str(PAGE), "exec"), names)
    full, simple, short = (names[name].num_tokens for name in ("full", "simple", "short"))
    assert capsys.readouterr().out.startswith(f"{full} {simple} {short} ")
    assert short <= 400
    assert names["simple"].is_sparse
    assert len(names["everything"]) == len(tok.quantizer.strides)
    assert len(names["base"]) == tok.quantizer.base_levels
    assert names["estimate"].num_tokens < full
    assert Path("where.png").exists()
