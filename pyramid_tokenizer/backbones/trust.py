"""Checks of open_clip's description of a model from elsewhere, before anything is built from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pyramid_tokenizer.errors import BackboneError, CheckpointError

_SPARE_NUMBERS = 1 << 24
"""Numbers that a backbone may have and its file has not: masks, and tables of positions."""
_LONGEST_TEXT, _LARGEST_IMAGE_PX = 8192, 8192
"""Above what any published model has; attention masks and tables of positions grow with their squares and are in no file."""


_TRUNK_NAME = re.compile(r"[^:/\\]+")
_REPOSITORY_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
"""A name, or an owner and a name, as the Hub has them."""


def refuse_remote_code(model_config: Mapping[str, Any], name: str) -> None:
    """Raises BackboneError where the description asks transformers to run code of a repository.

    Args:
        model_config: open_clip's "model_cfg".
        name: What errors call the model.
    """
    if any(key == "trust_remote_code" and value for key, value in _items(model_config)):
        raise BackboneError(
            f"expected a backbone that is described by data alone, got trust_remote_code in that of {name!r}: it would run "
            "code of its repository; take another model"
        )


def refuse_other_places(model_config: Mapping[str, Any], name: str) -> None:
    """Raises BackboneError where a network inside is named by an address or a path: timm or transformers would read there.

    Args:
        model_config: open_clip's "model_cfg".
        name: What errors call the model.
    """
    vision = model_config.get("vision_cfg")
    trunk = vision.get("timm_model_name") if isinstance(vision, Mapping) else None
    text = _text_network(model_config)
    for package, network, is_name in (("timm", trunk, _TRUNK_NAME), ("transformers", text, _REPOSITORY_NAME)):
        if network and not (isinstance(network, str) and is_name.fullmatch(network)):
            raise BackboneError(
                f"expected the name of a network of {package} in the description of {name!r}, got {network!r}, which is "
                "another place: take another model"
            )


def refuse_network(model_config: Mapping[str, Any], name: str) -> None:
    """Raises BackboneError where transformers would ask the Hub for the text network, which is named and not described.

    Args:
        model_config: open_clip's "model_cfg".
        name: What errors call the model, which must not ask the network.
    """
    if text := _text_network(model_config):
        raise BackboneError(
            f"expected a backbone that asks nothing of the network, got the text network {text!r} in the description of "
            f"{name!r}, which the package transformers looks up on the Hub: set HF_HUB_OFFLINE=1 before Python starts, so "
            "that it is taken from the cache, or take another model"
        )


def _text_network(model_config: Mapping[str, Any]) -> Any:
    text = model_config.get("text_cfg")
    return text.get("hf_model_name") if isinstance(text, Mapping) else None


def most_numbers(files: Iterable[Path]) -> int:
    """How many numbers a backbone may have whose weights are in these files: each takes a byte or more there."""
    return _SPARE_NUMBERS + sum(file.stat().st_size for file in files if file.is_file())


def check_numbers(model_config: Mapping[str, Any], folder: Path) -> None:
    """Refuses layers that need more numbers than the safetensors files hold, before any of them is allocated.

    The trunks of timm are named and not described: for these, only what stands in the description is checked, and `Uninitialised`
    counts while they are built.

    Args:
        model_config: open_clip's "model_cfg".
        folder: Where the weights are; pickles are the caller's own, and nothing is checked for them.

    Raises:
        CheckpointError: The description needs more, or has texts or images larger than any model has.
    """
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if not size:
        return
    text = model_config.get("text_cfg")
    for part in (model_config, model_config.get("vision_cfg"), text):
        for name, value in _items(part):
            most = {"context_length": _LONGEST_TEXT, "image_size": _LARGEST_IMAGE_PX}.get(name, size)
            if isinstance(value, (int, float)) and not -size <= value <= most:
                raise CheckpointError(
                    f"expected at most {most} as {name!r} in the backbone's description, by the size of its weights in "
                    f"{str(folder)!r}, got {value}: the two do not belong together or one was altered"
                )
    for part in (model_config.get("vision_cfg"), text):
        least = _least_numbers(part if isinstance(part, Mapping) else {})
        if least > size:
            raise CheckpointError(
                f"expected weights of more than {least} bytes by the backbone's description, got {size} in {str(folder)!r}: "
                "the two do not belong together or one was altered"
            )


def _least_numbers(part: Mapping[str, Any]) -> int:
    """Fewer numbers than a network of this width, so many layers and so large a vocabulary has."""
    width, layers, words = (part.get(name) for name in ("width", "layers", "vocab_size"))
    depth = sum(n for n in layers if isinstance(n, int)) if isinstance(layers, list) else layers
    wide = width if isinstance(width, int) else 0
    return wide * wide * (depth if isinstance(depth, int) else 0) + wide * (words if isinstance(words, int) else 0)


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys and values, at any depth; the items of a list go by the key of the list."""
    for key, inner in value.items() if isinstance(value, Mapping) else ():
        yield str(key), inner
        yield from _items(inner)
        if isinstance(inner, list):
            yield from ((str(key), item) for item in inner)
            yield from (found for item in inner for found in _items(item))
