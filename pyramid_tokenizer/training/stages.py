"""What trains: stage 1 moves adapters and codebooks, stage 2 the trunk and the pixel decoder on ids that are frozen."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyramid_tokenizer.closed_form import meaning_at
from pyramid_tokenizer.ema_codebook import EmaCodebook
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.training.config import TrainConfig
from pyramid_tokenizer.training.losses import (
    alignment_loss,
    commitment_loss,
    mean_psnr,
    pixel_loss,
    straight_through,
    target_at,
)


class CodebookStage(nn.Module):
    """Stage 1: the sketch is the throw-away decoder, so adapters learn with one matrix between them and the pixels."""

    name = "codebooks"

    def __init__(self, tok: PyramidTokenizer, config: TrainConfig):
        super().__init__()
        self.steps, self.lr, self.config = config.codebook_steps, config.codebook_lr, config
        self.ema_decay = 0.0  # the codebooks follow the adapters as they are: averaged ones would not fit them
        self.quantizer = tok.quantizer
        self._features = tok.features
        cells = config.batch_size * config.crop_px**2
        self.ema = [
            EmaCodebook(
                level.codebook,
                vectors_per_step=cells // level.config.stride**2,
                cosine=level.config.distance == "cosine",
            )
            for level in self._levels()
        ]
        self._seen: list[Tensor] = []

    def _levels(self) -> list:
        return [self.quantizer.level(i) for i in range(len(self.quantizer.levels))]

    def forward(self, images: Tensor, step: int) -> tuple[Tensor, dict[str, float]]:
        """Sketches at every prefix against the images, commitment, and alignment. Images (B, 3, H, W)."""
        features = self._features(images, aligned=True)
        codes: dict[int, Tensor] = {}
        projections: dict[int, Tensor] = {}
        commit = images.new_zeros(())
        align = images.new_zeros(())
        for index, x in self.quantizer.inputs(features, codes):
            level = self.quantizer.level(index)
            projected = level.project(x)
            quantised = level.look_up(level.assign(projected.detach()))
            commit = commit + commitment_loss(projected, quantised)
            codes[index] = straight_through(projected, quantised)
            projections[index] = projected.detach()
            # every level's read-out learns its meaning; the adapter feels the level's share of it
            felt = torch.lerp(codes[index].detach(), codes[index], level.config.semantic_weight)
            align = align + alignment_loss(level.aligned(felt), meaning_at(features, x))
        ordered = [codes[i] for i in range(len(codes))]
        sketches = self.quantizer.sketches(ordered)
        scales = [stride // self.quantizer.patch_px for stride in self.quantizer.strides]
        paint = sum(F.mse_loss(s, target_at(images, scale)) for s, scale in zip(sketches, scales, strict=True))
        # 0.07 is the variance of natural pixels: all terms are then shares of order one
        loss = paint / 0.07 + self.config.commit_weight * commit + self.config.align_weight * align
        self._seen = [projections[i].permute(0, 2, 3, 1).flatten(0, 2) for i in range(len(projections))]
        return loss, {
            "psnr": mean_psnr(sketches[-1], images),
            "commit": float(commit.detach()),
            "align": float(align.detach()),
        }

    def after_step(self, step: int) -> None:
        """Moves the codebooks; revival stops for the last fifth of the steps."""
        for level, ema, vectors in zip(self._levels(), self.ema, self._seen, strict=True):
            if step >= 0.8 * self.steps:
                ema.stop_revival()
            ema.update(vectors)
            level.codebook.copy_(ema.codebook)

    def extra_state(self) -> dict[str, dict[str, Tensor]]:
        """Running sums of the codebooks."""
        return {str(i): ema.state() for i, ema in enumerate(self.ema)}

    def load_extra_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Takes over running sums."""
        for i, ema in enumerate(self.ema):
            ema.load_state(state[str(i)])

    def trainable(self) -> list[nn.Parameter]:
        """Adapters and read-outs."""
        return list(self.quantizer.parameters())


class DecoderStage(nn.Module):
    """Stage 2: trunk and pixel decoder learn to turn frozen ids of every prefix into pixels."""

    name = "decoder"

    def __init__(self, tok: PyramidTokenizer, config: TrainConfig):
        super().__init__()
        self.steps, self.lr, self.config = config.decoder_steps, config.decoder_lr, config
        self.ema_decay = config.ema_decay
        self.trunk, self.pixel_decoder = tok.trunk, tok.pixel_decoder
        # behind functions, so that this module holds what trains and nothing else
        self._features, self._encode, self._codes, self._sketch = (
            tok.features,
            tok.quantizer.encode,
            tok.quantizer.codes,
            tok.quantizer.sketch,
        )
        self.num_levels = len(tok.quantizer.levels)

    def forward(self, images: Tensor, step: int) -> tuple[Tensor, dict[str, float]]:
        """Pixel loss at a random prefix of levels. Images (B, 3, H, W)."""
        with torch.no_grad():
            codes = self._codes(self._encode(self._features(images)))[: self._prefix()]
            sketch = self._sketch(codes)
        decoded = self.pixel_decoder(self.trunk(codes)[-1], sketch)
        loss = pixel_loss(decoded, images, self.config.pixel_loss)
        name = "psnr" if len(codes) == self.num_levels else f"psnr@{len(codes)}"
        return loss, {name: mean_psnr(decoded, images), "gain": mean_psnr(decoded, images) - mean_psnr(sketch, images)}

    def _prefix(self) -> int:
        if self.num_levels > 1 and float(torch.rand(())) < self.config.level_dropout:
            return int(torch.randint(1, self.num_levels, ()))
        return self.num_levels

    def after_step(self, step: int) -> None:
        """Nothing: ids are frozen."""

    def extra_state(self) -> dict[str, dict[str, Tensor]]:
        """Nothing beside parameters."""
        return {}

    def load_extra_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Nothing to take over."""

    def trainable(self) -> list[nn.Parameter]:
        """Trunk and pixel decoder."""
        return list(self.parameters())
