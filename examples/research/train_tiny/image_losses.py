"""The losses of the backbone: names, the features of the teachers, dense classes, captions, and pixels."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import PREPROCESS_CONFIG
from decoder import CODE_CHANNELS, CapacityPyramid, decoding_loss
from image_batches import Batch, Vocabulary
from image_teachers import COMPONENTS
from open_clip.model import CLIP
from text_teachers import TARGETS
from torch import Tensor, nn

# Chosen by the norms of their gradients at the trunk's stages: at strides 16 and 32 names, kinds and the teacher's features
# have gradients of about the same norm; at strides 4 and 8 the pixels have the largest. In the first 1,000 steps of the bundled
# model the features had a tenth of the weight that they have here.
WEIGHTS = {
    "decoding": 1.0,
    "capacity": 0.05,
    "label": 0.15,
    "kind": 0.3,
    "kin": 1.5,
    "pooled": 6.0,
    "cells": 4.0,
    "middle": 0.6,
    "dense": 0.4,
    "caption": 0.03,
}
DECODED = 0.5  # share of a step's crops that are decoded: decoding costs most and learns from few
FEATURE_SCALE = 1 / 16  # the teachers' components are small numbers read from 1,280 channels: small steps towards them
KIN_CLASSES = 5
OTHER_CAPTIONS = 255


class Names(nn.Module):
    """Unit rows of the shared space for every name and caption that images are matched to; fixed."""

    labels: Tensor
    kinds: Tensor
    kind_known: Tensor
    dense: Tensor
    captions: Tensor

    def __init__(self, vocabulary: Vocabulary, cache: Path):
        super().__init__()
        texts = json.loads((cache / "texts.json").read_text())
        stored = np.load(cache / TARGETS)
        rows = {name: i for i, name in enumerate(texts["name"])}
        for key in ("labels", "kinds", "dense"):
            # Row 0 of the kinds, the background, is no name and is masked wherever kinds are compared.
            found = stored["name"][[rows.get(name, 0) for name in getattr(vocabulary, key)]]
            self.register_buffer(key, torch.from_numpy(found.astype(np.float32)), persistent=False)
        self.register_buffer("kind_known", vocabulary.kind_known, persistent=False)
        self.register_buffer("captions", torch.from_numpy(stored["caption"].astype(np.float32)), persistent=False)


class Student(nn.Module):
    """The backbone with helpers for the training only: a decoder, linear maps to the teachers' features, a temperature."""

    def __init__(self, clip: CLIP):
        super().__init__()
        self.visual = clip.visual
        channels = [info["num_chs"] for info in self.visual.trunk.feature_info]
        self.decoder = CapacityPyramid(channels)
        hidden = self.visual.trunk.conv_head.out_channels
        self.to_pooled = nn.Linear(hidden, COMPONENTS)
        self.to_cells = nn.Conv2d(hidden, COMPONENTS, 1)
        self.to_middle = nn.Conv2d(channels[2], 96, 1)
        width = self.visual.trunk.classifier.out_features
        self.to_words = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in CODE_CHANNELS)
        for head in (self.to_pooled, self.to_cells, self.to_middle):
            nn.init.zeros_(head.weight)  # starts from the teachers' mean, so that no early step shakes the backbone
        self.log_scale = nn.Parameter(torch.tensor(math.log(20.0)))
        for key in ("mean", "std"):
            values = torch.tensor(PREPROCESS_CONFIG[key]).view(1, 3, 1, 1)
            self.register_buffer(key, values, persistent=False)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The trunk's maps, strides 4 to 32, of (B, 3, S, S) images in [0, 1]."""
        x = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.visual.trunk.forward_intermediates(x, intermediates_only=True)

    def hidden(self, last: Tensor) -> Tensor:
        """The backbone's head before its projection, in every cell: (B, 320, h, w) -> (B, 1280, h, w)."""
        trunk = self.visual.trunk
        return trunk.act(trunk.conv_head(last))

    def project(self, hidden: Tensor) -> Tensor:
        """(B, 1280, h, w) -> (B, D, h, w), the backbone's projection in every cell."""
        classifier = self.visual.trunk.classifier
        return F.conv2d(hidden, classifier.weight[:, :, None, None], classifier.bias)


