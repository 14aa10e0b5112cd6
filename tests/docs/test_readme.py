"""The README's lines run and give the output it shows."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.filterwarnings("ignore:the model's segmentation head is left out")  # fine-tuning the bundled model tells
def test_the_readmes_python_lines_give_what_it_shows() -> None:
    text = README.read_text(encoding="utf-8")
    code = "\n".join(block.split("```")[0] for block in text.split("```python\n")[1:])  # one session
    test = doctest.DocTestParser().get_doctest(code, {}, "README.md", str(README), 0)
    output: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS).run(
        test, out=output.append
    )
    assert result.attempted >= 20
    assert not result.failed, "".join(output)
