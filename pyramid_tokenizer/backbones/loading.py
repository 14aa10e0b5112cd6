"""`load_open_clip`: from a `BackboneConfig` to an `OpenClipBackbone`, by open_clip's own code. Never a random model."""

from __future__ import annotations

import functools
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from pyramid_tokenizer.backbones.fetch import HUB_CONFIG, HUB_WEIGHTS, Download, is_offline
from pyramid_tokenizer.backbones.open_clip import CONFIG_FILE, WEIGHTS_FILE, OpenClipBackbone
from pyramid_tokenizer.backbones.trust import (
    check_numbers,
    most_numbers,
    refuse_network,
    refuse_other_places,
    refuse_remote_code,
)
from pyramid_tokenizer.backbones.uninitialised import Uninitialised
from pyramid_tokenizer.checks.arguments import check_kind, check_path
from pyramid_tokenizer.config.models import BackboneConfig
from pyramid_tokenizer.errors import (
    BackboneError,
    CheckpointError,
    ConfigError,
    MissingExtraError,
    PyramidTokenizerError,
    did_you_mean,
)
from pyramid_tokenizer.files import load_json, refuse_lfs_pointer

_LOCAL, _HUB, _TOY = "local-dir:", "hf-hub:", "toy"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """Where open_clip finds one model."""

    name: str
    """The name for `open_clip.create_model`: of a model, or "local-dir:PATH"."""
    pretrained: str | None
    """The checkpoint file; None where it lies in the folder that `name` names."""
    options: dict[str, Any]
    """Further arguments of `create_model`."""

    @property
    def files(self) -> list[Path]:
        """The checkpoint file, or all that lies in the folder."""
        return [Path(self.pretrained)] if self.pretrained else list(Path(self.name.removeprefix(_LOCAL)).iterdir())


def load_open_clip(
    config: BackboneConfig, *, directory: Path | None = None, download: Download | None = None
) -> OpenClipBackbone:
    """The backbone that `config` names; see `load_backbone`.

    All files are fetched first, and open_clip then reads local files only: it has no way to leave the network alone.

    Raises:
        BackboneError: Unknown name or tag, no weights, nothing could be fetched, or a text network that transformers would look
            up on the Hub although only local files are named.
        CheckpointError: Weights that do not fit the model, are far too few for it, or cannot be read.
        ConfigError: `pretrained` beside a name that brings its own, or `blocks` that do not fit.
    """
    import open_clip

    download = download or Download()
    source = _local_source(Path(directory)) if directory is not None else _find_source(config, download)
    _refuse_lfs_pointers(source)
    has_files = directory is not None or config.name.startswith(_LOCAL)
    try:
        model_config: dict[str, Any] = open_clip.get_model_config(source.name) or {}
        refuse_remote_code(model_config, source.name)
        refuse_other_places(model_config, source.name)
        if source.name.startswith(_LOCAL):
            check_numbers(model_config, Path(source.name.removeprefix(_LOCAL)))
        if (has_files or download.local_files_only) and not is_offline():
            refuse_network(model_config, config.name or str(directory))
        with Uninitialised(most_numbers(source.files)):
            model = open_clip.create_model(
                source.name, source.pretrained, require_pretrained=True, weights_only=True, **source.options
            )
    except PyramidTokenizerError:
        raise
    except Exception as error:
        what = source.name if source.pretrained is None else f"{source.pretrained} of {source.name}"
        raise _explain(error, what) from error
    if source.options.get("force_quick_gelu"):
        model_config["quick_gelu"] = True
    tokenizer = functools.partial(load_text_tokenizer, source.name, model_config, None if has_files else download)
    try:
        return OpenClipBackbone(model, config=config, model_config=model_config, tokenizer=tokenizer)
    except (TypeError, ValueError, RuntimeError) as error:  # a mean that is no list of three numbers, for example
        raise error if isinstance(error, PyramidTokenizerError) else _explain(error, source.name) from error


def _refuse_lfs_pointers(source: _Source) -> None:
    """Raises CheckpointError where a file of the model, or of its text tokenizer, was not fetched by git-lfs."""
    for file in source.files:
        refuse_lfs_pointer(file, error=CheckpointError)


