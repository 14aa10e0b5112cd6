"""The Python lines of the pages that have no test of their own run, and no page's lines are left out."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from unittest import mock

import pytest
import torch

from pyramid_tokenizer import datasets, training
from pyramid_tokenizer.export import reader
from pyramid_tokenizer.images import to_pil
from pyramid_tokenizer.tokenizer import PyramidTokenizer

DOCS = Path(__file__).parents[2] / "docs"


def code_of(page: str) -> str:
    """The page's blocks as one program; images are smaller."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return "\n".join(part.split("```")[0] for part in text.split("```python\n")[1:]).replace("size=256", "size=64")


def run(page: str, **names: object) -> dict:
    exec(compile(code_of(page), f"docs/{page}", "exec"), names)
    return names


@pytest.fixture
def tok(tmp_path, monkeypatch, smooth, toy_tokenizer) -> PyramidTokenizer:
    """The toy, which stands in for every model, in a folder with photo.jpg and photos/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(PyramidTokenizer, "from_pretrained", classmethod(lambda cls, name, **_: toy_tokenizer))
    to_pil(smooth(1, 64, 96, seed=3))[0].save("photo.jpg")
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(to_pil(smooth(4, 64, 64, seed=5))):
        image.save(f"photos/{number}.png")
    return toy_tokenizer


def test_every_page_with_python_lines_is_run_by_a_test_of_this_folder():
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*_page*.py"))
    pages = [page.name for page in DOCS.glob("*.md") if "```python\n" in page.read_text(encoding="utf-8")]
    assert len(pages) > 12
    assert [
        page for page in pages if not re.search(rf'(DOCS?|docs").*"{re.escape(page)}"|\("{re.escape(page)}"', tests)
    ] == []


def test_the_quick_start(tok, capsys):
    names = run("index.md")
    assert names["masks"].names == ("sky", "grass", "house")
    assert names["image"].shape == names["thumbnail"].shape == (1, 3, 64, 96)
    assert Path("photo.tokens").is_file()
    assert str([tuple(ids.shape) for ids in names["tokens"].ids]) in capsys.readouterr().out


def test_the_concepts(tok, capsys):
    names = run("concepts.md")
    printed = capsys.readouterr().out
    assert printed.count("integers below") == printed.count("bits per pixel") == len(tok.quantizer.strides)
    assert names["vector"].shape == (1, 16)


def test_the_bytes_of_the_files(tok):
    tok.encode("photo.jpg", size=64).save("photo.tokens")
    tok.save_pretrained("my-tok")
    names = run("file-formats.md")
    assert [grid.shape for grid in names["grids"]] == [tuple(ids.shape) for ids in names["tokens"].ids]


def test_a_backbone_and_a_quantizer_of_ones_own():
    names = run("extending.md")
    assert names["tokens"].codebook_sizes == (8, 16)


def test_the_lines_on_backbones_name_options_that_exist(tok, monkeypatch):
    signature, asked = inspect.signature(PyramidTokenizer.from_backbone), []

    def from_backbone(cls, *args, **options):
        asked.append(signature.bind(*args, **options).arguments)
        return tok

    monkeypatch.setattr(PyramidTokenizer, "from_backbone", classmethod(from_backbone))
    monkeypatch.setattr(PyramidTokenizer, "fit", lambda self, images: asked.append({"fit": images}))
    run("backbones.md")
    assert asked == [{"name": "RN50", "pretrained": "openai"}, {"name": "hf-hub:org/repo"}, {"fit": "photos"}]
    assert Path("my-tok/config.json").is_file()


def test_the_lines_on_training_name_options_that_exist(tok, monkeypatch):
    signature, asked = inspect.signature(training.finetune), []

    def finetune(*args, **options):
        asked.append(signature.bind(*args, **options).arguments)
        return args[0]

    monkeypatch.setattr(training, "finetune", finetune)
    run("training.md")
    assert [(call["images"], call["steps"], call.get("out")) for call in asked] == [
        ("photos", 2000, None),
        ("photos", 2000, "my-tok"),
    ]
    assert asked[1]["config"].sheet_every == 500


def test_the_line_on_clusters_names_options_that_exist(monkeypatch):
    signature, asked = inspect.signature(datasets.tokenize), []
    monkeypatch.setattr(datasets, "tokenize", lambda *args, **options: asked.append(signature.bind(*args, **options)))
    run("clusters.md")
    assert datasets.TokenizeOptions(**asked[0].arguments["options"]).engine == "ray"


def test_the_lines_on_exported_files_name_methods_that_exist(monkeypatch, tok):
    made = mock.create_autospec(reader.OnnxTokenizer)  # refuses what the class has not; tests/export/ runs real files
    made.return_value.classify.return_value = (["cat"], [0.5])
    monkeypatch.setattr(reader, "OnnxTokenizer", made)
    compiled = mock.Mock(side_effect=lambda method, fullgraph: method)  # tests/test_compiled.py compiles
    monkeypatch.setattr(torch, "compile", compiled)
    names = run("export.md")
    assert [call.args[0] for call in compiled.call_args_list] == [tok.encode, tok.decode, tok.embedding]
    made.assert_called_once_with("exported")
    made.return_value.encode.assert_called_once_with("photo.jpg", size=64)
    assert names["names"] == ["cat"]
