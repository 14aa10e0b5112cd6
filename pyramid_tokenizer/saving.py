"""The files of a saved model: config.json, the safetensors, README.md, evaluation.json and the tower's backbone/."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pyramid_tokenizer import hub
from pyramid_tokenizer.config import BackboneConfig, TokenizerConfig
from pyramid_tokenizer.model_card import model_card

WEIGHTS_FILE = "model.safetensors"
HEAD_FILE = "segmentation_head.safetensors"
TOWER_FOLDER = "backbone"


def write_model(
    directory: Path,
    config: TokenizerConfig,
    *,
    backbone: Any,
    tensors: Mapping[str, Tensor],
    head: Mapping[str, Tensor] | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> None:
    """Writes all files of a model; see `hub.save_directory` for what becomes of one that was there.

    Args:
        directory: Made where missing.
        config: As it was built, with the tokenizer's fingerprint; the tower's name is dropped where it says nothing on
            another machine.
        backbone: The tower; saved where it has no public address.
        tensors: Names and tensors of model.safetensors.
        head: Those of segmentation_head.safetensors; None removes that of a model that was there.
        evaluation: Measured figures; None removes those of a model that was there.

    Raises:
        CheckpointError: `directory` is a file.
        OSError: It cannot be written, e.g. the disk is full; a model that was there is as it was.
    """
    public = is_public(config.backbone)
    local = {} if public else {"name": "", "weights": None}
    tower = dataclasses.replace(config.backbone, fingerprint=backbone.fingerprint, **local)
    config = dataclasses.replace(config, backbone=tower)
    card = model_card(config, fingerprint=config.fingerprint, evaluation=evaluation)
    with hub.save_directory(directory) as folder:
        hub.write_weights(folder / WEIGHTS_FILE, tensors)
        if head is not None:
            hub.write_weights(folder / HEAD_FILE, head)
        if not public:
            backbone.save(folder / TOWER_FOLDER)
        if evaluation is not None:
            (folder / "evaluation.json").write_text(json.dumps(evaluation, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card, encoding="utf-8")
        hub.write_config(config, folder)
    for name, absent in (("evaluation.json", evaluation is None), (HEAD_FILE, head is None)):
        if absent:
            (directory / name).unlink(missing_ok=True)


def tower_folder(directory: Path, config: BackboneConfig) -> Path | None:
    """Where the tower of a saved model lies; None where its config names a public one.

    By the config, not by whether the folder is there: a model saved over another one can leave a stale folder.
    """
    return directory / TOWER_FOLDER if config.kind == "open_clip" and not config.name else None


def is_public(tower: BackboneConfig) -> bool:
    """Whether the config alone finds the tower on another machine: not where its weights are a file or folder here.

    Example:
        >>> is_public(BackboneConfig(name="ViT-B-16", weights="openai"))
        True
        >>> is_public(BackboneConfig(name="local-dir:my/tower"))
        False
    """
    if tower.kind == "toy" or tower.name.startswith("hf-hub:"):
        return True
    return tower.weights is not None and not Path(tower.weights).expanduser().is_file()