def load_text_tokenizer(
    name: str, model_config: Mapping[str, Any], download: Download | None
) -> Callable[[list[str]], Tensor]:
    """open_clip's tokenizer for the texts of a model, which turns N texts into ids (N, context length).

    Args:
        name: As `open_clip.get_tokenizer` takes it.
        model_config: The model's "model_cfg".
        download: How the files of a tokenizer that is not open_clip's own are fetched; None where they lie in the folder
            that `name` names.

    Raises:
        MissingExtraError: It needs the package transformers.
        BackboneError: Its files cannot be fetched.
    """
    import open_clip

    text = model_config.get("text_cfg", {})
    try:
        if download is None or not text.get("hf_tokenizer_name"):
            return open_clip.get_tokenizer(name)
        return open_clip.tokenizer.HFTokenizer(
            text["hf_tokenizer_name"],
            context_length=text.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH),
            tokenizer_mode=text.get("tokenizer_mode"),
            cache_dir=None if download.cache_dir is None else str(download.cache_dir),
            token=download.token,
            local_files_only=download.local_files_only,
            **text.get("tokenizer_kwargs", {}),
        )
    except ImportError as error:
        raise MissingExtraError(
            f"expected the package that this model's text tokenizer needs, got {error}: pip install transformers"
        ) from error
    except Exception as error:
        raise BackboneError(
            f"expected the text tokenizer of {name!r}, got {error}: check the network, or put its files beside the weights "
            "in a local directory"
        ) from error


def name_backbone(
    name: str | Path, *, pretrained: str | None = None, blocks: Sequence[int] = (), dense_reading: str = ""
) -> BackboneConfig:
    """The config of the backbone of that name, for `load_backbone`, with its stem, which the recipe reads; nothing is read yet.

    Args:
        name: An open_clip model name, "hf-hub:org/repo", a folder in open_clip's local-directory layout ("local-dir:PATH"
            or the path alone), or "toy".
        pretrained: A weight tag or a checkpoint file, beside an open_clip model name.
        blocks: As in `BackboneConfig`; () takes the family's preset.
        dense_reading: As in `BackboneConfig`; "" takes the family's default.

    Raises:
        ConfigError: `pretrained` beside a name that brings its own, or `blocks` not in increasing order.

    Example:
        >>> name_backbone("ViT-B-16", pretrained="openai").name, name_backbone("toy").kind
        ('ViT-B-16', 'toy')
    """
    check_path(name, name="the backbone's name")
    check_kind(blocks, Sequence, name="blocks", fix="write e.g. (3, 7, 11)")
    name, folder = os.fspath(name), os.path.expanduser(name)
    if os.path.isfile(os.path.join(folder, CONFIG_FILE)):
        name = f"{_LOCAL}{folder}"
    _check_weights(name, pretrained)
    if name == _TOY:
        return BackboneConfig(kind="toy", blocks=tuple(blocks), stem=True, dense_reading=dense_reading)
    return BackboneConfig(
        name=name, pretrained=pretrained, blocks=tuple(blocks), stem=True, dense_reading=dense_reading
    )


def read_model_config(name: str) -> dict[str, Any]:
    """open_clip's own description of a model. No weights are read, and only of "hf-hub:..." a small file is fetched.

    Args:
        name: As in `BackboneConfig`.

    Raises:
        BackboneError: The name is unknown (near ones are told) or nothing could be fetched.
    """
    import open_clip

    if name.startswith(_HUB):
        file = _fetched(lambda: Download().hub_file(name.removeprefix(_HUB), [HUB_CONFIG]), name)
        name = f"{_LOCAL}{file.parent}"
    elif name.startswith(_LOCAL):
        name = _local_source(Path(name.removeprefix(_LOCAL))).name
    else:
        name = _known_name(name)
    try:
        return open_clip.get_model_config(name) or {}
    except Exception as error:
        raise _explain(error, name) from error


def published_weights(name: str) -> tuple[str, ...]:
    """The weight tags that open_clip knows for a model name."""
    import open_clip

    return tuple(open_clip.list_pretrained_tags_by_model(name.replace("/", "-")))


def _check_weights(name: str, pretrained: str | None) -> None:
    if pretrained is not None and (name == _TOY or name.startswith((_LOCAL, _HUB))):
        raise ConfigError(
            f"expected no backbone.pretrained with the name {name!r}, which brings its own, got {pretrained!r}: set "
            "pretrained to None"
        )


def _find_source(config: BackboneConfig, download: Download) -> _Source:
    _check_weights(config.name, config.pretrained)
    if config.name.startswith(_LOCAL):
        return _local_source(Path(config.name.removeprefix(_LOCAL)))
    if config.name.startswith(_HUB):
        return _hub_source(config.name, download)
    return _named_source(_known_name(config.name), config.pretrained, download)


