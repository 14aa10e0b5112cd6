"""`OpenClipBackbone`: an open_clip model as a frozen backbone that gives feature pyramids. Imports open_clip when first used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyramid_tokenizer.backbones.base import (
    RowReader,
    check_images,
    check_reading,
    check_texts,
    compute_fingerprint,
    order_readings,
    resolve_blocks,
)
from pyramid_tokenizer.backbones.by_rows import STEM, Reaches, measure_reaches, run_by_rows
from pyramid_tokenizer.backbones.features import FeaturePyramid
from pyramid_tokenizer.backbones.reader import MapReader, run_small
from pyramid_tokenizer.backbones.resnet import ResNetReader
from pyramid_tokenizer.backbones.stem import find_stem, keep_stem, watch_stem
from pyramid_tokenizer.backbones.text_length import check_text_length
from pyramid_tokenizer.backbones.timm import TimmReader
from pyramid_tokenizer.backbones.vit import VitReader
from pyramid_tokenizer.checks.devices import exact_float32
from pyramid_tokenizer.checks.finite import require_finite
from pyramid_tokenizer.config.models import BackboneConfig
from pyramid_tokenizer.errors import BackboneError, CapabilityError, CheckpointError
from pyramid_tokenizer.files import replacing


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """Channels and strides of the maps of a backbone's blocks, shallow to deep, and of its stem."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    embedding_dim: int
    stem: str
    """Name of the convolution that is the stem."""
    stem_channels: int
    stem_stride: int

    def select(self, blocks: Sequence[int], *, stem: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Channels and strides, coarse to fine, of the maps of `blocks` (shallow to deep) and, where asked for, of the stem."""
        channels = [self.channels[block] for block in reversed(blocks)] + [self.stem_channels] * stem
        strides = [self.strides[block] for block in reversed(blocks)] + [self.stem_stride] * stem
        return tuple(channels), tuple(strides)


def find_reader(visual: nn.Module) -> MapReader:
    """The family of an open_clip model's `visual`.

    Raises:
        BackboneError: No adapter for its class.
    """
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    if isinstance(visual, VisionTransformer):
        return VitReader(visual)
    if isinstance(visual, ModifiedResNet):
        return ResNetReader(visual)
    if isinstance(visual, TimmModel) and hasattr(visual.trunk, "forward_intermediates"):
        return TimmReader(visual)
    kind = type(getattr(visual, "trunk", visual)).__name__
    raise BackboneError(
        f"expected a ViT, a ModifiedResNet or a timm trunk with forward_intermediates, got {kind}: use another model"
    )


def probe(reader: MapReader, visual: nn.Module) -> Probe:
    """Runs one small black image of `visual`'s device and dtype through the whole backbone.

    Args:
        reader: Of the backbone's family.
        visual: The backbone itself.

    Raises:
        BackboneError: The backbone cannot read another size than its own, its maps do not form a pyramid, or it has no stem.
    """
    weight, side = next(visual.parameters()), reader.probe_px
    stem = find_stem(visual)
    first = run_small(visual.get_submodule(stem), side, weight)
    output = run_small(lambda x: reader.with_dense(x, None), side, weight)
    maps = [first, *output.maps]
    grids = [tuple(m.shape[-2:]) for m in maps]
    strides = tuple(side // height for height, _ in grids)
    square = all(grid == (side / stride, side / stride) for grid, stride in zip(grids, strides, strict=True))
    if not square or list(strides) != sorted(strides):
        raise BackboneError(f"expected maps that never grow with depth, got grids {grids}: use another model")
    return Probe(
        channels=tuple(m.shape[1] for m in output.maps),
        strides=strides[1:],
        embedding_dim=output.embedding.shape[-1],
        stem=stem,
        stem_channels=first.shape[1],
        stem_stride=strides[0],
    )


def preset_blocks(strides: Sequence[int]) -> tuple[int, ...]:
    """Which blocks to read by default, given the stride of each, shallow to deep.

    A backbone of one stride (a ViT): four blocks, evenly spaced, ending at the last. Otherwise the deepest block of every
    stride from 4 on: a stem of stride 2 costs memory and a codebook that no rate of interest can pay.

    Example:
        >>> preset_blocks([16] * 12), preset_blocks([2, 4, 4, 8, 16, 32])
        ((2, 5, 8, 11), (2, 3, 4, 5))
    """
    count = len(strides)
    if len(set(strides)) == 1:
        return tuple(sorted({max(0, (i + 1) * count // 4 - 1) for i in range(4)}))
    deepest = {stride: block for block, stride in enumerate(strides)}
    return tuple(block for stride, block in deepest.items() if stride >= min(4, strides[-1]))


CONFIG_FILE = "open_clip_config.json"


WEIGHTS_FILE = "open_clip_model.safetensors"


_TEXTS_PER_BATCH = 256


class OpenClipBackbone(nn.Module):
    """Any open_clip model with a ViT, ModifiedResNet or timm backbone. `load_backbone` makes one; see `Backbone`.

    Maps are what the backbone's blocks put out, before any final norm, and, with `config.stem`, its first convolution before any
    norm. Sizes other than the backbone's own are read by resampling its position embeddings on the fly; the stored weights never
    change.
    """

    def __init__(
        self, model: nn.Module, *, config: BackboneConfig, model_config: dict[str, Any], tokenizer: Callable[[], Any]
    ):
        """Freezes `model` and learns its blocks from one small black image.

        Args:
            model: An open_clip model with its weights loaded, float32.
            config: What it was loaded from; only `blocks`, `stem` and `dense_reading` matter here.
            model_config: The "model_cfg" that open_clip builds it from; `save` writes it.
            tokenizer: Makes open_clip's text tokenizer; called at the first `encode_text`.

        Raises:
            BackboneError: The backbone is of an unknown family or reads one size only.
            CheckpointError: A weight is NaN or infinite.
            ConfigError: `config.blocks` or `config.dense_reading` does not fit it.
        """
        super().__init__()
        advice = "restore the original file or train the model again"
        require_finite(model.state_dict(), stage="the backbone's weights", advice=advice, error=CheckpointError)
        self.config = config
        self.model: Any = model.requires_grad_(False)
        self.eval()
        self._model_config = model_config
        self._make_tokenizer = tokenizer
        self._tokenizer: Any = None
        visual = self.model.visual
        self._preprocess = dict(visual.preprocess_cfg)
        self._mean = tuple(float(value) for value in self._preprocess["mean"])
        self._std = tuple(float(value) for value in self._preprocess["std"])
        if len(self._mean) != 3 or len(self._std) != 3 or not all(0 < value < 1e6 for value in self._std):
            raise BackboneError(
                f"expected mean and std of three channels, std above 0, got {self._mean}, {self._std}: restore the files"
            )
        with torch.no_grad():
            self._reader = find_reader(visual)
            found = probe(self._reader, visual)
        count = len(found.strides)
        self.blocks = resolve_blocks(config.blocks, preset=preset_blocks(found.strides), count=count)
        self.multiple_px = found.strides[-1]
        self.channels, self.strides = found.select(self.blocks, stem=config.stem)
        self._shallow_px = found.strides[self.blocks[0]]
        self._stem = found.stem
        if config.stem:
            watch_stem(visual, found.stem)
        self._reaches: tuple[Reaches | None] | None = None
        self.embedding_dim = found.embedding_dim
        self.dense_readings = order_readings(config.dense_reading, self._reader.dense_readings)
        self.has_dense = bool(self.dense_readings)
        self.fingerprint = self._compute_fingerprint()

    def forward(self, images: Tensor, *, with_dense: bool = False) -> FeaturePyramid:
        """Maps of a (B, 3, H, W) float batch in [0, 1]; with `with_dense` also its embedding and dense features."""
        if with_dense:
            return self._with_dense(images, self.dense_readings[0] if self.has_dense else None)
        check_images(images, multiple=self.strides[0])
        with torch.no_grad(), exact_float32(), torch.autocast(images.device.type, enabled=False):
            with keep_stem() as kept:
                maps = self._reader.maps(self._normalise(images), self.blocks)
            maps = self._coarse_to_fine(maps, kept)
        return FeaturePyramid(maps=maps, strides=self.strides)

    def _with_dense(self, images: Tensor, reading: str | None) -> FeaturePyramid:
        check_images(images, multiple=self.multiple_px)
        with torch.no_grad(), exact_float32(), torch.autocast(images.device.type, enabled=False):
            with keep_stem() as kept:
                output = self._reader.with_dense(self._normalise(images), self.blocks, reading=reading)
            maps = self._coarse_to_fine(output.maps, kept)
        return FeaturePyramid(
            maps=maps,
            strides=self.strides,
            embedding=output.embedding.float(),
            dense=output.dense.float() if output.dense is not None else None,
        )

    def _coarse_to_fine(self, maps: Sequence[Tensor], stem: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The maps of blocks, shallow to deep, in the order of `strides` and in float32, with the stem where it is read."""
        return tuple(m.float() for m in (*reversed(maps), *stem[: self.config.stem]))

    @property
    def runs_by_rows(self) -> bool:
        """Whether `by_rows` is possible: the backbone is a chain of units, which is tried at the first call."""
        return self._measured() is not None

    def by_rows(self, bands: Iterable[Tensor], read: RowReader, *, with_dense: bool = False) -> FeaturePyramid:
        """Reads an image in bands of rows; see `Backbone`."""
        reaches, chain = self._measured(), self._reader.chain()
        if reaches is None or chain is None:
            raise CapabilityError(
                f"expected a backbone that is a chain of local units, got {self._describe()}: read the image whole"
            )
        indices = {block: index for index, block in enumerate(reversed(self.blocks))} | {STEM: len(self.blocks)}

        def read_block(block: int, rows: Tensor, last: bool) -> None:
            read(indices[block], rows.float(), last)

        def checked() -> Iterator[Tensor]:
            for band in bands:
                check_images(band, multiple=self.multiple_px)
                yield self._normalise(band)

        device = next(self.model.parameters()).device
        options = {"blocks": self.blocks, "stem": self._stem_module(), "to_the_end": with_dense}
        with torch.no_grad(), exact_float32(), torch.autocast(device.type, enabled=False):
            last = run_by_rows(chain, reaches, checked(), read_block, **options)
            output = None if last is None else chain.finish(last)
        dense = None if output is None or output.dense is None else output.dense.float()
        embedding = None if output is None else output.embedding.float()
        return FeaturePyramid(maps=(), strides=(), embedding=embedding, dense=dense)

    def _measured(self) -> Reaches | None:
        """What its units depend on, found once: the structure of a backbone never changes."""
        if self._reaches is None:
            weight = next(self.model.visual.parameters())
            with torch.no_grad(), exact_float32(), torch.autocast(weight.device.type, enabled=False):
                self._reaches = (measure_reaches(self._reader, self._stem_module(), like=weight),)
        return self._reaches[0]

    def _stem_module(self) -> nn.Module | None:
        return self.model.visual.get_submodule(self._stem) if self.config.stem else None

    def shallow(self, images: Tensor) -> Tensor:
        """(B, C, h, w) float32: the shallowest block's map of a batch of any range, with a gradient to `images`."""
        check_images(images, multiple=self._shallow_px, any_range=True)
        with torch.autocast(images.device.type, enabled=False):
            return self._reader.maps(self._normalise(images), self.blocks[:1])[0].float()

    def dense(self, images: Tensor, *, reading: str | None = None) -> Tensor:
        """The dense features (B, D, h, w) float32 by one of `dense_readings`; None takes the first.

        Raises:
            CapabilityError: The backbone has no dense features, or not that reading of them.
            ImageValueError: As for `forward`.
        """
        no_dense_reason = self._reader.no_dense_reason
        reading = check_reading(
            reading, self.dense_readings, backbone=self._describe(), no_dense_reason=no_dense_reason
        )
        dense = self._with_dense(images, reading).dense
        assert dense is not None
        return dense

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """(N, D) float32 unit rows.

        Raises:
            ConfigError: A text is longer than the model's context length, so that open_clip would cut it.
            BackboneError: `texts` is a single string.
        """
        texts = check_texts(texts)
        device = next(self.model.parameters()).device
        rows = [torch.zeros(0, self.embedding_dim, device=device)]
        with torch.no_grad(), exact_float32(), torch.autocast(device.type, enabled=False):
            for start in range(0, len(texts), _TEXTS_PER_BATCH):
                tokens = self._tokenize(texts[start : start + _TEXTS_PER_BATCH]).to(device)
                rows.append(F.normalize(self.model.encode_text(tokens).float(), dim=-1))
        return torch.cat(rows)

    def save(self, directory: Path, *, half: bool = True) -> None:
        """Writes open_clip's local-directory layout, each file whole or not at all.

        Args:
            directory: Made where it is missing. `open_clip.create_model("local-dir:...")` reads it too.
            half: Store each tensor as float16 where that loses nothing.

        Raises:
            BackboneError: The backbone was cast after loading, so that its weights are no longer those it was loaded with.
        """
        from safetensors.torch import save_file

        if self._compute_fingerprint() != self.fingerprint:
            raise BackboneError(
                "expected the weights that were loaded, got cast or altered ones: load the backbone again in float32 "
                "(without dtype=) and save that"
            )
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        content = {"model_cfg": self._model_config, "preprocess_cfg": self._preprocess}
        state = {name: _stored(tensor, half=half) for name, tensor in self.model.state_dict().items()}
        # the config last, for it is what makes the folder a model
        with replacing(directory / CONFIG_FILE) as config_part, replacing(directory / WEIGHTS_FILE) as weights_part:
            config_part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            save_file(state, weights_part, metadata={"format": "pt"})
            shutil.copymode(config_part, weights_part)  # safetensors makes files that only their owner can read
            if self._model_config.get("text_cfg", {}).get("hf_tokenizer_name"):
                self._load_tokenizer().save_pretrained(str(directory))

    def train(self, mode: bool = True) -> OpenClipBackbone:
        """Stays in eval mode: the backbone is frozen."""
        return super().train(False)

    def _normalise(self, images: Tensor) -> Tensor:
        # Not buffers: a cast of the module would round them.
        mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (self._mean, self._std))
        weight = next(self.model.visual.parameters())
        return ((images.float() - mean) / std).to(weight.dtype)

    def _compute_fingerprint(self) -> str:
        # quick_gelu is the one thing outside the weights that open_clip lets vary for the same weights.
        facts = {"mean": self._mean, "std": self._std, "blocks": self.blocks} | (
            {"stem": True} if self.config.stem else {}
        )
        quick_gelu = bool(self._model_config.get("quick_gelu", False))
        return compute_fingerprint(self.model.visual.state_dict(), **facts, quick_gelu=quick_gelu)

    def _tokenize(self, texts: list[str]) -> Tensor:
        tokenizer = self._load_tokenizer()
        tokens = tokenizer(texts)
        check_text_length(tokenizer, texts, tokens)
        return tokens

    def _load_tokenizer(self) -> Any:
        if self._tokenizer is None:
            self._tokenizer = self._make_tokenizer()
        return self._tokenizer

    def _describe(self) -> str:
        vision = self._model_config.get("vision_cfg", {})
        name = vision.get("timm_model_name") or type(self.model.visual).__name__
        return f"{self.config.name or 'a local backbone'} ({name})"


def _stored(tensor: Tensor, *, half: bool) -> Tensor:
    """A contiguous copy on the CPU, as float16 where `half` asks for it and nothing is lost."""
    tensor = tensor.detach().cpu()
    if half and tensor.is_floating_point():
        halved = tensor.half()
        if torch.equal(halved.to(tensor.dtype), tensor):
            return halved.contiguous().clone()
    return tensor.contiguous().clone()
