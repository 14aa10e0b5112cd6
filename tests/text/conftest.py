"""A toy tower that remembers what it was asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from torch import Tensor

from pyramid_tokenizer.backbones import ToyBackbone


class CountingTower(ToyBackbone):
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
def make_tower() -> Callable[[], CountingTower]:
    """A fresh one at each call."""
    return CountingTower


@pytest.fixture
def tower() -> CountingTower:
    return CountingTower()