def _hub_source(name: str, download: Download) -> _Source:
    """The folder of the cache in which the Hub's client keeps the repository's files together."""
    repo_id = name.removeprefix(_HUB)
    file = _fetched(lambda: download.hub_file(repo_id, [HUB_CONFIG]), name)
    weights = _fetched(lambda: download.hub_file(repo_id, HUB_WEIGHTS), name)
    if weights.parent != file.parent:
        raise BackboneError(
            f"expected configuration and weights of {name!r} at one revision, got {file} and {weights}: the repository "
            "changed in between; try again"
        )
    return _local_source(file.parent)


def _fetched(fetch: Callable[[], Path], what: str) -> Path:
    try:
        return fetch()
    except Exception as error:
        raise BackboneError(
            f"expected to fetch the weights {what!r}, got {_reason(error)}: check the network (once the files are in "
            "the cache, local_files_only=True reads them there), or fetch the checkpoint elsewhere and give its path as "
            f"backbone.pretrained (or a folder as the name {_LOCAL}PATH)"
        ) from error


def _local_source(directory: Path) -> _Source:
    layout = f"a folder with {CONFIG_FILE} and {WEIGHTS_FILE}"
    if not os.path.isdir(directory):
        raise BackboneError(f"expected {layout}, got no folder {str(directory)!r}: correct the path")
    refuse_lfs_pointer(directory / CONFIG_FILE, error=CheckpointError)
    try:
        content = load_json((directory / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackboneError(f"expected {layout}, got {error}: restore the file") from error
    if not isinstance(content, dict) or not isinstance(content.get("model_cfg"), dict):
        raise BackboneError(f'expected a "model_cfg" in {str(directory / CONFIG_FILE)!r}, got none: restore the file')
    if not any(file.suffix in (".safetensors", ".bin", ".pth") for file in directory.iterdir()):
        raise BackboneError(f"expected {layout}, got no weights in {str(directory)!r}: put them there")
    return _Source(name=f"{_LOCAL}{directory}", pretrained=None, options={})


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


def _named_source(name: str, pretrained: str | None, download: Download) -> _Source:
    import open_clip

    tags = published_weights(name)
    if not pretrained:
        raise BackboneError(
            f"expected weights for {name!r}, got none, and a random backbone is of no use: set backbone.pretrained to a "
            f"checkpoint file or a tag (there are {_listing(tags)})"
        )
    file = Path(pretrained).expanduser()
    if open_clip.is_pretrained_cfg(name, pretrained):
        tag = open_clip.get_pretrained_cfg(name, pretrained)
        weights = _fetched(lambda: download.tagged_weights(tag), f"{pretrained} of {name}")
        # Some tags were trained with another activation than the model name implies; open_clip only warns about it.
        options = {"force_quick_gelu": bool(tag.get("quick_gelu", False)), "force_preprocess_cfg": tag}
        return _Source(name=name, pretrained=str(weights), options=options)
    if os.path.isfile(file):
        return _Source(name=name, pretrained=str(file), options=_normalisation_of(name, tags))
    hint = did_you_mean(pretrained, tags, otherwise=f"there are {_listing(tags)}")
    raise BackboneError(f"expected a weight tag of {name!r} or a checkpoint file, got {pretrained!r}: {hint}")


def _normalisation_of(name: str, tags: Sequence[str]) -> dict[str, Any]:
    """Mean and std for a checkpoint file, which does not hold them: those of the published weights, where all of them agree."""
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


def _reason(error: Exception) -> str:
    """What an error of another library says, on one line and not longer than a paragraph."""
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return reason if len(reason) <= 600 else f"{reason[:600]} ..."


def _explain(error: Exception, what: str) -> CheckpointError:
    """The error of ours for one that open_clip raised when it read the local files of what is named."""
    what, reason = repr(what), _reason(error)
    if isinstance(error, pickle.UnpicklingError):
        return CheckpointError(
            f"expected plain tensors in the weights {what}, got a file that would run code: {reason.split('.')[0]}; "
            "convert it to safetensors where you trust it"
        )
    if isinstance(error, SafetensorError) or "loading state_dict" in reason:
        return CheckpointError(
            f"expected weights that fit {what} exactly, got {reason}: restore the original file, or name its architecture"
        )
    return CheckpointError(
        f"expected weights that fit {what}, got {reason}: restore the original files, or name the architecture that they "
        "are of"
    )


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "no published ones"
