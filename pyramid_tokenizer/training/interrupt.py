"""Ctrl-C and SIGTERM become a request that the loop answers between two steps, when its state is whole and can be saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """While it is entered, the first signal only sets `signal`; a second one does what it would have done at first.

    Outside the main thread, where Python takes no signals, nothing is changed.

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
            # None: set by something other than Python, which alone could set it again
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def leave(self) -> None:
        """Ends the program as the signal would have: KeyboardInterrupt for Ctrl-C, else SystemExit.

        Raises:
            KeyboardInterrupt: The signal was SIGINT, or another process got one.
            SystemExit: It was SIGTERM; the exit code is 143, as shells have it.
        """
        if self.signal is signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt


def leave_signals_to_the_parent(worker: int) -> None:
    """For processes that load data: the terminal's Ctrl-C reaches them too, but the parent decides when they end.

    Args:
        worker: Its number, which DataLoader's `worker_init_fn` is called with.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
