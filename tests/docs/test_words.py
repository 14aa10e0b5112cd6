"""Words that the project has replaced by the field's own appear nowhere in the package or its documentation."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORDS = re.compile(r"\b(?:towers?|pictures?|sketch(?:es)?|closed[\s_-]forms?)\b", re.IGNORECASE)
ALLOWED = {"docs/glossary.md", "CHANGELOG.md"}  # they say what was replaced
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("pyramid_tokenizer/**/*.py", "pyramid_tokenizer/**/*.md", "docs/*.md", "*.md")
    for path in ROOT.glob(pattern)
)


def test_replaced_words_are_found_whole_in_the_plural_and_across_a_line_end() -> None:
    text = "Towers, a Picture\nand a closed\nform; sketches, but the eiffeltower, sketchy, pictured and closed_forms"
    assert WORDS.findall(text) == ["Towers", "Picture", "closed\nform", "sketches", "closed_forms"]


def test_no_file_has_a_replaced_word() -> None:
    assert len(FILES) > 100
    found = []
    for name in FILES:
        if name not in ALLOWED:
            text = (ROOT / name).read_text(encoding="utf-8")
            found += [
                f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}" for match in WORDS.finditer(text)
            ]
    assert not found, "docs/glossary.md says which words to use instead"
