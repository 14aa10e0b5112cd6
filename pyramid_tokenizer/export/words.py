"""Names and their text embeddings as a file that the reader needs no text network for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyramid_tokenizer.files import replacing
from pyramid_tokenizer.text import Templates
from pyramid_tokenizer.tokenizer import PyramidTokenizer


def write_words(
    tok: PyramidTokenizer, path: str | Path, names: Sequence[str], *, templates: Templates = "default"
) -> Path:
    """Writes names and their embeddings for `OnnxTokenizer.classify`, whole or not at all.

    Args:
        tok: The model whose text network is used.
        path: The file, `.npz`.
        names: N classes; synonyms as "car|automobile".
        templates: Prompts that names are put into, as `TextEncoder.encode` takes them.

    Returns:
        The path. The file has `names` (N,), `embeddings` (P, D) float32 of unit norm, `owner` (P,) int64, the class of each
        phrase, and the model's `fingerprint`.

    Raises:
        ConfigError: A name is empty or occurs twice, or a prompt is too long for the text network.
    """
    words = tok.text.encode_names(names, templates=templates)
    path = Path(path)
    arrays: dict[str, Any] = {"names": np.array(words.names), "owner": words.owner.numpy()}
    arrays["embeddings"] = words.embeddings.numpy()
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, fingerprint=np.array(tok.fingerprint), **arrays)
    return path
