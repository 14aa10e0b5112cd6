"""From a config and files to ready modules: the one place that reads a `TokenizerConfig` to build something."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyramid_tokenizer.backbones import Backbone, load_backbone
from pyramid_tokenizer.config.models import Composition, LevelConfig, TokenizerConfig
from pyramid_tokenizer.decoder.pixels import PixelDecoder
from pyramid_tokenizer.decoder.trunk import TopDownTrunk
from pyramid_tokenizer.hub.directory import WEIGHTS_FILE, backbone_folder, read_config
from pyramid_tokenizer.hub.limits import check_own_files
from pyramid_tokenizer.hub.resolve import resolve_model
from pyramid_tokenizer.quantizer.recipe import preset_config


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFiles:
    """A saved model: its config, its frozen backbone, and the directory with its trained tensors."""

    config: TokenizerConfig
    directory: Path
    backbone: Backbone

    @property
    def weights_file(self) -> Path:
        """Where the trained tensors are."""
        return self.directory / WEIGHTS_FILE


def open_model(
    name: str | Path,
    *,
    token: str | bool | None = None,
    subfolder: str = "",
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> ModelFiles:
    """Finds a model and loads its backbone; arguments and errors as for `PyramidTokenizer.from_pretrained`."""
    download: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    directory = resolve_model(name, subfolder=subfolder, revision=revision, **download)
    config = read_config(directory)
    check_own_files(config, directory)
    backbone = load_backbone(config.backbone, directory=backbone_folder(directory, config.backbone), **download)
    return ModelFiles(config=config, directory=directory, backbone=backbone)


def build_config(
    backbone: Backbone,
    *,
    levels: Sequence[LevelConfig] = (),
    composition: Composition = "residual",
    image_codebooks: Sequence[int] | None = None,
) -> TokenizerConfig:
    """The config of a new tokenizer on a loaded backbone; arguments and errors as for `preset_config`."""
    return preset_config(
        dataclasses.replace(backbone.config, blocks=backbone.blocks),
        strides=backbone.strides,
        levels=levels,
        composition=composition,
        image_codebooks=image_codebooks,
    )


def build_trunk(config: TokenizerConfig) -> TopDownTrunk:
    """An untrained trunk. It reads no detail levels: those reach the pixel decoder by the linear reconstruction."""
    base_levels = config.quantizer.levels[: config.quantizer.base_levels]
    return TopDownTrunk(
        dims=[level.dim for level in base_levels],
        strides=[level.stride for level in base_levels],
        widths=config.decoder.widths,
        depths=config.decoder.depths,
    )


def build_pixel_decoder(config: TokenizerConfig) -> PixelDecoder:
    """A pixel decoder that still gives the linear reconstruction.

    Raises:
        ConfigError: The stride of the finest level that the trunk reads does not allow as many pixel stages.
    """
    return PixelDecoder(
        in_channels=config.decoder.widths[-1],
        stride=config.quantizer.levels[config.quantizer.base_levels - 1].stride,
        widths=config.decoder.pixel_widths,
        depth=config.decoder.pixel_depth,
    )
