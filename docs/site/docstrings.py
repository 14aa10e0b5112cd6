"""Docstrings of the package as the reference reads them: the section "Example:" is Google's, griffe knows "Examples:"."""

from __future__ import annotations

import re

import griffe


class Examples(griffe.Extension):
    """Shows examples as code and not as a note."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Renames the section."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
