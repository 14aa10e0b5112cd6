"""A process of the engine `local`: takes numbers of shards from a pipe and sends the shards back."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import parent_process
from typing import Any

READY, TOLD, DONE, FAILED = "ready", "told", "done", "failed"
"""Kinds of messages; each is a tuple that begins with its kind.

    READY, fingerprint, precision     the tokenizer is loaded
    TOLD, stage, numbers              what happens to which images, see `shards.Tell`
    DONE, shard                       a finished `shards.Shard`
    FAILED, error, traceback          an error that ended the shard
"""


def serve(connection: Connection, pickled: bytes, device: str, readers: int) -> None:
    """What the process does: loads the tokenizer, then encodes the shards whose numbers arrive, until the pipe is closed.

    Args:
        connection: The pipe.
        pickled: A pickled `shards.Work`; by plain pickle, so that tensors in it are copied and no memory is shared.
        device: Where the tokenizer computes.
        readers: Threads that read images ahead.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    lock = threading.Lock()

    def send(*message: Any) -> None:
        with lock:
            connection.send(message)

    try:
        _serve(connection, send, pickled, device, readers)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent needs this process no more


def _serve(connection: Connection, send: Any, pickled: bytes, device: str, readers: int) -> None:
    try:
        import torch

        from pyramid_tokenizer.datasets.engines.inline import THREADS
        from pyramid_tokenizer.datasets.shards import Work, encode_shard

        torch.set_num_threads(THREADS)
        work: Work = pickle.loads(pickled)
        tok = work.load_tokenizer(device)
        send(READY, tok.fingerprint, tok.precision)
        while True:
            shard: int = connection.recv()

            def tell(stage: str, numbers: Sequence[int]) -> None:
                send(TOLD, stage, list(numbers))

            send(DONE, encode_shard(tok, work, shard, readers=readers, tell=tell))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:
        send(FAILED, _picklable(error), traceback.format_exc())


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)  # at once: what it computes has nobody to go to


def _picklable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
