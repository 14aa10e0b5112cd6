"""The Python lines of docs/language-models.md run, one after another."""

from __future__ import annotations

from pathlib import Path

from pyramid_tokenizer.images import to_pil
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from tests.text.test_language_models import byte_level

PAGE = Path(__file__).parents[2] / "docs" / "language-models.md"


def test_the_pages_lines_give_what_it_says(tmp_path, monkeypatch, smooth, toy_tokenizer, capsys):
    monkeypatch.chdir(tmp_path)
    # The toy tokenizer stands in for the bundled model.
    monkeypatch.setattr(PyramidTokenizer, "from_pretrained", classmethod(lambda cls, name, **_: toy_tokenizer))
    to_pil(smooth(1, 64, 96, seed=3))[0].save("photo.jpg")
    byte_level().save("tokenizer.json")
    code = "\n".join(block.split("```")[0] for block in PAGE.read_text(encoding="utf-8").split("```python\n")[1:])
    names: dict = {}
    exec(compile(code.replace("size=256", "size=64"), str(PAGE), "exec"), names)
    lm = names["lm"]
    assert capsys.readouterr().out == f"{lm.base_size} {lm.size} {lm.begin} {lm.end}\n"
    assert (names["text"], names["image"].image_size) == ("a lighthouse", (64, 64))
    for ids, labels in (names["captioning"], names["generation"]):
        assert ids.shape == labels.shape
        assert ids[labels != -100].tolist() == labels[labels != -100].tolist()
    assert names["allowed"].tolist() == [lm.offset + toy_tokenizer.vocabulary.crop_offset]
    assert Path("my-tokenizer/tokenizer_config.json").exists()
