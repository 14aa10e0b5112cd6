"""`Backbone`: what every frozen backbone offers. `load_backbone`: the backbone that a `BackboneConfig` names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pyramid_tokenizer.backbones.features import FeaturePyramid
from pyramid_tokenizer.config.models import BackboneConfig
from pyramid_tokenizer.errors import BackboneError, CapabilityError, CheckpointError, ConfigError, ImageValueError
from pyramid_tokenizer.images.checks import FLOATS, check_dense, check_finite

# Rounding may leave a pixel this far outside [0, 1]; 0..255 or already normalised pixels are far beyond it.
_RANGE_SLACK = 1e-3


class Backbone(Protocol):
    """A frozen backbone with a text encoder beside it. Implementations are `torch.nn.Module`s.

    Frozen means: no parameter requires a gradient, `forward` records none, and `.train()` leaves it in eval mode. It may
    be cast (`.to(torch.bfloat16)`): inputs follow the backbone's dtype, outputs are float32 all the same. Autocast is off
    inside, so that a training loop's precision never changes ids.
    """

    config: BackboneConfig
    """What it was loaded from."""
    blocks: tuple[int, ...]
    """Indices of the blocks that are read, shallow to deep; `config.blocks`, or the family's preset."""
    channels: tuple[int, ...]
    """Channels of each native map, deepest and coarsest first; with `config.stem` the stem's are the last."""
    strides: tuple[int, ...]
    """Input pixels per cell of each native map; never increases."""
    multiple_px: int
    """Sides in multiples of this suit every output; more than `strides[0]` when `config.blocks` leaves out the last one."""
    embedding_dim: int
    """D, dimensions of the space that images and words share."""
    fingerprint: str
    """SHA-256 (hex) of what determines the maps, taken once when the backbone was made: see `compute_fingerprint`."""
    dense_readings: tuple[str, ...]
    """Names of the dense readings that are defined for this backbone, the default (`config.dense_reading`, or the
    family's) first; () where there is none."""
    has_dense: bool
    """Whether the backbone has dense features: `bool(dense_readings)`."""

    def __call__(self, images: Tensor, *, with_dense: bool = False) -> FeaturePyramid:
        """The same as `forward`."""
        ...

    def forward(self, images: Tensor, *, with_dense: bool = False) -> FeaturePyramid:
        """Native feature maps of a batch.

        Args:
            images: (B, 3, H, W) float in [0, 1], RGB; H and W multiples of `strides[0]`. Normalisation happens inside.
            with_dense: Also fill `embedding` (B, D) and, where `has_dense`, `dense` (B, D, h, w) by the first of
                `dense_readings`. Runs the whole backbone: H and W must be multiples of `multiple_px`.

        Raises:
            ImageValueError: Another shape, dtype or range, NaN, or a size that is not a multiple.
        """
        ...

    def shallow(self, images: Tensor) -> Tensor:
        """The map of the shallowest block, for perceptual losses: a gradient flows to `images`, none to the frozen weights.

        Args:
            images: (B, 3, H, W) float, RGB; H and W multiples of that map's stride. Decoded images may overshoot [0, 1].

        Returns:
            (B, C, h, w) float32, the map of `blocks[0]` as `forward` gives it.

        Raises:
            ImageValueError: Another shape or dtype, or a size that is not a multiple.
        """
        ...

    def dense(self, images: Tensor, *, reading: str | None = None) -> Tensor:
        """The dense features: (B, D, h, w) float32, one vector of the joint space per location, not normalised.

        Args:
            images: As for `forward`; H and W multiples of `multiple_px`.
            reading: The name of a dense reading, one of `dense_readings`; None takes the first.

        Raises:
            CapabilityError: The backbone has no dense features, or not that reading of them.
            ImageValueError: As for `forward`.
        """
        ...

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """(N, D) float32 of unit norm, one row a text, on the backbone's device.

        Raises:
            ConfigError: A text is longer than the text network can read; the message quotes it.
        """
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """The module's frozen parameters."""
        ...

    def buffers(self) -> Iterator[Tensor]:
        """The module's buffers."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """The module's tensors by name."""
        ...

    def save(self, directory: Path, *, half: bool = True) -> None:
        """Writes what `load_backbone(config, directory=directory)` needs to give the same backbone and fingerprint.

        Args:
            directory: Made where it is missing.
            half: Store tensors as float16 where that loses nothing; the others stay as they are.
        """
        ...


