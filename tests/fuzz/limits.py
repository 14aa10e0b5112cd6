"""What a broken file may do: raise an error of this package, within seconds and bounded memory, without a network."""

from __future__ import annotations

import resource
import signal
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pyramid_tokenizer.errors import PyramidTokenizerError

MOST_SECONDS, MOST_BYTES = 10, 1 << 30


@contextmanager
def limits() -> Iterator[None]:
    """Fails where the block raises the process's memory by more than 1 GB, or asks a network; `outcome` watches the time."""

    def refused(*_: object) -> None:
        raise AssertionError("expected no network, got a connection")

    peak = _peak()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(socket.socket, "connect", refused)
        yield
    grown = _peak() - peak
    assert grown < MOST_BYTES, f"took {grown >> 20} MB more memory"


def outcome(read: Callable[[], Any]) -> str:
    """Whether reading gave something ("read"), or the name of the error of this package. Anything else is raised.

    10 s are the most that it may take.
    """

    def too_long(*_: object) -> None:
        pytest.fail(f"took more than {MOST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
    try:
        read()
    except PyramidTokenizerError as error:
        return type(error).__name__
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)  # left running, it would end the process in a later test
        signal.signal(signal.SIGALRM, before)
    return "read"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
