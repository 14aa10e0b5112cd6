"""`load_open_clip`: from a `BackboneConfig` to an `OpenClipBackbone`, by open_clip's own loading code. Never a random model."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from pyramid_tokenizer.backbones.open_clip import CONFIG_FILE, WEIGHTS_FILE, OpenClipBackbone
from pyramid_tokenizer.config.models import BackboneConfig
from pyramid_tokenizer.errors import (
    BackboneError,
    CheckpointError,
    ConfigError,
    PyramidTokenizerError,
    did_you_mean,
)

_LOCAL, _HUB, _TOY = "local-dir:", "hf-hub:", "toy"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """Where open_clip finds one model."""

    name: str
    """For `open_clip.create_model` and `get_tokenizer`."""
    pretrained: str | None
    """Tag or file; None where `name` says it all."""
    is_local: bool
    """No network is needed, so a failure is the files' fault."""
    options: dict[str, Any]
    """Further arguments of `create_model`."""


def load_open_clip(config: BackboneConfig, *, directory: Path | None = None) -> OpenClipBackbone:
    """The backbone that `config` names; see `load_backbone`.

    Raises:
        BackboneError: Unknown name or tag, no weights, or nothing could be fetched.
        CheckpointError: Weights that do not fit the model or cannot be read.
        ConfigError: `pretrained` beside a name that brings its own, or `blocks` that do not fit.
    """
    import open_clip

    source = _local_source(Path(directory)) if directory is not None else _find_source(config)
    try:
        model_config: dict[str, Any] = open_clip.get_model_config(source.name) or {}
        model = open_clip.create_model(
            source.name, source.pretrained, require_pretrained=True, weights_only=True, **source.options
        )
    except Exception as error:
        raise _explain(error, source) from error
    if source.options.get("force_quick_gelu"):
        model_config["quick_gelu"] = True
    return OpenClipBackbone(model, config=config, model_config=model_config, tokenizer=source.name)


def name_backbone(
    name: str, *, pretrained: str | None = None, blocks: Sequence[int] = (), dense_reading: str = ""
) -> BackboneConfig:
    """The config of the backbone of that name, for `load_backbone`; nothing is read yet.

    Args:
        name: An open_clip model name, "hf-hub:org/repo", a folder in open_clip's local-directory layout ("local-dir:PATH"
            or the path alone), or "toy".
        pretrained: A weight tag or a checkpoint file, beside an open_clip model name.
        blocks: As in `BackboneConfig`; () takes the family's preset.
        dense: As in `BackboneConfig`; "" takes the family's default.

    Raises:
        ConfigError: `pretrained` beside a name that brings its own, or `blocks` not in increasing order.

    Example:
        >>> name_backbone("ViT-B-16", pretrained="openai").name, name_backbone("toy").kind
        ('ViT-B-16', 'toy')
    """
    folder = Path(name).expanduser()
    if (folder / CONFIG_FILE).is_file():
        name = f"{_LOCAL}{folder}"
    _check_weights(name, pretrained)
    if name == _TOY:
        return BackboneConfig(kind="toy", blocks=tuple(blocks), dense_reading=dense_reading)
    return BackboneConfig(name=name, pretrained=pretrained, blocks=tuple(blocks), dense_reading=dense_reading)


def read_model_config(name: str) -> dict[str, Any]:
    """open_clip's own description of a model. No weights are read, and only of "hf-hub:..." a small file is fetched.

    Args:
        name: As in `BackboneConfig`.

    Raises:
        BackboneError: The name is unknown (near ones are told) or nothing could be fetched.
    """
    import open_clip

    source = _own_source(name) or _Source(name=_known_name(name), pretrained=None, is_local=True, options={})
    try:
        return open_clip.get_model_config(source.name) or {}
    except Exception as error:
        raise _explain(error, source) from error


def published_weights(name: str) -> tuple[str, ...]:
    """The weight tags that open_clip knows for a model name."""
    import open_clip

    return tuple(open_clip.list_pretrained_tags_by_model(name.replace("/", "-")))


def _check_weights(name: str, pretrained: str | None) -> None:
    if pretrained is not None and (name == _TOY or name.startswith((_LOCAL, _HUB))):
        raise ConfigError(
            f"expected no backbone.pretrained with the name {name!r}, which brings its own, got {pretrained!r}: set pretrained to None"
        )


def _find_source(config: BackboneConfig) -> _Source:
    _check_weights(config.name, config.pretrained)
    return _own_source(config.name) or _named_source(_known_name(config.name), config.pretrained)


