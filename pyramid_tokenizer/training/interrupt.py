"""Ctrl-C and SIGTERM as a request to stop, which a training answers between two steps, when its state can be saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """While it is entered, the first SIGINT or SIGTERM only sets `signal`; a second one acts as it would have without this.

    Outside the main thread, where Python handles no signals, nothing is changed.

    Example:
        >>> with StopRequest() as stop:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     stop.signal is signal.SIGTERM
        True
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            # None: the handler was not set by Python, so Python cannot set it again
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def leave(self) -> None:
        """Ends the program as the signal would have: KeyboardInterrupt for Ctrl-C, else SystemExit.

        Raises:
            KeyboardInterrupt: The signal was SIGINT, or another process of the training got a signal.
            SystemExit: The signal was SIGTERM; the exit code is 143, as shells report it.
        """
        if self.signal is signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt


def leave_signals_to_the_parent(worker: int) -> None:
    """Makes a process that loads data ignore Ctrl-C, which the terminal sends to it too: the parent decides when it ends.

    Args:
        worker: Number of the worker, with which a DataLoader calls its `worker_init_fn`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
