"""A toy backbone that remembers what it was asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from torch import Tensor

from pyramid_tokenizer.backbones import ToyBackbone


class CountingBackbone(ToyBackbone):
    """Texts, call by call, in `calls`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[str]] = []

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        self.calls.append(list(texts))
        return super().encode_text(texts)

    @property
    def asked(self) -> int:
        return sum(map(len, self.calls))


@pytest.fixture(scope="session")
def make_backbone() -> Callable[[], CountingBackbone]:
    """A fresh one at each call."""
    return CountingBackbone


@pytest.fixture
def backbone() -> CountingBackbone:
    return CountingBackbone()