def _own_source(name: str) -> _Source | None:
    """For a name that brings its own weights."""
    if name.startswith(_LOCAL):
        return _local_source(Path(name.removeprefix(_LOCAL)))
    return _Source(name=name, pretrained=None, is_local=False, options={}) if name.startswith(_HUB) else None


def _local_source(directory: Path) -> _Source:
    layout = f"a folder with {CONFIG_FILE} and {WEIGHTS_FILE}"
    if not directory.is_dir():
        raise BackboneError(f"expected {layout}, got no folder {str(directory)!r}: correct the path")
    try:
        content = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackboneError(f"expected {layout}, got {error}: restore the file") from error
    if not isinstance(content, dict) or not isinstance(content.get("model_cfg"), dict):
        raise BackboneError(f'expected a "model_cfg" in {str(directory / CONFIG_FILE)!r}, got none: restore the file')
    if not any(file.suffix in (".safetensors", ".bin", ".pth") for file in directory.iterdir()):
        raise BackboneError(f"expected {layout}, got no weights in {str(directory)!r}: put them there")
    return _Source(name=f"{_LOCAL}{directory}", pretrained=None, is_local=True, options={})


def _known_name(name: str) -> str:
    import open_clip

    known = name.replace("/", "-")
    if known not in open_clip.list_models():
        hint = did_you_mean(known, open_clip.list_models(), otherwise="see open_clip.list_models()")
        raise BackboneError(
            f"expected an open_clip model name, {_HUB}org/repo, {_LOCAL}PATH or a directory with {CONFIG_FILE}, got "
            f"{name!r}: {hint}"
        )
    return known


def _named_source(name: str, pretrained: str | None) -> _Source:
    import open_clip

    tags = published_weights(name)
    if not pretrained:
        raise BackboneError(
            f"expected weights for {name!r}, got none, and a random backbone is of no use: set backbone.pretrained to a "
            f"checkpoint file or a tag (there are {_listing(tags)})"
        )
    file = Path(pretrained).expanduser()
    if open_clip.is_pretrained_cfg(name, pretrained):
        # Some tags were trained with an activation that the plain model name does not say; open_clip only warns.
        quick_gelu = bool(open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu", False))
        return _Source(name=name, pretrained=pretrained, is_local=False, options={"force_quick_gelu": quick_gelu})
    if file.is_file():
        return _Source(name=name, pretrained=str(file), is_local=True, options=_normalisation_of(name, tags))
    hint = did_you_mean(pretrained, tags, otherwise=f"there are {_listing(tags)}")
    raise BackboneError(f"expected a weight tag of {name!r} or a checkpoint file, got {pretrained!r}: {hint}")


def _normalisation_of(name: str, tags: Sequence[str]) -> dict[str, Any]:
    """A bare file does not say its mean and std; where all published weights of the model agree on one, it is that."""
    import open_clip

    known = {
        tuple(tuple(cfg[key]) for key in ("mean", "std"))
        for cfg in (open_clip.get_pretrained_cfg(name, tag) for tag in tags)
        if cfg.get("mean") and cfg.get("std")
    }
    if len(known) != 1:
        return {}
    mean, std = known.pop()
    return {"force_preprocess_cfg": {"mean": mean, "std": std}}


def _explain(error: Exception, source: _Source) -> PyramidTokenizerError:
    """The error of ours for one that open_clip raised."""
    what = f"{source.name!r}" if source.pretrained is None else f"{source.pretrained!r} of {source.name!r}"
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    reason = reason if len(reason) <= 600 else f"{reason[:600]} ..."
    if isinstance(error, pickle.UnpicklingError):
        return CheckpointError(
            f"expected plain tensors in the weights {what}, got a file that would run code: {reason.split('.')[0]}; "
            "convert it to safetensors where you trust it"
        )
    if isinstance(error, SafetensorError) or "loading state_dict" in reason:
        return CheckpointError(
            f"expected weights that fit {what} exactly, got {reason}: restore the original file, or name its architecture"
        )
    if source.is_local:
        return CheckpointError(
            f"expected weights that fit {what}, got {reason}: restore the original files, or name the architecture that they "
            "are of"
        )
    return BackboneError(
        f"expected to fetch the weights {what}, got {reason}: check the network, or fetch the checkpoint elsewhere and "
        f"give its path as backbone.pretrained (or a folder as the name {_LOCAL}PATH)"
    )


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "no published ones"
