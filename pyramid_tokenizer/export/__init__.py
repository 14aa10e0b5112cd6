"""Models as files for other runtimes: ONNX and `torch.export` programs, each checked against the model before it is written.

    tok ─graphs─▶ modules of tensors alone ─programs─▶ torch.export programs, constants folded ─files─▶ encode, decode, embed
                                                                  └─ checking: ids, images and embeddings against the model's

`reader.py` runs the ONNX files with numpy, Pillow and onnxruntime, without torch: importing this package loads none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyramid_tokenizer.export.exporter import ExportReport, export_model
    from pyramid_tokenizer.export.reader import OnnxTokenizer
    from pyramid_tokenizer.export.words import write_words

__all__ = ["ExportReport", "OnnxTokenizer", "export_model", "write_words"]

_HOMES = {
    "ExportReport": "exporter",
    "OnnxTokenizer": "reader",
    "export_model": "exporter",
    "write_words": "words",
}


def __getattr__(name: str) -> Any:
    """The public name, from its home module: torch is loaded for exporting alone."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
