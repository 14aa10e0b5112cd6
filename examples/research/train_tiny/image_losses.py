"""The losses of the backbone: names, the features of the teachers, dense classes and captions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from common import PREPROCESS_CONFIG
from image_batches import Batch, Vocabulary
from image_teachers import COMPONENTS
from open_clip.model import CLIP
from torch import Tensor, nn
from train_text import encode

WEIGHTS = {"label": 0.3, "kind": 0.3, "kin": 1.5, "pooled": 6.0, "cells": 4.0, "dense": 1.2, "caption": 0.06}
FEATURE_SCALE = 1 / 16  # the teachers' components are small numbers read from 1,280 channels: small steps towards them
KIN_CLASSES = 5
OTHER_CAPTIONS = 255


class Names(nn.Module):
    """Unit rows of the text encoder for every name and caption that images are matched to; fixed."""

    labels: Tensor
    kinds: Tensor
    kind_known: Tensor
    dense: Tensor
    captions: Tensor

    def __init__(self, vocabulary: Vocabulary, clip: CLIP):
        super().__init__()
        for key in ("labels", "kinds", "dense"):
            self.register_buffer(key, torch.from_numpy(encode(clip, getattr(vocabulary, key))), persistent=False)
        captions = torch.from_numpy(encode(clip, vocabulary.captions, templates=("{}",)))
        self.register_buffer("captions", captions, persistent=False)
        self.register_buffer("kind_known", vocabulary.kind_known, persistent=False)


class Student(nn.Module):
    """The backbone with helpers for the training only: linear maps to the teacher's features, and a temperature.

    Its stem, which tokenizers read pixels from, stays as it is.
    """

    def __init__(self, clip: CLIP):
        super().__init__()
        self.visual = clip.visual
        self.visual.trunk.patch_embed.requires_grad_(False)
        hidden = self.visual.trunk.conv_head.out_channels
        self.to_pooled = nn.Linear(hidden, COMPONENTS)
        self.to_cells = nn.Conv2d(hidden, COMPONENTS, 1)
        for head in (self.to_pooled, self.to_cells):
            nn.init.zeros_(head.weight)  # starts from the teacher's mean, so that no early step shakes the backbone
        self.log_scale = nn.Parameter(torch.tensor(math.log(20.0)))
        for key in ("mean", "std"):
            values = torch.tensor(PREPROCESS_CONFIG[key]).view(1, 3, 1, 1)
            self.register_buffer(key, values, persistent=False)

    def train(self, mode: bool = True) -> Student:
        """As torch's, without the stem's statistics."""
        super().train(mode)
        self.visual.trunk.patch_embed.eval()
        return self

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
    last = student.maps(batch.images)[-1]
    whole = student.hidden(last.mean((2, 3), keepdim=True))
    cells = student.hidden(last)
    dense = student.project(cells).float()
    # An image's embedding both ways it is made: by the backbone's own pooled head, and as the mean of the dense map's cells.
    embeddings = [F.normalize(student.project(whole).flatten(1).float(), dim=1), mean_direction(dense)]
    scale = student.log_scale.exp().clamp(max=100)
    taught = len(batch.kinds)
    losses = {
        "pooled": feature_loss(student.to_pooled(whole[:taught].flatten(1)), batch.pooled),
        "cells": feature_loss(student.to_cells(cells[:taught]), batch.cells),
        "dense": dense_loss(dense, batch, names, scale),
    }
    for weight, embedding in zip((1.0, 0.5), embeddings, strict=True):
        for name, value in embedding_losses(embedding, batch, names, scale).items():
            losses[name] = losses.get(name, 0.0) + weight * value
    known = batch.labels >= 0
    right = [(e @ names.labels.T).argmax(1) == batch.labels for e in embeddings]
    return losses, {
        name: float(hits[known].float().mean()) for name, hits in zip(("top1", "top1_dense"), right, strict=True)
    }


def feature_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """Squared distance to the teacher's components, (T, 256) or (T, 256, C, C) each."""
    return (FEATURE_SCALE * found.float() - wanted).square().sum(1).mean()


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
    taught = embedding[: len(batch.kinds)]
    sure = batch.kinds.sum(1)  # small where MobileNet saw a kept-out name: such a crop teaches no kind
    logits = scale * taught @ names.kinds.T
    logits = logits.masked_fill(~names.kind_known, -1e4)
    wanted = batch.kinds / sure.clamp(min=1e-3)[:, None]
    usable = (sure > 0.7).float()
    kind = (F.kl_div(logits.log_softmax(1), wanted, reduction="none").sum(1) * usable).mean()
    top, rows = wanted.topk(KIN_CLASSES, dim=1)
    target = F.normalize((top[:, :, None] * names.kinds[rows]).sum(1) + scene(batch, names)[: len(taught)], dim=1)
    labels = batch.labels[: len(taught)]
    target[labels >= 0] = names.labels[labels[labels >= 0]]
    kin = ((1 - (taught * target).sum(1)) * torch.maximum(usable, (labels >= 0).float())).mean()
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