RowReader = Callable[[int, Tensor, bool], None]
"""Takes the index of a map, coarse to fine, the next rows of it, (B, C, h, w) float32, and whether they are the last."""


class RowBackbone(Backbone, Protocol):
    """A backbone that may also read large images in bands of rows. One without this property reads them whole."""

    @property
    def runs_by_rows(self) -> bool:
        """Whether `by_rows` can be called. A ViT never can, as each of its patches attends to all others."""
        ...

    def by_rows(self, bands: Iterable[Tensor], read: RowReader, *, with_dense: bool = False) -> FeaturePyramid:
        """Runs on bands of a batch of large images, with the memory of a band, and hands on the rows of the maps as they come.

        Args:
            bands: (B, 3, h, W) each, as for `forward`, from the top; h and W multiples of `multiple_px`.
            read: Called with the index of a map, the next rows of it, and whether these are the last ones.
            with_dense: As for `forward`.

        Returns:
            `embedding` and `dense` of the whole batch, as `forward` gives them; `maps` is empty.

        Raises:
            CapabilityError: The backbone does not run by rows.
            ImageValueError: As for `forward`.
        """
        ...


def load_backbone(
    config: BackboneConfig,
    *,
    directory: Path | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Backbone:
    """The backbone that `config` names, with its weights.

    Args:
        config: `kind` "toy", or "open_clip" with one of: a model `name` and a weight tag or checkpoint file in
            `pretrained`; `name` "hf-hub:org/repo"; `name` "local-dir:PATH".
        directory: A folder in open_clip's local-directory layout (as `Backbone.save` writes it), in place of a name.
        token: Access token for private and gated Hub repositories; None uses that of `hf auth login`, False none at all.
        cache_dir: Folder that keeps downloaded files; None for the default folders of the Hub's client and of open_clip.
        local_files_only: Take files from the cache alone, and never ask the network.

    Raises:
        BackboneError: The name or tag is unknown (near ones are told), nothing names the weights, or they could not be
            fetched.
        CheckpointError: A weight is missing, extra, misshapen, unreadable, NaN or infinite, or the backbone is not the one whose
            `config.fingerprint` was stored.
        ConfigError: `config.blocks` or `config.dense_reading` does not fit the backbone.

    Example:
        >>> backbone = load_backbone(BackboneConfig(kind="toy"))
        >>> backbone.channels, backbone.strides
        ((32, 24, 16, 8), (32, 16, 8, 4))
    """
    backbone: Backbone
    if config.kind == "toy":
        from pyramid_tokenizer.backbones.toy import ToyBackbone

        backbone = ToyBackbone(config)
    else:
        from pyramid_tokenizer.backbones.fetch import Download
        from pyramid_tokenizer.backbones.loading import load_open_clip

        download = Download(token=token, cache_dir=cache_dir, local_files_only=local_files_only)
        backbone = load_open_clip(config, directory=directory, download=download)
    if config.fingerprint and config.fingerprint != backbone.fingerprint:
        raise CheckpointError(
            f"expected the backbone with fingerprint {config.fingerprint[:12]}..., got {backbone.fingerprint[:12]}...: its "
            "weights, normalisation or blocks were altered, and ids made with the two differ; restore the original files"
        )
    return backbone


def compute_fingerprint(state: Mapping[str, Tensor], **facts: Any) -> str:
    """SHA-256 (hex) of named tensors and facts, the same on every device and for every storage dtype that holds them.

    A backbone's fingerprint is this of its weights, and a tokenizer's is this of its codebooks with the backbone's among the
    facts. Both are taken from weights as they are stored, before a cast that would round them.

    Args:
        state: Parameters and buffers by name; counters of batches (`num_batches_tracked`) determine nothing and are passed
            over. Each contributes its name, its shape and its values as little-endian float32.
        facts: JSON-ready values that count too, e.g. normalisation and blocks read.

    Example:
        >>> halves = torch.tensor([0.5, 0.25])
        >>> compute_fingerprint({"a": halves}) == compute_fingerprint({"a": halves.half()})
        True
        >>> compute_fingerprint({"a": halves}) == compute_fingerprint({"a": halves}, blocks=[1])
        False
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        if name.endswith("num_batches_tracked"):
            continue
        tensor = state[name].detach().to(device="cpu", dtype=torch.float32).contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().astype("<f4", copy=False).tobytes())
    digest.update(json.dumps(facts, sort_keys=True).encode())
    return digest.hexdigest()


def check_images(images: Tensor, *, multiple: int, any_range: bool = False) -> None:
    """Raises ImageValueError unless `images` is (B, 3, H, W) float with H and W multiples of `multiple`, in [0, 1].

    Args:
        images: What a caller gave.
        multiple: In pixels.
        any_range: Take any values.
    """
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ImageValueError(
            f"expected images of shape (B, 3, H, W), got {tuple(images.shape)}: stack RGB images, channels first"
        )
    check_dense(images)
    if images.dtype not in FLOATS:
        raise ImageValueError(f"expected float images in [0, 1], got {images.dtype}: divide 0..255 by 255")
    height, width = images.shape[-2:]
    if height % multiple or width % multiple:
        raise ImageValueError(
            f"expected height and width in multiples of {multiple} px, got {height}x{width}: pad the batch at the right "
            "and bottom by repeating its edge (PyramidTokenizer.encode does)"
        )
    if any_range or torch.compiler.is_compiling():
        return  # a graph cannot branch on pixel values
    low, high = (float(value) for value in images.detach().aminmax())
    check_finite(low, high)
    if not (low >= -_RANGE_SLACK and high <= 1 + _RANGE_SLACK):
        raise ImageValueError(
            f"expected pixels in [0, 1], got [{low:.4g}, {high:.4g}]: divide 0..255 by 255, leave normalisation to the "
            "backbone"
        )


def check_texts(texts: Sequence[str]) -> list[str]:
    """`texts` as a list. Raises BackboneError for one bare string, which would be read letter by letter."""
    if isinstance(texts, str):
        raise BackboneError(f"expected a list of texts, got the string {texts!r}: write [{texts!r}]")
    return list(texts)


def resolve_blocks(blocks: Sequence[int], *, preset: Sequence[int], count: int) -> tuple[int, ...]:
    """Absolute block indices, shallow to deep: `preset` for (), negative ones counted from the end.

    Raises:
        ConfigError: An index outside the backbone's `count` blocks, or not in increasing order.

    Example:
        >>> resolve_blocks((-2, -1), preset=(0, 1), count=12)
        (10, 11)
    """
    absolute = tuple(block + count if block < 0 else block for block in (blocks or preset))
    in_range = all(0 <= block < count for block in absolute)
    if not in_range or list(absolute) != sorted(set(absolute)):
        raise ConfigError(
            f"expected backbone.blocks as increasing indices below {count}, the backbone's blocks, got {tuple(blocks)}: "
            f"() takes the preset {tuple(preset)}"
        )
    return absolute


def order_readings(chosen: str, readings: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a backbone's dense readings, the chosen one first: `Backbone.dense_readings`.

    Args:
        chosen: `BackboneConfig.dense_reading`; "" keeps the family's order.
        readings: Names of those that are defined for the backbone.

    Raises:
        ConfigError: `chosen` is not among them.

    Example:
        >>> order_readings("kk", ("vv", "kk", "v"))
        ('kk', 'vv', 'v')
    """
    if chosen and chosen not in readings:
        known = f"one of {', '.join(readings)}" if readings else "empty, for a backbone without dense features"
        raise ConfigError(f'expected backbone.dense_reading {known}, got {chosen!r}: "" takes the backbone\'s default')
    return readings if not chosen else (chosen, *(reading for reading in readings if reading != chosen))


def check_reading(reading: str | None, readings: tuple[str, ...], *, backbone: str, no_dense_reason: str = "") -> str:
    """The name of the dense reading to compute: `reading`, or the first of `readings` for None.

    Args:
        reading: What a caller asked for.
        readings: `Backbone.dense_readings`.
        backbone: A description of the backbone for messages.
        no_dense_reason: Why there are none, a clause that follows "whose".

    Raises:
        CapabilityError: No dense reading is defined for the backbone, or not this one.

    Example:
        >>> check_reading(None, ("vv", "kk"), backbone="ViT-B-16")
        'vv'
    """
    if not readings:
        raise CapabilityError(
            f"expected a backbone with dense features, got {backbone}, whose {no_dense_reason}: check `has_dense`, or use "
            "a ViT, SigLIP, EVA, ConvNeXt, MobileCLIP or ResNet model"
        )
    if reading is not None and reading not in readings:
        raise CapabilityError(
            f"expected one of the dense readings of {backbone}, {', '.join(readings)}, got {reading!r}: name one of "
            "them, or leave reading out for the first"
        )
    return reading or readings[0]
