"""What holds for every test: the same seed, one thread, no network."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# Tiny tensors: a second thread only costs, and beside another busy process its barriers spin (5 to 10 times slower).
torch.set_num_threads(1)
os.environ["HF_HUB_OFFLINE"] = "1"

# The same examples in every run; no deadline, since a busy machine is no bug.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _same_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.node.get_closest_marker("network"):
        monkeypatch.delenv("HF_HUB_OFFLINE")
        yield
        return
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"expected no network in this test, got a connection to {address}: mark it `network`")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)
    yield
