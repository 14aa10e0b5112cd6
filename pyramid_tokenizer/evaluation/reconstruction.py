"""`evaluate_reconstruction`: what tokens keep of images, beside image codecs, as one report."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyramid_tokenizer.errors import DataError, MissingExtraError
from pyramid_tokenizer.evaluation.codecs import CODECS, decode_files, encode_files, has_codec, rates
from pyramid_tokenizer.evaluation.coded import CodedScores, Metric, metrics_for
from pyramid_tokenizer.evaluation.crops import CROPS_IN_WORDS
from pyramid_tokenizer.evaluation.frechet import frechet_distance
from pyramid_tokenizer.evaluation.perceptual import LPIPS_LEAST_PX, load_fid, load_lpips
from pyramid_tokenizer.images.pixels import to_uint8
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.tokens import LevelHealth, TokenPyramid

QUALITIES = (0.2, 0.4, 0.6, 0.8)
"""The `quality` of the sparse pyramids that are measured."""
CODEC_QUALITIES = {"JPEG": (5, 10, 20, 40), "WebP": (0, 10, 30, 60), "AVIF": (10, 25, 40, 55)}
"""Qualities of image codecs, from about .1 to 1 bit per pixel on photos."""
SHOWN = 6
"""Images of the sheet."""
SAMPLES = 1000
"""Draws of the bootstrap."""


@dataclass(kw_only=True, slots=True)
class ReconstructionReport:
    """The result of `evaluate_reconstruction`."""

    data: dict[str, Any]
    """Plain data: "num_images", "protocol", "rows", "levels", "frechet" and "left_out"."""
    shown: list[list[Tensor]] = field(default_factory=list)
    """For the first images: the original and every prefix, (3, H, W) uint8."""
    shown_titles: list[str] = field(default_factory=list)
    """What the columns of `shown` are."""


def evaluate_reconstruction(
    tok: PyramidTokenizer,
    batches: Iterable[Tensor],
    *,
    codecs: Sequence[str] = tuple(CODECS),
    perceptual: bool = True,
) -> ReconstructionReport:
    """Measures every prefix of levels, sparse pyramids, features that were not quantised, and image codecs on the same images.

    One batch is in memory at a time. The same batches give the same figures to the last digit on one machine.

    Args:
        tok: A fitted tokenizer.
        batches: (B, 3, side, side) uint8 of one size, as `crop_batches` gives them.
        codecs: Names in `CODECS` to compare with; those that this Pillow cannot write are left out and named.
        perceptual: Whether LPIPS and rFID are measured if their weights are on this machine.

    Returns:
        The report; "left_out" in it says what was not measured and why.

    Raises:
        DataError: There is no image.
        MissingExtraError: scikit-image or torchmetrics is not installed.
    """
    run = _Run(tok=tok, perceptual=perceptual)
    for name in codecs:
        if has_codec(name):
            run.codecs.append(name)
        else:
            run.left_out.append(f"{name}: this Pillow cannot write it")
    for batch in batches:
        run.add(batch)
    return run.report()


@dataclass(kw_only=True, slots=True)
class _Run:
    """What is collected over the batches."""

    tok: PyramidTokenizer
    perceptual: bool
    codecs: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    scores: dict[str, CodedScores] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)
    fid: Any = None
    counts: list[Tensor] = field(default_factory=list)
    """(K_l,) of every level."""
    embeddings: dict[str, array[float]] = field(default_factory=dict)
    """Numbers of the backbone's image embeddings of the originals, "", and of what was coded; no tensors, as in `CodedScores`."""
    side: int = 0
    num_images: int = 0
    shown: list[list[Tensor]] = field(default_factory=list)
    grids: tuple[tuple[int, int], ...] = ()

    def add(self, batch: Tensor) -> None:
        """Measures a batch, (B, 3, side, side) uint8."""
        if not self.num_images:
            self._start(batch.shape[-1])
        self.num_images += len(batch)
        self._embed("", batch)
        images = batch / 255
        tokens = self.tok.encode(images, levels=len(self.tok.quantizer.strides))
        self.grids = tokens.grids
        for counts, ids in zip(self.counts, tokens.ids, strict=True):
            counts.add_(torch.bincount(ids.flatten().cpu(), minlength=len(counts)))
        prefixes = [self._prefix(batch, tokens, count) for count in range(1, len(tokens) + 1)]
        for original, *coded in zip(batch, *prefixes, strict=True):
            if len(self.shown) < SHOWN:
                self.shown.append([original, *coded])
        continuous = to_uint8(self.tok.reconstruct_continuous(images)).cpu()
        self._score("features not quantised", "not quantised", batch, continuous, None)
        gains = self.tok.gains(tokens, images)
        for quality in QUALITIES:
            sparse = self.tok.thin(tokens, gains, quality=quality)
            what = f"by content, quality {quality:g}"
            self._score(what, "by content", batch, self._decode(sparse), _rates(sparse))
        for codec in self.codecs:
            for quality in CODEC_QUALITIES[codec]:
                files = encode_files(batch, codec, quality)
                self._score(f"{codec}, quality {quality}", codec, batch, decode_files(files), rates(files, batch))

    def report(self) -> ReconstructionReport:
        """The report of everything so far."""
        if not self.num_images:
            raise DataError("expected images to measure, got none: check the folder")
        found = {
            name: torch.frombuffer(numbers, dtype=torch.float32).view(self.num_images, -1)
            for name, numbers in self.embeddings.items()
        }
        frechet = {
            name: frechet_distance(found[""], one) for name, one in found.items() if name and self.num_images > 1
        }
        rows = [one.summary(samples=SAMPLES) for one in self.scores.values()]
        levels = list(self._levels())
        for row in rows:
            row["frechet"] = frechet.get(row["what"])
            row["entropy_bits_per_pixel"] = None
        for count, row in enumerate((row for row in rows if row["family"] == "prefixes"), start=1):
            row["entropy_bits_per_pixel"] = sum(level["entropy_bits_per_pixel"] for level in levels[:count])
        data = {
            "num_images": self.num_images,
            "protocol": self._protocol(),
            "rows": rows,
            "levels": levels,
            "rfid": None if self.fid is None or self.num_images < 2 else float(self.fid.compute()),
            "left_out": self.left_out,
        }
        titles = ["original", *(_prefix_name(count) for count in range(1, len(levels) + 1))]
        return ReconstructionReport(data=data, shown=self.shown, shown_titles=titles)

    def _start(self, side: int) -> None:
        self.side, self.metrics = side, metrics_for(side)
        self.counts = [torch.zeros(size, dtype=torch.int64) for size in self.tok.quantizer.codebook_sizes]
        self.left_out += [
            f"{name}: images of {side} px are too small" for name in ("ssim", "ms_ssim") if name not in self.metrics
        ]
        if self.perceptual:
            if side < LPIPS_LEAST_PX:
                self.left_out.append(f"LPIPS: images of {side} px are too small")
            else:
                self.metrics |= self._optional("LPIPS", lambda: {"lpips": load_lpips()}) or {}
            self.fid = self._optional("rFID", load_fid)

    def _optional(self, name: str, load: Callable[[], Any]) -> Any:
        try:
            return load()
        except MissingExtraError as error:
            self.left_out.append(f"{name}: {error}")
            return None

    def _prefix(self, batch: Tensor, tokens: TokenPyramid, count: int) -> Tensor:
        part = tokens[:count]
        coded = self._decode(part)
        self._score(_prefix_name(count), "prefixes", batch, coded, _rates(part))
        if self.fid is not None and count == self.tok.quantizer.base_levels:
            self.fid.update(batch, real=True)
            self.fid.update(coded, real=False)
        self._embed(_prefix_name(count), coded)
        return coded

    def _decode(self, tokens: TokenPyramid) -> Tensor:
        return to_uint8(self.tok.decode(tokens)).cpu()

    def _score(self, what: str, family: str, batch: Tensor, coded: Tensor, rate: Tensor | None) -> None:
        scores = self.scores.setdefault(what, CodedScores(what=what, family=family))
        scores.add(batch, coded, rate, self.metrics)

    def _embed(self, what: str, images: Tensor) -> None:
        embedding = self.tok.features(images / 255, with_dense=True).embedding
        if embedding is not None:
            unit = torch.nn.functional.normalize(embedding.float(), dim=1)
            self.embeddings.setdefault(what, array("f")).extend(unit.flatten().tolist())

    def _levels(self) -> Iterator[dict[str, Any]]:
        for counts, (height, width) in zip(self.counts, self.grids, strict=True):
            health = LevelHealth(counts=counts)
            yield {
                "codes": len(counts),
                "tokens": int(counts.sum()),
                "usage": health.usage,
                "perplexity": health.perplexity,
                "bits_per_pixel": height * width * math.log2(len(counts)) / self.side**2,
                "entropy_bits_per_pixel": height * width * math.log2(health.perplexity) / self.side**2,
            }

    def _protocol(self) -> str:
        return (
            f"{CROPS_IN_WORDS.format(side=self.side)}; decoded pixels rounded to 8 bit; means over {self.num_images} images of "
            "each image's PSNR, SSIM (11x11 Gaussian window, per RGB channel) and MS-SSIM (torchmetrics, five scales); "
            "bits per pixel of codecs are those of whole files, headers included; entropy bits per pixel are those of an ideal "
            "code for the frequencies of each level's codes on these images; Fréchet distance of the backbone's unit image "
            "embeddings of the decoded images to those of the originals (biased upwards for few images); intervals: 95 % "
            f"bootstrap over images, {SAMPLES:,} draws"
        )


def _prefix_name(count: int) -> str:
    return "level 0" if count == 1 else f"levels 0-{count - 1}"


def _rates(tokens: TokenPyramid) -> Tensor:
    return torch.tensor([one.bits_per_pixel for one in tokens.unbind()], dtype=torch.float64)
