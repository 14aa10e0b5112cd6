"""`EmbeddingCache`: text embeddings on disk, one file per list of phrases. `text_fingerprint`: what they depend on."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from pyramid_tokenizer.checks.arguments import check_path
from pyramid_tokenizer.errors import BackboneError
from pyramid_tokenizer.files import write_bytes

_FORMAT = 2  # 1 kept embeddings of texts that were cut
_IMAGE_NETWORK = "model.visual."
_STACK_LEVEL = 5  # a warning points at the line that called the encoder


class EmbeddingCache:
    """A folder of safetensors files, each named by the SHA-256 of what determines it.

    A file is written beside its final name and renamed, so that many processes may share the folder. A file that cannot be
    read, or holds anything else, is ignored with a warning and written anew. Deleting files is always safe.

    Example:
        >>> import tempfile
        >>> cache = EmbeddingCache(tempfile.mkdtemp(), facts=["a backbone's fingerprint", ["a photo of a {}"]])
        >>> cache.write(["dog"], torch.ones(1, 4))
        >>> cache.read(["dog"], dim=4), cache.read(["cat"], dim=4)
        (tensor([[1., 1., 1., 1.]]), None)
    """

    def __init__(self, folder: str | os.PathLike[str], *, facts: Sequence[object]):
        """Reads and writes nothing yet.

        Args:
            folder: Made at the first `write`; "auto" is pyramid-tokenizer/text in the user's cache folder ($XDG_CACHE_HOME, or
                ~/.cache).
            facts: JSON-ready values that determine embeddings beside the phrases.
        """
        check_path(folder, name="cache_dir")
        self.folder = _user_folder() if folder == "auto" else Path(folder).expanduser()
        self._facts = list(facts)

    def read(self, phrases: Sequence[str], *, dim: int) -> Tensor | None:
        """(P, dim) float32, bit for bit what was written for these phrases in this order; None where nothing was."""
        path, key = self._file(phrases)
        try:
            stored = from_safetensors(path.read_bytes())
            rows, digest = stored["embeddings"], stored["sha256"]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (SafetensorError, OSError, KeyError) as error:
            _warn(f"expected embeddings in {path}, got {type(error).__name__}: {error}: they are made and written anew")
            return None
        whole = rows.shape == (len(phrases), dim) and rows.dtype == torch.float32
        if not whole or not torch.equal(digest, _checksum(key, rows)):
            _warn(
                f"expected embeddings with their checksum in {path}, got other contents: they are made and written anew"
            )
            return None
        return rows

    def write(self, phrases: Sequence[str], rows: Tensor) -> None:
        """Stores (P, D) float32 rows; a folder that cannot be written to is a warning, not an error."""
        path, key = self._file(phrases)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, [to_safetensors({"embeddings": rows, "sha256": _checksum(key, rows)})])
        except OSError as error:
            _warn(
                f"expected a folder that can be written, got {type(error).__name__}: {error}: text embeddings are not kept on "
                "disk; choose another cache_dir, or None"
            )

    def _file(self, phrases: Sequence[str]) -> tuple[Path, str]:
        key = hashlib.sha256(json.dumps([_FORMAT, self._facts, list(phrases)]).encode()).hexdigest()
        return self.folder / f"{key}.safetensors", key


def text_fingerprint(backbone: object) -> str:
    """SHA-256 (hex) of what determines `encode_text`: all weights outside the backbone, their dtype, the text config.

    Args:
        backbone: A `Backbone`. What is left out is `model.visual`, where an `OpenClipBackbone` has its backbone.

    Raises:
        BackboneError: It is no torch module, so that its weights cannot be read.

    Example:
        >>> from pyramid_tokenizer.backbones import ToyBackbone
        >>> text_fingerprint(ToyBackbone()) == text_fingerprint(ToyBackbone())
        True
    """
    if not isinstance(backbone, nn.Module):
        raise BackboneError(
            f"expected a torch module, got {type(backbone).__name__}, whose text weights cannot be read: use "
            "cache_dir=None"
        )
    # The config determines the tokenizer, the number of heads and the activation, which do not show in the weights.
    config = getattr(backbone, "_model_config", {})
    facts = [type(backbone).__name__, config.get("text_cfg"), bool(config.get("quick_gelu", False))]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, tensor in sorted(backbone.state_dict().items()):
        if not name.startswith(_IMAGE_NETWORK):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _user_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    # a relative path there is invalid, by the XDG base directory specification
    folder = Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()
    return folder / "pyramid-tokenizer" / "text"


def _checksum(key: str, rows: Tensor) -> Tensor:
    """(32,) uint8: SHA-256 of the key and the values; safetensors has no checksum of its own."""
    return torch.tensor(list(hashlib.sha256(key.encode() + rows.numpy().tobytes()).digest()), dtype=torch.uint8)


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=_STACK_LEVEL)
