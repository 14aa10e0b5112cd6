from __future__ import annotations

from pathlib import Path

import pytest

TRAIN_TINY = Path(__file__).resolve().parents[2] / "examples" / "train_tiny"


@pytest.fixture(autouse=True)
def train_tiny(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The scripts import each other as siblings, as they do when run."""
    monkeypatch.syspath_prepend(str(TRAIN_TINY))
    return TRAIN_TINY
