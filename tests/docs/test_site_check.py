"""docs/site/check.py finds broken links, missing anchors, what is loaded from elsewhere, and names without a description."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import pyramid_tokenizer
from pyramid_tokenizer import tokens

SITE = Path(__file__).parents[2] / "docs" / "site"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_site_{name}", SITE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def check() -> ModuleType:
    return load("check")


def write(folder: Path, **pages: str) -> Path:
    for name, text in pages.items():
        file = folder / f"{name.replace('__', '/')}.html"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return folder


def test_each_kind_of_broken_link_is_named(check, tmp_path):
    links = (
        '<a href="b.html#there">x</a> <a href="c.html">x</a> <a href="b.html#nowhere">x</a> <a href="https://a.b">x</a>'
    )
    loads = '<script src="https://cdn.example/x.js"></script><img src="https://example.com/x.png"><img src="gone.png">'
    site = write(tmp_path, a=links + loads, b='<h1 id="there">x</h1>')
    found = sorted(check.broken_links(site))
    assert [line.split(" ")[3 if "links" in line else 2].rstrip(",") for line in found] == [
        "b.html#nowhere",
        "c.html",
        "gone.png",
        "https://cdn.example/x.js",
        "https://example.com/x.png",
    ]


def test_links_that_lead_somewhere_are_no_fault(check, tmp_path):
    site = write(tmp_path, a='<a href="b.html#there">x</a><a href="sub/">x</a>', b='<p id="there">', sub__index="<p>")
    assert check.broken_links(site) == []


def test_a_public_name_without_a_description_is_named(check, tmp_path):
    names = check.public_names()
    assert {f"pyramid_tokenizer.{name}" for name in pyramid_tokenizer.__all__} <= set(names)
    assert {f"pyramid_tokenizer.tokens.{name}" for name in tokens.__all__} <= set(names)
    names += [method for name in names for method in check.public_methods(name)]
    assert {"pyramid_tokenizer.PyramidTokenizer.encode", "pyramid_tokenizer.PyramidTokenizer.from_pretrained"} <= set(
        names
    )
    lacking = ("tokens.Vocabulary", "tokens.TokenHealth", ".PyramidTokenizer.encode")
    described = [f'<h2 id="{name}">' for name in names if not name.endswith(lacking)]
    site = write(tmp_path, reference__index="".join(described), reference__tokens='<h2 id="vocabulary">')
    missing = ["pyramid_tokenizer.PyramidTokenizer.encode", "pyramid_tokenizer.tokens.TokenHealth"]
    assert check.undescribed(site) == missing


def test_links_out_of_the_folder_of_pages_lead_to_pages_of_the_site():
    hooks = load("hooks")

    page = SimpleNamespace(file=SimpleNamespace(src_uri="repository/benchmarks/README.md"))
    moved = hooks.on_page_markdown("[a](../docs/results.md#speed)\n```\n[b](c)\n```\n[d](run.py)", page, None, None)
    assert moved == "[a](../../results.md#speed)\n```\n[b](c)\n```\n[d](run.py.md)"
