"""The stages of training: stage 1 moves adapters and codebooks; stage 2 trains trunk and pixel decoder on frozen ids."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyramid_tokenizer.backbones.features import FeaturePyramid, semantic_target
from pyramid_tokenizer.config.training import TrainConfig
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.tokens.splits import Presence
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
from pyramid_tokenizer.training.thinning import draw_masks
from pyramid_tokenizer.training.usage import CodebookUsage


class CodebookStage(nn.Module):
    """Stage 1: adapters and read-outs learn by gradients, and the codebooks follow the adapters by moving averages.

    The linear reconstruction stands in for the decoder: only one matrix lies between an adapter and the pixels.
    """

    name = "codebooks"

    def __init__(self, tok: PyramidTokenizer, config: TrainConfig):
        super().__init__()
        self.steps, self.lr, self.config = config.codebook_steps, config.codebook_lr, config
        self.ema_decay = 0.0  # the codebooks follow the adapters as they are: averaged ones would not fit them
        self.quantizer = tok.quantizer
        self._features = tok.features
        pixels = config.batch_size * config.accumulate * config.crop_px**2
        levels = [tok.quantizer.level(index) for index in range(len(tok.quantizer.levels))]
        self.ema = {
            index: EmaCodebook(
                level.codebook,
                vectors_per_step=pixels // tok.quantizer.strides[index] ** 2,
                cosine=level.kind.unit_norm,
            )
            for index, level in enumerate(levels)
            if level.kind.learned
        }
        self.usage = CodebookUsage(tok.quantizer.codebook_sizes)
        self._seen: dict[int, list[Tensor]] = {index: [] for index in self.ema}

    def forward(self, images: Tensor, step: int) -> tuple[Tensor, dict[str, float]]:
        """Loss and figures of a batch of images (B, 3, H, W) in [0, 1].

        The loss is the squared error of the linear reconstruction at the end of every level, plus the commitment of
        projections to their codes and the distance of text embeddings from the dense features, each by its weight.
        """
        features = self._features(images, with_dense=True)
        codes: dict[int, Tensor] = {}
        ids: dict[int, Tensor] = {}
        commit = images.new_zeros(())
        for index in self.quantizer.order:
            level = self.quantizer.level(index)
            projected = level.project(self.quantizer.level_input(index, features, codes))
            ids[index] = level.assign(projected.detach())
            quantised = level.look_up(ids[index])
            if index in self.ema:
                commit = commit + commitment_loss(projected, quantised)
                self._seen[index].append(projected.detach().permute(0, 2, 3, 1).flatten(0, 2))  # (B h w, d)
            codes[index] = straight_through(projected, quantised)
        ordered = [codes[i] for i in range(len(codes))]
        images_by_level = self.quantizer.linear_reconstructions(ordered)
        pixels, alignment = self._pixel_loss(images_by_level, images), self._alignment_loss(ordered, features)
        # 0.07 is the variance of natural pixels: all terms are then shares of order one
        loss = pixels / 0.07 + self.config.commit_weight * commit + self.config.align_weight * alignment
        self.usage.add(step, [ids[i] for i in range(len(ids))])
        return loss, {
            "psnr": mean_psnr(images_by_level[-1], images),
            "commit": float(commit.detach()),
            "alignment": float(alignment.detach()),
            **self.usage.shares(step),
        }

    def _pixel_loss(self, images_by_level: list[Tensor], images: Tensor) -> Tensor:
        scales = [self.quantizer.scale(index) for index in range(len(images_by_level))]
        errors = [F.mse_loss(s, target_at(images, scale)) for s, scale in zip(images_by_level, scales, strict=True)]
        return torch.stack(errors).sum()

    def _alignment_loss(self, codes: list[Tensor], features: FeaturePyramid) -> Tensor:
        """One less the cosine of text embeddings with the dense features, summed over levels.

        Every level's read-out learns from it; gradients reach the adapter scaled by the level's semantic weight, and never
        the coarser levels.
        """
        losses, coarser = [], None
        for index, level_codes in enumerate(codes):
            level = self.quantizer.level(index)
            felt = torch.lerp(level_codes.detach(), level_codes, level.semantic_weight)
            text = self.quantizer.composition.add(coarser, level.text_embeddings_of(felt), self.quantizer.ratio(index))
            losses.append(alignment_loss(F.normalize(text, dim=1), semantic_target(features, text.shape[-2:])))
            coarser = text.detach()
        return torch.stack(losses).sum()

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
        """Adapters and read-outs of all levels; the map to image embeddings is left to the refit that follows."""
        return list(self.quantizer.levels.parameters())


class DecoderStage(nn.Module):
    """Stage 2: trunk and pixel decoder learn to turn frozen ids of every prefix and of sparse pyramids into pixels."""

    name = "decoder"

    def __init__(self, tok: PyramidTokenizer, config: TrainConfig):
        super().__init__()
        self.steps, self.lr, self.config = config.decoder_steps, config.decoder_lr, config
        self.ema_decay = config.ema_decay
        self.trunk, self.pixel_decoder = tok.trunk, tok.pixel_decoder
        # behind functions, so that this module holds what trains and nothing else
        self._features, self._quantizer = tok.features, lambda: tok.quantizer
        self._perceptual = perceptual_distance(config.perceptual, tok.backbone)
        self.num_levels = len(tok.quantizer.levels)
        self.usage = CodebookUsage(tok.quantizer.codebook_sizes)

    def forward(self, images: Tensor, step: int) -> tuple[Tensor, dict[str, float]]:
        """Pixel loss, and the perceptual one where asked for, at a random prefix or thinning. Images (B, 3, H, W)."""
        quantizer = self._quantizer()
        with torch.no_grad():
            ids = quantizer.encode(self._features(images), levels=self.num_levels)
            name, used, present = self._part(ids, images)
            codes = quantizer.codes(used, present)
            linear_reconstruction = quantizer.linear_reconstruction(codes, present)
        self.usage.add(step, ids)
        decoded = self.pixel_decoder(self.trunk(codes, present)[-1], linear_reconstruction)
        loss = pixel_loss(decoded, images, self.config.pixel_loss)
        psnr = mean_psnr(decoded, images)
        figures = {name: psnr, "gain": psnr - mean_psnr(linear_reconstruction, images), **self.usage.shares(step)}
        if self._perceptual is not None:
            distance = self._perceptual(decoded, images)
            figures["perceptual"] = float(distance.detach())
            loss = loss + self.config.perceptual_weight * distance
        return loss, figures

    def _part(self, ids: Sequence[Tensor], images: Tensor) -> tuple[str, Sequence[Tensor], Presence]:
        """What a step decodes: the name of its figure, ids, and masks. A prefix, a sparse pyramid, or the usual full one."""
        base, drawn = self._quantizer().base_levels, float(torch.rand(()))
        prefixes = [count for count in range(1, self.num_levels + 1) if count != base]
        if drawn < self.config.level_dropout and prefixes:
            count = prefixes[int(torch.randint(len(prefixes), ()))]
            return f"psnr@{count}", ids[:count], ()
        if drawn < self.config.level_dropout + self.config.thinning and self.num_levels > 1:
            count = int(torch.randint(max(base, 2), self.num_levels + 1, ()))
            return "psnr@sparse", ids[:count], draw_masks(self._quantizer(), ids[:count], images)
        return "psnr", ids[:base], ()

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
