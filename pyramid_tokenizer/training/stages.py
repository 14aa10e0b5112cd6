"""What trains: stage 1 moves adapters and codebooks, stage 2 the trunk and the pixel decoder on ids that are frozen."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyramid_tokenizer.backbones.features import enlarge, semantic_target
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.training.config import TrainConfig
from pyramid_tokenizer.training.ema_codebook import EmaCodebook
from pyramid_tokenizer.training.losses import (
    alignment_loss,
    commitment_loss,
    mean_psnr,
    pixel_loss,
    straight_through,
    target_at,
)
from pyramid_tokenizer.training.perceptual import perceptual_distance
from pyramid_tokenizer.training.usage import CodebookUsage


class CodebookStage(nn.Module):
    """Stage 1: the linear reconstruction is the throw-away decoder, so adapters learn with one matrix between them and the pixels."""

    name = "codebooks"

    def __init__(self, tok: PyramidTokenizer, config: TrainConfig):
        super().__init__()
        self.steps, self.lr, self.config = config.codebook_steps, config.codebook_lr, config
        self.ema_decay = 0.0  # the codebooks follow the adapters as they are: averaged ones would not fit them
        self.quantizer = tok.quantizer
        self._features = tok.features
        pixels = config.batch_size * config.accumulate * config.crop_px**2
        # the grid of an FSQ level stays where it is: only its adapter learns
        self.ema = {
            index: EmaCodebook(
                level.codebook,
                vectors_per_step=pixels // level.config.stride**2,
                cosine=level.config.distance == "cosine",
            )
            for index, level in enumerate(self._levels())
            if not level.config.fsq
        }
        self.usage = CodebookUsage(tok.quantizer.codebook_sizes)
        self._seen: dict[int, list[Tensor]] = {index: [] for index in self.ema}

    def _levels(self) -> list:
        return [self.quantizer.level(i) for i in range(len(self.quantizer.levels))]

    def forward(self, images: Tensor, step: int) -> tuple[Tensor, dict[str, float]]:
        """Linear reconstructions at every prefix against the images, commitment, and alignment. Images (B, 3, H, W)."""
        features = self._features(images, with_dense=True)
        codes: dict[int, Tensor] = {}
        ids: dict[int, Tensor] = {}
        commit = images.new_zeros(())
        text_readout = images.new_zeros(())
        place: Tensor | None = None
        for index, x in self.quantizer.inputs(features, codes):
            level = self.quantizer.level(index)
            projected = level.project(x)
            ids[index] = level.assign(projected.detach())
            quantised = level.look_up(ids[index])
            if index in self.ema:
                commit = commit + commitment_loss(projected, quantised)
                self._seen[index].append(projected.detach().permute(0, 2, 3, 1).flatten(0, 2))  # (B h w, d)
            codes[index] = straight_through(projected, quantised)
            # every level's read-out learns its meaning; the adapter feels the level's share of it
            felt = torch.lerp(codes[index].detach(), codes[index], level.config.semantic_weight)
            place = self._place(index, level.with_dense(felt), place)
            text_readout = text_readout + alignment_loss(F.normalize(place, dim=1), semantic_target(features, x))
        ordered = [codes[i] for i in range(len(codes))]
        linear_reconstructions = self.quantizer.linear_reconstructions(ordered)
        scales = [stride // self.quantizer.patch_px for stride in self.quantizer.strides]
        pixel_readout = sum(
            F.mse_loss(s, target_at(images, scale)) for s, scale in zip(linear_reconstructions, scales, strict=True)
        )
        # 0.07 is the variance of natural pixels: all terms are then shares of order one
        loss = pixel_readout / 0.07 + self.config.commit_weight * commit + self.config.align_weight * text_readout
        self.usage.add(step, [ids[i] for i in range(len(ids))])
        return loss, {
            "psnr": mean_psnr(linear_reconstructions[-1], images),
            "commit": float(commit.detach()),
            "text_readout": float(text_readout.detach()),
            **self.usage.shares(step),
        }

    def _place(self, index: int, address: Tensor, coarser: Tensor | None) -> Tensor:
        """A cell's place in the text space (B, D, h, w): a level's own address, or what it adds to the coarser levels'."""
        if self.quantizer.config.semantics == "whole" or coarser is None:
            return address
        ratio = self.quantizer.strides[index - 1] // self.quantizer.strides[index]
        return address + enlarge(coarser.detach(), ratio)

    def after_step(self, step: int) -> None:
        """Moves the codebooks; revival stops for the last fifth of the steps."""
        for index, ema in self.ema.items():
            if step >= 0.8 * self.steps:
                ema.stop_revival()
            ema.update(torch.cat(self._seen[index]))
            self._seen[index].clear()
            self.quantizer.level(index).codebook.copy_(ema.codebook)

    def extra_state(self) -> dict[str, dict[str, Tensor]]:
        """Running sums of the codebooks, and which codes were seen when."""
        return {str(index): ema.state() for index, ema in self.ema.items()} | {"usage": self.usage.state()}

    def load_extra_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Takes over what `extra_state` gave."""
        for index, ema in self.ema.items():
            ema.load_state(state[str(index)])
        self.usage.load_state(state["usage"])

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
        self._features, self._encode, self._codes, self._linear_reconstruction = (
            tok.features,
            tok.quantizer.encode,
            tok.quantizer.codes,
            tok.quantizer.linear_reconstruction,
        )
        self._perceptual = perceptual_distance(config.perceptual, tok.backbone)
        self.num_levels = len(tok.quantizer.levels)
        self.usage = CodebookUsage(tok.quantizer.codebook_sizes)

    def forward(self, images: Tensor, step: int) -> tuple[Tensor, dict[str, float]]:
        """Pixel loss, and the perceptual one where asked for, at a random prefix of levels. Images (B, 3, H, W)."""
        with torch.no_grad():
            ids = self._encode(self._features(images))
            codes = self._codes(ids)[: self._prefix()]
            linear_reconstruction = self._linear_reconstruction(codes)
        self.usage.add(step, ids)
        decoded = self.pixel_decoder(self.trunk(codes)[-1], linear_reconstruction)
        loss = pixel_loss(decoded, images, self.config.pixel_loss)
        psnr = mean_psnr(decoded, images)
        name = "psnr" if len(codes) == self.num_levels else f"psnr@{len(codes)}"
        figures = {name: psnr, "gain": psnr - mean_psnr(linear_reconstruction, images), **self.usage.shares(step)}
        if self._perceptual is not None:
            distance = self._perceptual(decoded, images)
            figures["perceptual"] = float(distance.detach())
            loss = loss + self.config.perceptual_weight * distance
        return loss, figures

    def _prefix(self) -> int:
        if self.num_levels > 1 and float(torch.rand(())) < self.config.level_dropout:
            return int(torch.randint(1, self.num_levels, ()))
        return self.num_levels

    def after_step(self, step: int) -> None:
        """Nothing: ids are frozen."""

    def extra_state(self) -> dict[str, dict[str, Tensor]]:
        """Which codes were seen when."""
        return {"usage": self.usage.state()}

    def load_extra_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Takes over what `extra_state` gave."""
        self.usage.load_state(state["usage"])

    def trainable(self) -> list[nn.Parameter]:
        """Trunk and pixel decoder."""
        return list(self.parameters())
