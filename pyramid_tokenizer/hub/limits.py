"""Checks of a model's config before anything is built from it.

A model from elsewhere reads its own files only, and takes no more memory than its weights justify.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from pyramid_tokenizer.config.models import SegmentationConfig, TokenizerConfig
from pyramid_tokenizer.errors import CheckpointError, ConfigError
from pyramid_tokenizer.files import refuse_lfs_pointer
from pyramid_tokenizer.hub.weights import load_weights

BACKBONE_FILES = ".safetensors"
"""The ending of the weights in a saved model's backbone/ folder."""


def check_own_files(config: TokenizerConfig, directory: Path) -> None:
    """Refuses a model whose config names files of this machine, or whose backbone/ folder has no safetensors file.

    Args:
        config: Of a saved model.
        directory: Its folder.

    Raises:
        ConfigError: The backbone is a path. No saved model has one: its backbone is public, or lies in backbone/.
        CheckpointError: The weights in backbone/ are a pickle, or missing.
    """
    backbone = config.backbone
    if backbone.kind != "open_clip":
        return
    is_path = backbone.name.startswith("local-dir:") or Path(backbone.pretrained or "").expanduser().is_file()
    if is_path or "\0" in f"{backbone.name}{backbone.pretrained}":
        raise ConfigError(
            f"expected a public backbone, or none and a folder backbone/, in the config of the model {str(directory)!r}, got "
            f"{backbone.name!r} with {backbone.pretrained!r}: a saved model names no file outside its folder"
        )
    folder = directory / "backbone"
    if not backbone.name and folder.is_dir() and not any(folder.glob(f"*{BACKBONE_FILES}")):
        found = sorted(path.name for path in folder.iterdir())
        raise CheckpointError(
            f"expected the backbone's weights as a safetensors file in {str(folder)!r}, got {found[:5]}: pickles are not read; "
            "save the model again"
        )


def check_sizes(config: TokenizerConfig, *, embedding_dim: int, file: Path) -> None:
    """Refuses a config that needs more numbers than the file of its weights holds, before any of them is allocated.

    Args:
        config: Of a saved model.
        embedding_dim: D of its backbone.
        file: Its model.safetensors.

    Raises:
        CheckpointError: The file is missing, or too small for the config.
    """
    _check_file(_least_numbers(config, embedding_dim), file)


def check_head_size(config: TokenizerConfig, *, embedding_dim: int, file: Path) -> None:
    """As `check_sizes`, for the segmentation head.

    Args:
        config: Of a saved model that has a head.
        embedding_dim: D of its backbone.
        file: Its segmentation_head.safetensors.

    Raises:
        CheckpointError: The file is missing, or too small for the config.
    """
    head = config.segmentation or SegmentationConfig()
    _check_file(head.width * embedding_dim + _blocks(head.width, head.depth), file)


def _check_file(numbers: int, file: Path) -> None:
    if not file.is_file():
        load_weights(file)  # says that it is missing
    refuse_lfs_pointer(file, error=CheckpointError)
    size = file.stat().st_size
    if numbers > size:  # each number takes a byte or more
        raise CheckpointError(
            f"expected a file of more than {numbers} bytes for the layers that config.json describes, got {size} in "
            f"{str(file)!r}: the file and its config.json do not belong together or one was altered"
        )


def _least_numbers(config: TokenizerConfig, embedding_dim: int) -> int:
    """Fewer numbers than the tensors of the config have; biases and the inputs of adapters are left out."""
    quantizer, decoder = config.quantizer, config.decoder
    finest = quantizer.levels[quantizer.base_levels - 1].stride
    levels = sum(
        level.dim * (level.codebook_size + 3 * min(level.stride, finest) ** 2 + embedding_dim + len(level.maps))
        for level in quantizer.levels
    )
    base = quantizer.levels[: quantizer.base_levels]
    trunk = sum(level.dim * width for level, width in zip(base, decoder.widths, strict=False))
    trunk += sum(_blocks(width, depth) for width, depth in zip(decoder.widths, decoder.depths, strict=True))
    narrow = [decoder.widths[-1], *decoder.pixel_widths]
    pixels = sum(4 * a * b for a, b in itertools.pairwise(narrow))
    pixels += sum(_blocks(width, decoder.pixel_depth) for width in decoder.pixel_widths)
    return levels + trunk + sum(a * b for a, b in itertools.pairwise(decoder.widths)) + pixels


def _blocks(width: int, depth: int) -> int:
    """Numbers of residual blocks: two convolutions of 3 x 3 each."""
    return 18 * depth * width**2
