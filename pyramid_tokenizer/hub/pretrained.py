"""`PretrainedModel`: the parts of a tokenizer as a whole that is built, loaded, told apart, saved and shared.

What a tokenizer does with images and tokens is in `tokenizer.py`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor

from pyramid_tokenizer.backbones import Backbone, load_backbone, name_backbone
from pyramid_tokenizer.backbones.base import compute_fingerprint
from pyramid_tokenizer.backbones.uninitialised import Uninitialised
from pyramid_tokenizer.checks.arguments import check_kind, check_path
from pyramid_tokenizer.checks.devices import CheckedDevices, check_device, warn_of_slow_dtype
from pyramid_tokenizer.checks.finite import require_finite
from pyramid_tokenizer.config.models import Composition, LevelConfig, TokenizerConfig
from pyramid_tokenizer.decoder import PixelDecoder, TopDownTrunk
from pyramid_tokenizer.errors import CheckpointError, NotFittedError
from pyramid_tokenizer.hub.build import build_config, build_pixel_decoder, build_trunk, open_model
from pyramid_tokenizer.hub.directory import save_model
from pyramid_tokenizer.hub.head import KeptHead, StoredHead, fitting_head, keep_head, read_head
from pyramid_tokenizer.hub.limits import check_sizes
from pyramid_tokenizer.hub.upload import push_saved
from pyramid_tokenizer.hub.weights import read_weights
from pyramid_tokenizer.images import IMAGE_RECIPE_VERSION
from pyramid_tokenizer.quantizer.build import build_quantizer
from pyramid_tokenizer.quantizer.identity import identity_of
from pyramid_tokenizer.quantizer.pyramid import NOT_FITTED, WEIGHTS_ADVICE, PyramidQuantizer
from pyramid_tokenizer.tokens.pyramid import Precision

OWN_PARTS = ("quantizer", "trunk", "pixel_decoder")
"""The parts whose tensors model.safetensors holds; the frozen backbone has files of its own."""


class PretrainedModel(CheckedDevices):
    """A frozen backbone, a quantizer and a decoder. `PyramidTokenizer` is the one kind there is.

    Args:
        config: The data that the modules were built from.
        backbone: Frozen backbone, (B, 3, H, W) -> FeaturePyramid.
        quantizer: Features <-> ids.
        trunk: Codes -> fused maps.
        pixel_decoder: Finest fused map and linear reconstruction -> image.
    """

    def __init__(
        self,
        config: TokenizerConfig,
        *,
        backbone: Backbone,
        quantizer: PyramidQuantizer,
        trunk: TopDownTrunk,
        pixel_decoder: PixelDecoder,
    ):
        super().__init__()
        self.config = config
        self.backbone: Backbone = backbone
        self.quantizer = quantizer
        self.trunk = trunk
        self.pixel_decoder = pixel_decoder
        self._fingerprint, self._fitted = "", False  # taken when first asked for, or by loading and fitting
        self.kept_head: KeptHead | None = None
        self.loaded_from: Path | None = None
        """The directory of the model's files; None for a tokenizer that was made here."""
        self.eval().requires_grad_(False)

    @classmethod
    def from_config(
        cls, config: TokenizerConfig, *, directory: Path | None = None, backbone: Backbone | None = None
    ) -> Self:
        """A tokenizer with empty codebooks and an untrained decoder.

        Args:
            config: What to build.
            directory: The folder of the backbone that the config names, where it has no public name; see `load_backbone`.
            backbone: In its place, one that is loaded already.
        """
        fix = "use config.from_dict for a dict, hub.read_config for a folder, or from_backbone, which makes one"
        check_kind(config, TokenizerConfig, name="config", fix=fix)
        network = load_backbone(config.backbone, directory=directory) if backbone is None else backbone
        quantizer = build_quantizer(
            config.quantizer, channels=network.channels, strides=network.strides, embedding_dim=network.embedding_dim
        )
        parts = {"trunk": build_trunk(config), "pixel_decoder": build_pixel_decoder(config)}
        return cls(config, backbone=network, quantizer=quantizer, **parts)

    @classmethod
    def from_backbone(
        cls,
        name: str | Path,
        *,
        pretrained: str | Path | None = None,
        blocks: Sequence[int] = (),
        levels: Sequence[LevelConfig] = (),
        composition: Composition = "residual",
        image_codebooks: Sequence[int] | None = None,
        **download: Any,
    ) -> Self:
        """A new tokenizer on a frozen backbone, in the layout that suits it, with empty codebooks: `fit` comes next.

        Args:
            name: An open_clip model name, "hf-hub:org/repo", a folder in open_clip's local-directory layout, or "toy".
            pretrained: A weight tag or a checkpoint file, beside an open_clip model name.
            blocks: Which of the backbone's blocks are read; the family's preset if not given.
            levels: In place of the preset's (`quantizer.recipe.preset_levels`).
            composition: How levels see each other.
            image_codebooks: Entries of the codebook of each image token, such as (256, 256), or () for none. None: the recipe's,
                or none beside `levels`.
            download: `token`, `cache_dir` and `local_files_only`, as for `load_backbone`.

        Raises:
            BackboneError, CheckpointError, ConfigError: As for `load_backbone`; ConfigError also for levels that do not fit.
        """
        if pretrained is not None:
            check_path(pretrained, name="pretrained")
        wanted = name_backbone(name, pretrained=pretrained and str(pretrained), blocks=blocks)
        network = load_backbone(wanted, **download)
        layout = {"levels": levels, "composition": composition, "image_codebooks": image_codebooks}
        return cls.from_config(build_config(network, **layout), backbone=network)  # type: ignore[arg-type]

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        token: str | bool | None = None,
        subfolder: str = "",
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """The tokenizer of that name, ready to use.

        Args:
            name: A bundled model ("tiny"), a directory that `save_pretrained` wrote, or a Hub repository "user/repo".
            token: Access token for private and gated Hub repositories; None uses that of `hf auth login`.
            subfolder: Folder of the model inside the directory or the repository; "" for the top.
            revision: Branch, tag or commit of a Hub repository.
            cache_dir: Folder that keeps downloaded files, the backbone's included.
            local_files_only: Take files from the cache alone, and never ask the network.
            device: Where the modules go.
            dtype: Precision of backbone and decoder; codebooks stay float32. With bfloat16 features, 0 to 5 % of a level's
                ids differ (two photos on the bundled model): encode a dataset in one precision, float32 unless you must. On a
                CPU without units for a half precision it is slower, too, which is a warning.

        Raises:
            ModelNotFoundError, ConfigError: There is no such model or no such device, or its config.json cannot be used.
            CheckpointError, BackboneError: A weight is missing, extra, misshapen or altered, or cannot be fetched.
        """
        check_device(device)  # before anything is downloaded
        warn_of_slow_dtype(device, dtype)
        download: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        found = open_model(name, subfolder=subfolder, revision=revision, **download)
        check_sizes(found.config, embedding_dim=found.backbone.embedding_dim, file=found.weights_file)
        with Uninitialised():
            tok = cls.from_config(found.config, backbone=found.backbone)
        tok.load_own(read_weights(found.weights_file, tok.own_tensors()))
        if found.config.fingerprint and tok.fingerprint != found.config.fingerprint:
            raise CheckpointError(
                f"expected codebooks with fingerprint {found.config.fingerprint[:12]}, got {tok.fingerprint[:12]}: "
                f"{found.weights_file} was altered; download or save the model again"
            )
        head = read_head(found.directory, found.config.segmentation)
        tok.kept_head = keep_head(head, tok.own_tensors())
        tok.loaded_from = found.directory
        return tok.to(device=device, dtype=dtype)

    @property
    def device(self) -> torch.device:
        """Where the modules are."""
        return self.quantizer.level(0).codebook.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of backbone and decoder."""
        return self.pixel_decoder.to_pixels.weight.dtype

    @property
    def precision(self) -> Precision:
        """Name of the dtype that the backbone computes in; `encode` writes it into its tokens."""
        tensors = itertools.chain(self.backbone.parameters(), self.backbone.buffers())
        dtype = next(tensor.dtype for tensor in tensors if tensor.is_floating_point())
        return cast(Precision, str(dtype).removeprefix("torch."))

    @property
    def fingerprint(self) -> str:
        """Names the tokenizer that tokens belong to: 64 hexadecimal digits, see `update_fingerprint`."""
        return self._fingerprint or self.update_fingerprint()

    def update_fingerprint(self) -> str:
        """Takes the fingerprint anew; whoever changes codebooks, adapters or read-outs in place calls this afterwards.

        It is the SHA-256 of what determines ids and of nothing else (docs/design.md has the list), from weights as they are
        stored. Loading, `fit` and training take it; a cast does not change it, as tokens hold the precision beside it.
        CheckpointError where one of these weights is NaN or infinite.
        """
        facts, tensors = identity_of(self.quantizer)
        require_finite(tensors, stage="the quantizer", advice=WEIGHTS_ADVICE, error=CheckpointError)
        facts["backbone"] = self.backbone.fingerprint
        facts["dense_reading"] = list(self.backbone.dense_readings[:1]) if self.quantizer.reads_dense else []
        facts["image_recipe"] = IMAGE_RECIPE_VERSION
        self._fingerprint, self._fitted = compute_fingerprint(tensors, **facts), self.quantizer.is_fitted
        return self._fingerprint

    def require_fitted(self) -> None:
        """Raises NotFittedError where the codebooks are empty.

        That they are filled is known since they were loaded or fitted, so that a compiled graph need not look at them.
        """
        if not self._fitted and not self.quantizer.is_fitted:
            raise NotFittedError(NOT_FITTED)

    def own_tensors(self) -> dict[str, Tensor]:
        """Names and tensors of model.safetensors: all parts but the frozen backbone."""
        return {f"{part}.{n}": t for part in OWN_PARTS for n, t in getattr(self, part).state_dict().items()}

    def load_own(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over tensors named as `own_tensors` names them; `hub.read_weights` has checked them."""
        for part in OWN_PARTS:
            own = {n.removeprefix(f"{part}."): t for n, t in tensors.items() if n.startswith(f"{part}.")}
            getattr(self, part).load_state_dict(own)
        self.update_fingerprint()

    def reset_decoder(self) -> None:
        """Puts trunk and pixel decoder back to their untrained state, with a warning at the line that called `fit`."""
        self.trunk.reset_parameters()
        self.pixel_decoder.reset_parameters()
        warnings.warn(
            "the trained decoder was reset because it does not fit the new codes: train it again, or fit with "
            "keep_adapters=True, which keeps it",
            stacklevel=3,
        )

    def save_pretrained(
        self,
        directory: str | Path,
        *,
        half: bool = False,
        evaluation: dict[str, Any] | None = None,
        head: StoredHead | None = None,
    ) -> Path:
        """Writes config.json, model.safetensors, README.md and, where the backbone has no public address, backbone/.

        Arguments and errors as for `hub.save_model`; `head` comes from `Segmenter.save_pretrained`. Without it, a segmentation
        head that the model was loaded with is written too, unless codebooks or trunk have changed, which is a warning.
        """
        if not self.quantizer.is_fitted:
            raise NotFittedError("expected fitted codebooks to save, got empty ones: call fit first")
        check_path(directory, name="directory")
        # anew, because files that do not fit their fingerprint cannot be loaded
        config = dataclasses.replace(self.config, fingerprint=self.update_fingerprint())
        tensors = self.own_tensors()
        head = fitting_head(self.kept_head, tensors) if head is None else head
        parts = {"backbone": self.backbone, "tensors": tensors, "head": head}
        return save_model(directory, config, **parts, half=half, evaluation=evaluation)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads the model to the Hub repository "user/repo"; options, errors and the result are those of `hub.push_saved`."""
        return push_saved(self.save_pretrained, repo_id, **options)

    def __repr__(self) -> str:
        config, name = self.config.quantizer, self.config.backbone.name or self.config.backbone.kind
        base = config.base_levels
        rate = sum(math.log2(level.codebook_size) / level.stride**2 for level in config.levels[:base])
        rows = [
            f"  {index:>5}  {level.stride:>9}  {level.codebook_size:>6}  {level.dim:>4}{'  detail' if index >= base else ''}"
            for index, level in enumerate(config.levels)
        ]
        image = [f"  image tokens of {', '.join(map(str, config.image_codebooks))}"] if config.image_codebooks else []
        facts = f"{rate:.3g} bits per pixel, fingerprint {self.fingerprint[:12]}, {self.device}, {self.dtype}"
        return "\n".join(
            [f"PyramidTokenizer on {name}", "  level  stride px   codes  dims", *rows, *image, f"  {facts}"]
        )
