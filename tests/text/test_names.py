"""`parse_names`: what names may be, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.text import parse_names


def test_an_entry_is_a_class_and_its_first_synonym_is_shown() -> None:
    classes = parse_names(["car | automobile", "  potted \t plant "], background=["road|street", "sky"])
    assert classes.names == ("car", "potted plant")
    assert classes.phrases == ("car", "automobile", "potted plant", "road", "street", "sky")
    assert classes.owner.tolist() == [0, 0, 1, -1, -1, -1]
    assert classes.owner.dtype == torch.int64


def test_upper_case_is_kept() -> None:
    assert parse_names(["Eiffel Backbone", "NASA|space agency"]).names == ("Eiffel Backbone", "NASA")


@pytest.mark.parametrize(
    ("names", "background", "message"),
    [
        ([], None, "names"),
        (["dog"], [], "background"),
        ("dog", None, r"\['dog'\]"),
        (["dog"], "wall", "background"),
        (["dog", " "], None, r"names\[1\]"),
        (["dog", "car||bus"], None, r"names\[1\] 'car\|\|bus'"),
        (["dog", 3], None, r"names\[1\].* int 3"),
        (["cat|dog|CAT"], None, r"'CAT' .*names\[0\] 'cat\|dog\|CAT'"),
        (["car|bus", "dog", "Bus "], None, r"'Bus' in names\[0\] 'car\|bus' and in names\[2\] 'Bus'"),
        (["dog", "wall"], ["sky", "wall"], r"names\[1\] 'wall' and in background\[1\] 'wall'"),
        (["STRASSE", "straße"], None, "STRASSE.*straße|straße.*STRASSE"),
    ],
)
def test_names_that_cannot_be_told_apart_or_are_none_are_refused(names: Any, background: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_names(names, background=background)
