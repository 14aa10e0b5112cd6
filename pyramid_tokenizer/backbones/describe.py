"""`describe_backbone`: the geometry of a backbone by its name, without its weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from pyramid_tokenizer.backbones.base import resolve_blocks
from pyramid_tokenizer.backbones.loading import name_backbone, published_weights, read_model_config
from pyramid_tokenizer.backbones.open_clip import find_reader, preset_blocks, probe
from pyramid_tokenizer.backbones.toy import ToyBackbone
from pyramid_tokenizer.config.models import BackboneConfig
from pyramid_tokenizer.errors import BackboneError

# The smallest text encoder: open_clip builds both or none.
_SMALL_TEXT = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneDescription:
    """The geometry of a backbone that is not loaded, under the names that `Backbone` has for a loaded one."""

    config: BackboneConfig
    """Names the backbone and the blocks that are read, absolute; `preset_config` takes it."""
    family: str
    """Class of the backbone, e.g. "VisionTransformer", "timm ConvNeXt"."""
    channels: tuple[int, ...]
    """Channels of each map that is read, deepest and coarsest first."""
    strides: tuple[int, ...]
    """Input pixels per cell of each."""
    num_blocks: int
    """Blocks that can be read."""
    multiple_px: int
    """Sides in multiples of this suit every output."""
    embedding_dim: int
    """D, dimensions of the space that images and words share."""
    dense_readings: tuple[str, ...]
    """Names of the dense readings that are defined, the default first."""
    num_parameters: int
    """Number of parameters of the backbone."""
    pretrained: tuple[str, ...]
    """Published weight tags; () where the name brings its own."""

    @property
    def has_dense(self) -> bool:
        """Whether the backbone has dense features."""
        return bool(self.dense_readings)


def describe_backbone(name: str, *, blocks: Sequence[int] = ()) -> BackboneDescription:
    """The geometry of a backbone, learned on torch's "meta" device, where tensors have shapes and no values.

    Takes a second for the largest ones. Only "hf-hub:..." asks the network, for a small file.

    Args:
        name: As for `name_backbone`.
        blocks: As in `BackboneConfig`; () takes the family's preset.

    Raises:
        BackboneError: The name is unknown (near ones are told), its description cannot be fetched, or the backbone reads one
            image size only.
        CheckpointError: A local folder's description cannot be used.
        ConfigError: `blocks` do not fit the backbone.

    Example:
        >>> backbone = describe_backbone("toy")
        >>> backbone.family, backbone.channels, backbone.strides, backbone.config.blocks
        ('ToyBackbone', (32, 24, 16, 8, 8), (32, 16, 8, 4, 4), (0, 1, 2, 3))
    """
    config = name_backbone(name, blocks=blocks)
    if config.kind == "toy":
        return _describe_toy(ToyBackbone(config))
    visual = _build_without_values(config.name, read_model_config(config.name))
    with torch.no_grad():
        backbone = find_reader(visual)
        found = probe(backbone, visual)
    read = resolve_blocks(blocks, preset=preset_blocks(found.strides), count=len(found.strides))
    channels, strides = found.select(read, stem=config.stem)
    return BackboneDescription(
        config=dataclasses.replace(config, blocks=read),
        family=f"timm {type(visual.trunk).__name__}" if hasattr(visual, "trunk") else type(visual).__name__,
        channels=channels,
        strides=strides,
        num_blocks=len(found.strides),
        multiple_px=found.strides[-1],
        embedding_dim=found.embedding_dim,
        dense_readings=backbone.dense_readings,
        num_parameters=sum(parameter.numel() for parameter in visual.parameters()),
        pretrained=published_weights(config.name),
    )


def _describe_toy(toy: ToyBackbone) -> BackboneDescription:
    return BackboneDescription(
        config=dataclasses.replace(toy.config, blocks=toy.blocks),
        family=type(toy).__name__,
        channels=toy.channels,
        strides=toy.strides,
        num_blocks=len(toy.kernels),
        multiple_px=toy.multiple_px,
        embedding_dim=toy.embedding_dim,
        dense_readings=toy.dense_readings,
        num_parameters=sum(parameter.numel() for parameter in toy.parameters()),
        pretrained=(),
    )


def _build_without_values(name: str, model_config: dict[str, Any]) -> Any:
    """The backbone of open_clip's description, in eval mode, on the "meta" device."""
    from open_clip.model import CLIP

    build: Any = CLIP  # takes plain dicts too
    try:
        with torch.device("meta"), _RealLinspace():
            model = build(
                embed_dim=model_config["embed_dim"],
                vision_cfg={**model_config["vision_cfg"], "timm_model_pretrained": False},
                text_cfg=_SMALL_TEXT,
            )
    except Exception as error:
        raise BackboneError(
            f"expected a backbone that the installed open_clip and timm can build for {name!r}, got {error}: install newer ones"
        ) from error
    return model.visual.eval()


class _RealLinspace(TorchFunctionMode):
    """Trunks of timm before 1.0.20 read their drop rates from a `torch.linspace`, which must have values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs.setdefault("device", "cpu")
        return func(*args, **kwargs)