def student_losses(student: Student, batch: Batch, names: Names) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Every loss unweighted, and figures to watch."""
    maps = student.maps(batch.images)
    pixels_of = round(DECODED * len(batch.images))
    decoded, codes, capacity = student.decoder([m[:pixels_of] for m in maps])
    whole = student.hidden(maps[-1].mean((2, 3), keepdim=True))
    cells = student.hidden(maps[-1])
    dense = student.project(cells).float()
    # An image's embedding all ways it is made: by the backbone's own pooled head, as the mean of the dense map's cells, and
    # from the noisy codes, as a tokenizer will read it from tokens: so the backbone puts names where small codebooks keep them.
    embeddings = [
        F.normalize(student.project(whole).flatten(1).float(), dim=1),
        mean_direction(dense),
        F.normalize(
            sum(mean_direction(u(code).float()) for u, code in zip(student.to_words, codes, strict=True)), dim=1
        ),
    ]
    scale = student.log_scale.exp().clamp(max=100)
    losses = {
        "decoding": decoding_loss(decoded, batch.images[:pixels_of]),
        "capacity": capacity.float(),
        "pooled": (FEATURE_SCALE * student.to_pooled(whole.flatten(1)).float() - batch.pooled).square().sum(1).mean(),
        "cells": (FEATURE_SCALE * student.to_cells(cells).float() - batch.cells).square().sum(1).mean(),
        "middle": F.mse_loss(student.to_middle(maps[2]).float(), batch.middle),
        "dense": dense_loss(dense, batch, names, scale),
    }
    for weight, embedding in zip((0.6, 0.4, 0.5), embeddings, strict=True):
        for name, value in embedding_losses(embedding, batch.first(len(embedding)), names, scale).items():
            losses[name] = losses.get(name, 0.0) + weight * value
    known = batch.labels >= 0
    right = [(e @ names.labels.T).argmax(1) == batch.labels[: len(e)] for e in embeddings]
    psnr = -10 * math.log10(float(F.mse_loss(decoded[-1].detach().float(), batch.images[:pixels_of])))
    figures = {
        name: float(hits[known[: len(hits)]].float().mean())
        for name, hits in (("top1", right[0]), ("top1_codes", right[2]))
    }
    return losses, {"psnr": psnr, **figures}


def mean_direction(cells: Tensor) -> Tensor:
    """(B, D, h, w) -> (B, D) unit mean of the cells' directions."""
    return F.normalize(F.normalize(cells, dim=1).mean((2, 3)), dim=1)


def embedding_losses(embedding: Tensor, batch: Batch, names: Names, scale: Tensor) -> dict[str, Tensor]:
    """Label names, MobileNet's kinds, and nearness to the mean of its likeliest kinds' names. `embedding` (B, D), unit."""
    zero = embedding.sum() * 0.0
    known = batch.labels >= 0
    label = zero
    if known.any():
        logits = scale * embedding[known] @ names.labels.T
        label = F.cross_entropy(logits, batch.labels[known], label_smoothing=0.05) * known.float().mean() * 2
    sure = batch.kinds.sum(1)  # small where MobileNet saw a kept-out name: such a crop teaches no kind
    logits = scale * embedding @ names.kinds.T
    logits = logits.masked_fill(~names.kind_known, -1e4)
    wanted = batch.kinds / sure.clamp(min=1e-3)[:, None]
    usable = (sure > 0.7).float()
    kind = (F.kl_div(logits.log_softmax(1), wanted, reduction="none").sum(1) * usable).mean()
    top, rows = wanted.topk(KIN_CLASSES, dim=1)
    target = F.normalize((top[:, :, None] * names.kinds[rows]).sum(1) + scene(batch, names), dim=1)
    target[known] = names.labels[batch.labels[known]]
    kin = ((1 - (embedding * target).sum(1)) * torch.maximum(usable, known.float())).mean()
    return {"label": label, "kind": kind, "kin": kin, "caption": caption_loss(embedding, batch, names, scale)}


def scene(batch: Batch, names: Names) -> Tensor:
    """(B, D) sum of the dense classes' names, each by the root of its area: what a caption would list."""
    areas = batch.dense.mean((2, 3))
    return (areas * (areas > 0.01)).sqrt() @ names.dense


def dense_loss(dense: Tensor, batch: Batch, names: Names, scale: Tensor) -> Tensor:
    """Cross-entropy of each cell's embedding over the classes that its image's labels tell apart. `dense` (B, D, C, C)."""
    cells = F.normalize(dense, dim=1).permute(0, 2, 3, 1).flatten(1, 2)
    logits = scale * cells @ names.dense.T
    logits = logits.masked_fill(~batch.allowed[:, None], -1e4)
    shares = batch.dense.flatten(2).transpose(1, 2)
    return -(shares * logits.log_softmax(2)).sum(2).mean()


def caption_loss(embedding: Tensor, batch: Batch, names: Names, scale: Tensor) -> Tensor:
    """Each captioned crop's own caption against random others."""
    if not len(batch.caption_rows):
        return embedding.sum() * 0.0
    others = torch.randint(0, len(names.captions), (OTHER_CAPTIONS,), device=embedding.device)
    candidates = torch.cat([names.captions[batch.caption_ids], names.captions[others]])
    logits = scale * embedding[batch.caption_rows] @ candidates.T
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
