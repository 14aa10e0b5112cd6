"""The files of a saved model: config.json, safetensors files, README.md, evaluation.json, and the backbone in backbone/."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyramid_tokenizer import hub
from pyramid_tokenizer.backbones import Backbone
from pyramid_tokenizer.checks.finite import require_finite
from pyramid_tokenizer.config.models import BackboneConfig, TokenizerConfig
from pyramid_tokenizer.config.plain import from_dict, to_dict
from pyramid_tokenizer.errors import CheckpointError, ConfigError, ModelNotFoundError
from pyramid_tokenizer.files import load_json, refuse_lfs_pointer, temporary_name, write_text
from pyramid_tokenizer.hub.card import model_card
from pyramid_tokenizer.hub.head import HEAD_FILE, StoredHead

CONFIG_FILE = "config.json"
"""The file whose presence makes a directory a model."""


def read_config(directory: Path) -> TokenizerConfig:
    """The config of a model directory.

    Raises:
        ModelNotFoundError: There is no config.json.
        ConfigError: It is not JSON, is a pointer of git-lfs, or has an unknown, missing or wrong field.
    """
    path = directory / CONFIG_FILE
    refuse_lfs_pointer(path, error=ConfigError)
    try:
        data = load_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"expected {path}, got no such file: give the directory of a saved model") from error
    except ValueError as error:  # JSON or UTF-8
        raise ConfigError(f"expected JSON in {path}, got: {error}: restore the file or save the model again") from error
    return from_dict(TokenizerConfig, data, where=str(path))


def write_config(config: TokenizerConfig, directory: Path) -> None:
    """Writes config.json into a directory, whole or not at all."""
    text = json.dumps(to_dict(config), indent=2, ensure_ascii=False) + "\n"
    write_text(directory / CONFIG_FILE, text)


@contextmanager
def save_directory(directory: str | Path) -> Iterator[Path]:
    """A directory to write a model's files in; it becomes `directory` only when the block ends without an error.

    The block writes in a hidden directory beside the target. A target that is new or empty is then replaced by one rename. In
    any other target, config.json is removed first, then the files are moved in one by one, config.json last. So a reader
    finds the old model, none (`ModelNotFoundError`), or the new one, never a mixture. Moving takes no disk space, so that only
    a crash in that moment can leave none. Other files of the target stay, e.g. the history of a repository.

    Args:
        directory: The model's directory; it and the folders above it are made where they are missing.

    Raises:
        CheckpointError: `directory` is a file.
        OSError: The files cannot be written; the target is as it was.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "model"
        >>> with save_directory(target) as part:
        ...     _ = (part / "config.json").write_text("{}")
        ...     target.exists()
        False
        >>> [path.name for path in target.iterdir()]
        ['config.json']
    """
    target = Path(directory).expanduser().resolve()
    if target.exists() and not target.is_dir():
        raise CheckpointError(
            f"expected a directory to save the model in, got the file {str(directory)!r}: choose another name"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(temporary_name())
    part.mkdir()  # not tempfile.mkdtemp: its mode lets only the owner in, and would stay
    try:
        yield part
        _move_into(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _move_into(part: Path, target: Path) -> None:
    if not target.exists() or not any(target.iterdir()):
        if target.exists():
            target.rmdir()  # Windows cannot rename onto an empty directory
        part.rename(target)
        return
    files = sorted((path for path in part.rglob("*") if path.is_file()), key=lambda path: path == part / CONFIG_FILE)
    if (part / CONFIG_FILE).exists():
        (target / CONFIG_FILE).unlink(missing_ok=True)
    for file in files:
        final = target / file.relative_to(part)
        final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, final)


WEIGHTS_FILE = "model.safetensors"
"""The file with quantizer and decoder."""


BACKBONE_FOLDER = "backbone"


SELFCHECK_FILE = "selfcheck.npz"
"""What `evaluation.selfcheck` compares a model with; it is made after the model."""


def save_model(
    directory: str | Path,
    config: TokenizerConfig,
    *,
    backbone: Backbone,
    tensors: Mapping[str, Tensor],
    head: StoredHead | None = None,
    half: bool = False,
    evaluation: Mapping[str, Any] | None = None,
) -> Path:
    """Writes all files of a model; `hub.save_directory` says what becomes of a model that was there.

    Args:
        directory: Made where missing; a model already there is replaced file by file, config.json last.
        config: As it was built, with the tokenizer's fingerprint; the backbone's name is dropped where it says nothing on
            another machine.
        backbone: The backbone; saved where it has no public address.
        tensors: Names and float32 tensors of model.safetensors.
        head: The segmentation head; None removes that of a model that was there.
        half: Store trunk, pixel decoder and head as float16: half the size; decoded pixels change in the last bit or two.
        evaluation: Measured figures for evaluation.json and the model card; None removes those of a model that was there.

    Returns:
        The directory.

    Raises:
        CheckpointError: `directory` is a file, the tokenizer was cast to another dtype, or a weight is NaN or infinite.
        OSError: It cannot be written, e.g. the disk is full; a model that was there is as it was.
    """
    directory = Path(directory).expanduser()
    stored = {name: _as_stored(name, tensor, half=half) for name, tensor in tensors.items()}
    public = is_public(config.backbone)
    config = dataclasses.replace(config, segmentation=None if head is None else head.config)
    local = {} if public else {"name": "", "pretrained": None}
    public_config = dataclasses.replace(config.backbone, fingerprint=backbone.fingerprint, **local)
    config = dataclasses.replace(config, backbone=public_config)
    card = model_card(config, fingerprint=config.fingerprint, evaluation=evaluation)
    with hub.save_directory(directory) as folder:
        hub.write_weights(folder / WEIGHTS_FILE, stored)
        if head is not None:
            halved = {name: _as_stored(name, tensor.float(), half=half) for name, tensor in head.tensors.items()}
            hub.write_weights(folder / HEAD_FILE, halved)
        if not public:
            backbone.save(folder / BACKBONE_FOLDER)
        if evaluation is not None:
            (folder / "evaluation.json").write_text(json.dumps(evaluation, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card, encoding="utf-8")
        hub.write_config(config, folder)
    for name, absent in (("evaluation.json", evaluation is None), (HEAD_FILE, head is None), (SELFCHECK_FILE, True)):
        if absent:
            (directory / name).unlink(missing_ok=True)
    return directory


def _as_stored(name: str, tensor: Tensor, *, half: bool) -> Tensor:
    """The tensor as a file holds it; codebooks are never halved, because ids depend on their last bits."""
    stored = _converted(name, tensor, half=half)
    advice = "the training or an edit broke them, or they do not fit float16 with half=True; save what was before"
    require_finite({name: stored}, stage="the weights to save", advice=advice, error=CheckpointError)
    return stored


def _converted(name: str, tensor: Tensor, *, half: bool) -> Tensor:
    if tensor.is_floating_point() and tensor.dtype != torch.float32:
        raise CheckpointError(
            f"expected a float32 tokenizer to save, got {tensor.dtype} in {name}, which has lost digits: load it without "
            "dtype="
        )
    return tensor.half() if half and not name.startswith("quantizer.") else tensor.float()


def backbone_folder(directory: Path, config: BackboneConfig) -> Path | None:
    """The folder of a saved model's backbone; None where the config names a public one.

    The config decides, not whether the folder exists: a model that was saved over another one can have a stale folder.
    """
    return directory / BACKBONE_FOLDER if config.kind == "open_clip" and not config.name else None


def is_public(public_config: BackboneConfig) -> bool:
    """Whether another machine finds the backbone by its config alone, which it does not where weights are a local file.

    Example:
        >>> is_public(BackboneConfig(name="ViT-B-16", pretrained="openai"))
        True
        >>> is_public(BackboneConfig(name="local-dir:my/backbone"))
        False
    """
    if public_config.kind == "toy" or public_config.name.startswith("hf-hub:"):
        return True
    return public_config.pretrained is not None and not Path(public_config.pretrained).expanduser().is_file()
