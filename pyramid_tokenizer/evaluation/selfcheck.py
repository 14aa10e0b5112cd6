"""`selfcheck`: whether this device computes what the model's own device did, stage by stage.

Some back ends give wrong pixels or ids without an error. Synthetic images go through the tokenizer, and what every stage gives
is compared with what it gave where the reference was made. A stage reads the reference's ids where it can, so that one fault is
seen in its own stage and not in all that follow:

    images        8-bit image -> resized pixels
    backbone      pixels -> maps and dense features
    codebook      the reference's ids -> codes
    adapter       features and those codes -> projections of each level (whitening and adapter)
    nearest       projections -> ids
    linear        codes -> linear reconstruction
    decoder       codes and linear reconstruction -> pixels
    embedding     the reference's ids -> image embeddings
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyramid_tokenizer.errors import ConfigError, NotFittedError, TokenMismatchError
from pyramid_tokenizer.files import replacing
from pyramid_tokenizer.hub.directory import SELFCHECK_FILE
from pyramid_tokenizer.images import read_image
from pyramid_tokenizer.images.synthetic import synthetic_images
from pyramid_tokenizer.quantizer.pyramid import PyramidQuantizer
from pyramid_tokenizer.tokenizer import PyramidTokenizer

STAGES: dict[str, tuple[float, str]] = {
    "images": (2e-5, "images are resized by another kernel: another version of torch, or a patched one"),
    "backbone": (LIMIT := 1e-4, "the backbone computes in lower precision (TF32, bfloat16, float16) or in another way"),
    "codebook": (1e-6, "codebook entries are others, or in another order: the weights were altered"),
    "adapter": (
        LIMIT,
        "where backbone and codebook agree, whitening or adapters compute in lower precision or were altered",
    ),
    "nearest": (1e-3, "other entries are nearest: where adapter agrees, the search itself is at fault"),
    "linear": (LIMIT, "pixel read-outs compute in lower precision or in another way, or were altered"),
    "decoder": (LIMIT, "trunk or pixel decoder compute in lower precision or in another way, or were altered"),
    "embedding": (LIMIT, "text embeddings compute in lower precision or in another way, or were altered"),
}
"""By stage, the largest relative difference that rounding explains, and what more means; for "nearest" the share of ids."""

_PROJECTIONS = 8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reference:
    """What every stage of a model gives for the synthetic images: ids, and a few projections of each tensor."""

    fingerprint: str
    """Of the model."""
    origin: str
    """Where it was made, in words."""
    ids: tuple[NDArray[np.int64], ...]
    """(B, h_l, w_l) of every level."""
    stages: Mapping[str, NDArray[np.float64]]
    """By stage but "nearest", (T, 8): the products of its T tensors with 8 rows of random signs."""

    def save(self, path: str | Path) -> Path:
        """Writes it as .npz, whole or not at all."""
        path = Path(path)
        arrays: dict[str, Any] = {f"ids_{level}": own.astype(np.int32) for level, own in enumerate(self.ids)}
        arrays |= self.stages
        with replacing(path) as part, part.open("wb") as file:
            np.savez(file, fingerprint=np.array(self.fingerprint), origin=np.array(self.origin), **arrays)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Reference:
        """Reads what `save` wrote; ConfigError where the file is none of these."""
        try:
            with np.load(path) as file:
                stored = dict(file)
            ids = [stored[f"ids_{level}"].astype(np.int64) for level in range(sum("ids_" in name for name in stored))]
            stages = {name: stored[name] for name in STAGES if name != "nearest"}
            facts = {name: str(stored[name]) for name in ("fingerprint", "origin")}
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(
                f"expected a reference in {str(path)!r}, got {type(error).__name__}: {error}; make it again by "
                "pyramid-tokenizer selfcheck MODEL --store"
            ) from error
        return cls(ids=tuple(ids), stages=stages, **facts)


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfCheck:
    """How far each stage is from the reference on this device."""

    device: str
    """Where the tokenizer is, and the precision of its backbone and decoder."""
    origin: str
    """Where the reference was made."""
    differences: Mapping[str, float]
    """By stage, the relative difference; of "nearest" the share of ids that differ."""

    @property
    def differs(self) -> tuple[str, ...]:
        """The stages that differ by more than rounding, in the order in which they compute; () where all is well."""
        return tuple(stage for stage, found in self.differences.items() if not found <= STAGES[stage][0])

    def __str__(self) -> str:
        if not self.differs:
            return f"{self.device}: all stages agree with the reference ({self.origin})"
        reasons = "; ".join(
            f"{stage} differs by {self.differences[stage]:.1e}: {STAGES[stage][1]}" for stage in self.differs
        )
        return f"{self.device}, beside the reference ({self.origin}): {reasons}"


@torch.no_grad()
def selfcheck(tok: PyramidTokenizer, *, reference: Reference | None = None) -> SelfCheck:
    """Compares every stage of a tokenizer, where it is and as it is cast, with a reference.

    Args:
        tok: A fitted tokenizer on any device, in any precision.
        reference: What to compare with. None takes selfcheck.npz of the directory that the tokenizer was loaded from, as the
            bundled model has it; without such a file, a float64 copy of the tokenizer on the CPU of this machine, which does not
            see weights that were altered, nor another kernel of resizing.

    Raises:
        NotFittedError: The codebooks are empty.
        TokenMismatchError: The reference is another model's.

    Example:
        >>> checked = selfcheck(PyramidTokenizer.from_pretrained("tiny"))
        >>> checked.differs
        ()
    """
    if not tok.quantizer.is_fitted:
        raise NotFittedError("expected fitted codebooks to check, got empty ones: call fit first")
    reference = stored_reference(tok) if reference is None else reference
    reference = make_reference(_exact_copy(tok), origin="float64, this CPU") if reference is None else reference
    if reference.fingerprint != tok.fingerprint:
        raise TokenMismatchError(
            f"expected the reference of model {tok.fingerprint[:12]}, got that of {reference.fingerprint[:12]}: make it again"
        )
    found = _observe(tok, [torch.from_numpy(own).to(tok.device) for own in reference.ids])
    differences = {stage: _difference(stage, found, reference) for stage in STAGES}
    device = f"{tok.device}, {str(tok.dtype).removeprefix('torch.')}"
    return SelfCheck(device=device, origin=reference.origin, differences=differences)


@torch.no_grad()
def make_reference(tok: PyramidTokenizer, *, origin: str) -> Reference:
    """The reference of a fitted tokenizer: what its stages give here.

    Args:
        tok: On a device that computes right, in float32.
        origin: Where that is, in words.
    """
    images = torch.from_numpy(_images(tok)).float() / 255
    ids = list(tok.encode(images.to(tok.device), levels=len(tok.quantizer.levels)).ids)
    stages = {stage: found for stage, found in _observe(tok, ids).items() if stage != "nearest"}
    own = tuple(level.cpu().numpy() for level in ids)
    return Reference(fingerprint=tok.fingerprint, origin=origin, ids=own, stages=stages)


def stored_reference(tok: PyramidTokenizer) -> Reference | None:
    """The reference in the directory that a tokenizer was loaded from, if there is one for it."""
    path = None if tok.loaded_from is None else tok.loaded_from / SELFCHECK_FILE
    if path is None or not path.is_file():
        return None
    found = Reference.load(path)
    return found if found.fingerprint == tok.fingerprint else None


def _exact_copy(tok: PyramidTokenizer) -> PyramidTokenizer:
    return copy.deepcopy(tok).to("cpu", torch.float64)


def _images(tok: PyramidTokenizer) -> NDArray[np.uint8]:
    """Two images of about 128 x 160 px, whose sides need no padding."""
    height, width = (max(1, round(side / tok.multiple_px)) * tok.multiple_px for side in (128, 160))
    return synthetic_images(2, height, width)


def _observe(tok: PyramidTokenizer, ids: Sequence[Tensor]) -> dict[str, NDArray[np.float64]]:
    """What each stage gives where it reads the given ids; of "nearest" the ids themselves, level after level."""
    pixels, quantizer = _images(tok), tok.quantizer
    resized = read_image(pixels[0].transpose(1, 2, 0), size=max(8, min(pixels.shape[2:]) * 5 // 8))
    features = tok.features(torch.from_numpy(pixels).to(tok.device).float() / 255, with_dense=quantizer.needs_dense)
    codes = quantizer.codes(ids)
    by_level = dict(enumerate(codes))
    projected = [
        quantizer.level(index).project(quantizer.level_input(index, features, by_level)) for index in range(len(codes))
    ]
    nearest = [quantizer.level(index).assign(own) for index, own in enumerate(projected)]
    dense = [] if features.dense is None else [features.dense]
    books = [torch.cat(quantizer.image.codebooks)] if quantizer.image.codebook_sizes else []
    decoded = tok.decode(tok.tokens([own.cpu() for own in ids], image_size=(pixels.shape[2], pixels.shape[3])))
    seen = {
        "images": [resized],
        "backbone": [*features.maps, *dense, *([features.embedding] if books else [])],
        "codebook": [*codes, *books],
        "adapter": projected,
        "linear": [quantizer.linear_reconstruction(codes)],
        "decoder": [decoded],
        "embedding": [quantizer.embedding(list(ids), image_ids=_image_ids(quantizer, len(pixels)))],
    }
    found = {stage: np.stack([_project(tensor) for tensor in tensors]) for stage, tensors in seen.items()}
    found["nearest"] = np.concatenate([own.cpu().numpy().ravel() for own in nearest])
    return found


def _image_ids(quantizer: PyramidQuantizer, count: int) -> Tensor:
    """(count, M) ids of image tokens that depend on nothing, so that the embedding's stage has no other one's faults."""
    ids = torch.arange(count, device=quantizer.level(0).codebook.device)[:, None]
    return ids % ids.new_tensor(quantizer.image.codebook_sizes)[None]


def _project(tensor: Tensor) -> NDArray[np.float64]:
    """(8,): the products of a tensor's numbers with rows of random signs, which differ as much as the numbers do."""
    numbers = tensor.detach().cpu().double().numpy().ravel()
    rng = np.random.default_rng(len(numbers))
    rows = [float(numbers @ (1.0 - 2.0 * rng.integers(0, 2, len(numbers)))) for _ in range(_PROJECTIONS)]
    return np.array(rows, dtype=np.float64)


def _difference(stage: str, found: Mapping[str, NDArray[np.float64]], reference: Reference) -> float:
    if stage == "nearest":
        expected = np.concatenate([own.ravel() for own in reference.ids])
        return float((found[stage] != expected).mean())
    expected = reference.stages[stage]
    distance = np.linalg.norm(found[stage] - expected, axis=1) / np.linalg.norm(expected, axis=1)
    return float(distance.max())  # NaN stays NaN, and is a difference
