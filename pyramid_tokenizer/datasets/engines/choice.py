"""The engine that options ask for."""

from __future__ import annotations

from pyramid_tokenizer.datasets.engines.contract import Engine
from pyramid_tokenizer.datasets.engines.inline import InlineEngine
from pyramid_tokenizer.datasets.engines.local import LocalEngine
from pyramid_tokenizer.datasets.engines.ray import RayEngine, import_ray
from pyramid_tokenizer.datasets.options import TokenizeOptions
from pyramid_tokenizer.tokenizer import PyramidTokenizer


def check_engine(options: TokenizeOptions) -> None:
    """Looks for what the engine needs on this machine, before a model is loaded.

    Args:
        options: Of the call.

    Raises:
        ConfigError: A device is not there.
        MissingExtraError: Ray is not installed.
    """
    if options.engine == "ray":
        import_ray()
    else:
        options.devices()


def choose_engine(options: TokenizeOptions, tok: PyramidTokenizer) -> Engine:
    """Makes the engine; nothing is started before its `encode` is called.

    Args:
        options: Of the call.
        tok: The tokenizer, which the calling process uses itself where it encodes.
    """
    if options.engine == "ray":
        return RayEngine(
            actors=options.workers,
            on_gpu=options.on_gpu,
            readers=options.threads(),
            patience_seconds=options.patience_seconds,
        )
    devices, readers = options.devices(), options.threads()
    if options.workers == 0:
        return InlineEngine(tok, device=devices[0], readers=readers)
    return LocalEngine(devices=devices, readers=readers, patience_seconds=options.patience_seconds)
