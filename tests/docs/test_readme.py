"""The README is short, its lines run and give the output it shows, and the files that the documentation names exist."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [
    *("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "examples/research/README.md"),
    *("examples/research/ABLATIONS.md", "pyramid_tokenizer/assets/tiny/README.md"),
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")),
]


def test_the_readmes_python_lines_give_what_it_shows() -> None:
    text = README.read_text(encoding="utf-8")
    code = "\n".join(block.split("```")[0] for block in text.split("```python\n")[1:])  # one session
    test = doctest.DocTestParser().get_doctest(code, {}, "README.md", str(README), 0)
    output: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS).run(
        test, out=output.append
    )
    assert result.attempted >= 10
    assert not result.failed, "".join(output)


def test_the_readme_has_at_most_900_words() -> None:
    assert len(README.read_text(encoding="utf-8").split()) <= 900


@pytest.mark.parametrize("page", PAGES)
def test_every_script_and_page_that_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    scripts = re.findall(r"python ((?:benchmarks|examples|docs|tests)/\S+?\.py)", text)
    missing = [name for name in links if not (ROOT / page).parent.joinpath(name).exists()]
    missing += [name for name in scripts if not (ROOT / name).exists()]
    assert not missing, f"{page} names files that do not exist: {missing}"
