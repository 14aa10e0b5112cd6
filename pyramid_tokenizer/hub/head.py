"""The segmentation head of a saved model, which its tokenizer carries along while it still fits."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pyramid_tokenizer.config.models import SegmentationConfig
from pyramid_tokenizer.hub.weights import load_weights

HEAD_FILE = "segmentation_head.safetensors"
"""The file with the segmentation head, in a model that has one."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StoredHead:
    """A segmentation head as files hold it."""

    config: SegmentationConfig
    """What it was built from."""
    tensors: Mapping[str, Tensor]
    """Names and tensors of segmentation_head.safetensors."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class KeptHead:
    """A head that lies beside a tokenizer, so that saving the tokenizer does not lose it.

    A head is trained on what it reads: the codes with their text embeddings, and the tokenizer's trunk unless it has one of
    its own. When any of these has changed, its masks would be wrong, and it is not saved.
    """

    head: StoredHead
    """The head."""
    inputs: str
    """SHA-256 (hex) of the tensors that it reads."""


def keep_head(head: StoredHead | None, tensors: Mapping[str, Tensor]) -> KeptHead | None:
    """The head together with a digest of what it reads.

    Args:
        head: A head that fits the tokenizer; None where there is none.
        tensors: Names and tensors of the tokenizer, as `PyramidTokenizer.own_tensors` gives them.
    """
    return None if head is None else KeptHead(head=head, inputs=_digest(head.config, tensors))


def read_head(directory: Path, config: SegmentationConfig | None) -> StoredHead | None:
    """The head of a model directory; None where its config has none.

    Raises:
        CheckpointError: The config names a head, and its file is missing or cannot be read.
    """
    return None if config is None else StoredHead(config=config, tensors=load_weights(directory / HEAD_FILE))


def fitting_head(kept: KeptHead | None, tensors: Mapping[str, Tensor]) -> StoredHead | None:
    """The kept head where what it reads is unchanged; else None, with a warning.

    Args:
        kept: What `keep_head` gave.
        tensors: Names and tensors of the tokenizer now.
    """
    if kept is None or kept.inputs == _digest(kept.head.config, tensors):
        return None if kept is None else kept.head
    warn_of_lost_head("codebooks or trunk have changed since it was trained", stacklevel=4)
    return None


def warn_of_lost_head(reason: str, *, stacklevel: int) -> None:
    """Warns that the model will be saved without its segmentation head, and says how to train another.

    Args:
        reason: Why it no longer fits.
        stacklevel: As `warnings.warn` takes it, counted from here.
    """
    warnings.warn(
        f"the model's segmentation head is left out, because {reason}; train a new one with `pyramid-tokenizer finetune MODEL "
        "--segmentation FOLDER --out NEW` or training.train_segmentation",
        stacklevel=stacklevel,
    )


def _digest(config: SegmentationConfig, tensors: Mapping[str, Tensor]) -> str:
    read = ("quantizer.", "trunk.") if config.shared_decoder else ("quantizer.",)
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if name.startswith(read):
            digest.update(name.encode())
            digest.update(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
