"""Stage 3: trains a segmentation head on labelled images. Ids are frozen, and by default the shared trunk is too."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyramid_tokenizer import hub
from pyramid_tokenizer.backbones.features import enlarge
from pyramid_tokenizer.checks.arguments import check_kind, check_kinds
from pyramid_tokenizer.config.models import SegmentationConfig
from pyramid_tokenizer.config.plain import to_dict
from pyramid_tokenizer.config.training import TrainConfig
from pyramid_tokenizer.errors import CheckpointError, ConfigError, NotFittedError
from pyramid_tokenizer.images.labelled import SegmentationSet, distinct_names
from pyramid_tokenizer.images.labelled.crops import LabelledBatch, LabelledCrops
from pyramid_tokenizer.segmentation.head import SegmentationHead, build_head
from pyramid_tokenizer.segmentation.segmenter import Segmenter
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.training.head_inputs import CellInputs, training_inputs
from pyramid_tokenizer.training.loop import run_stage
from pyramid_tokenizer.training.losses import pixel_loss
from pyramid_tokenizer.training.process import accelerated, own_randomness, reseed
from pyramid_tokenizer.training.reports import Log
from pyramid_tokenizer.training.resume import STATE_SUFFIX, check_settings
from pyramid_tokenizer.training.train import check_trainable, print_log, training_folder

LOGIT_STRIDE = 4
"""Pixels per logit in the loss, where cells are larger: finer than a cell, and coarse enough to train on a CPU."""


class SegmentationStage(nn.Module):
    """The loss of a segmentation head: per-class sigmoid cross-entropy, each image scored on the names of its own set.

    Args:
        seg: A segmenter with a head, whose parameters are trained; with `config.decoupled` false, trunk and pixel decoder are
            trained too, for masks and pixels at once.
        vocabularies: Text embeddings of each set's names, (N_s, D) float, rows of unit norm.
        config: Steps, learning rate, `decoupled`, `class_balance`, `thinning` and `consistency`.
        shares: How frequent each class of each set is, (N_s + 1,) float, as `LabelledCrops.pixel_shares` gives them; without
            them all pixels count alike.
        continuous: Whether the head reads features before quantisation instead of codes: what it could do without codebooks.
    """

    name = "segmentation"

    def __init__(
        self,
        seg: Segmenter,
        vocabularies: Sequence[Tensor],
        config: TrainConfig,
        *,
        shares: Sequence[Tensor] = (),
        continuous: bool = False,
    ):
        super().__init__()
        assert seg.head is not None
        self.steps, self.lr, self.ema_decay = config.head_steps, config.head_lr, config.ema_decay
        self.config, self.continuous = config, continuous
        self.head = seg.head
        self.joint = None if config.decoupled else nn.ModuleList([seg.tok.trunk, seg.tok.pixel_decoder])
        # behind a function, so that this module's parameters are those that are trained
        self._tok = lambda: seg.tok
        self._vocabularies = [rows.to(seg.tok.device) for rows in vocabularies]
        self._weights = [class_weights(own, config.class_balance).to(seg.tok.device) for own in shares]

    def forward(self, batch: LabelledBatch, step: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch, and the share of its pixels that get their own class."""
        tok = self._tok()
        with torch.no_grad():
            read, full = training_inputs(tok, batch.images, continuous=self.continuous, thinning=self.config.thinning)
            goal = None
            if full is not None and self.config.consistency:
                goal = self.head(full.lookup, self._fused(full), full.image).float()
        with torch.set_grad_enabled(self.head.trunk is not None or self.joint is not None):
            fused = self._fused(read)
        cells = self.head(read.lookup, fused, read.image)  # (B, D, h, w)
        with torch.autocast(cells.device.type, enabled=False):  # a sum over many classes needs float32
            loss, figures = self._mask_loss(cells.float(), batch, goal)
        if self.joint is not None:
            # what the pixel decoder will be given
            shared = fused if self.head.trunk is None else tok.trunk(read.codes, read.present)
            decoded = tok.pixel_decoder(shared[-1], tok.quantizer.linear_reconstruction(read.codes, read.present))
            pixels = pixel_loss(decoded, batch.images, self.config.pixel_loss)
            figures["pixels"] = float(pixels.detach())
            loss = loss + pixels
        return loss, figures

    def _fused(self, inputs: CellInputs) -> list[Tensor]:
        """The maps that the head reads, of the shared trunk or of its own."""
        trunk = self._tok().trunk if self.head.trunk is None else self.head.trunk
        return trunk(inputs.codes, inputs.present)

    def _mask_loss(self, cells: Tensor, batch: LabelledBatch, goal: Tensor | None) -> tuple[Tensor, dict[str, float]]:
        """Loss and figures of refined embeddings (B, D, h, w); each set's crops count by their share of the batch.

        Args:
            cells: Of what the head reads.
            batch: Its labels.
            goal: (B, D, h, w), what the head makes of the full pyramids where `cells` are of thinned ones; None elsewhere.
        """
        loss, apart, right, known = cells.new_zeros(()), cells.new_zeros(()), 0.0, 0.0
        for index, words in enumerate(self._vocabularies):
            rows = batch.sets == index
            if not rows.any():
                continue
            share = rows.float().mean()
            logits = self._logits(cells[rows], words)  # (b, N, h, w)
            labels = _at_size(batch.labels[rows], logits.shape[-2:])
            weights = self._weights[index] if self._weights else None
            loss = loss + sigmoid_loss(logits, labels, weights) * share
            if goal is not None:
                apart = apart + consistency_loss(logits, self._logits(goal[rows], words).detach()) * share
            counted = (labels >= 0) & (labels < len(words))
            right += float((logits.argmax(1) == labels)[counted].sum())
            known += float(counted.sum())
        figures = {"accuracy": right / max(known, 1.0)}
        if goal is not None:
            figures["apart"] = float(apart.detach())
        return loss + self.config.consistency * apart, figures

    def _logits(self, cells: Tensor, words: Tensor) -> Tensor:
        """(b, D, h, w) -> (b, N, h', w') of one set's words, as fine as labels are compared."""
        return enlarge(self.head.logits(cells, words), max(1, self._tok().trunk.strides[-1] // LOGIT_STRIDE))

    def after_step(self, step: int) -> None:
        """Nothing: ids are frozen."""

    def extra_state(self) -> dict[str, dict[str, Tensor]]:
        """What is learned: the text embeddings of the classes, and `continuous`."""
        words = {str(index): words.cpu() for index, words in enumerate(self._vocabularies)}
        return {"task": {"continuous": torch.tensor(float(self.continuous)), **words}}

    def load_extra_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Checks that a resumed run learns the same, which its other settings do not show.

        Raises:
            CheckpointError: Classes or inputs are others.
        """
        own, stored = self.extra_state()["task"], state["task"]
        # text embeddings may differ in the last bits between runs
        same = own.keys() == stored.keys() and all(
            value.shape == stored[name].shape and torch.allclose(value, stored[name], atol=1e-4)
            for name, value in own.items()
        )
        if not same:
            raise CheckpointError(
                "expected the classes and inputs that the run was started with, got others: give the same, or another directory"
            )

    def trainable(self) -> list[nn.Parameter]:
        """The parameters of the head, and of the trunks and the pixel decoder that are trained with it."""
        return list(self.parameters())


def sigmoid_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy, summed over classes and averaged over the pixels that count; 0 where no pixel counts.

    Args:
        logits: Logits of the classes (B, N, h, w), float.
        labels: Class of each pixel (B, h, w), int64: 0 to N - 1, N for none of the classes, -1 for pixels that do not count.
        weights: Weight of a pixel of each class and of none, (N + 1,) float; None weights all alike.

    Example:
        >>> logits = torch.zeros(1, 3, 1, 2)
        >>> round(float(sigmoid_loss(logits, torch.tensor([[[2, -1]]]))), 4)      # three times log 2
        2.0794
    """
    classes = logits.shape[1]
    counted = labels >= 0
    absent = F.softplus(logits).sum(1)  # (B, h, w), the loss where no class is there
    present = F.pad(logits, (0, 0, 0, 0, 0, 1)).gather(1, labels.clamp(0, classes)[:, None])[:, 0]  # 0 for none
    each = counted.float() if weights is None else counted * weights[labels.clamp(0, classes)]
    return ((absent - present) * each).sum() / counted.sum().clamp(min=1)


def consistency_loss(logits: Tensor, goal: Tensor) -> Tensor:
    """The Kullback-Leibler divergence of sigmoids from a goal's, summed over classes and averaged over all pixels.

    Labels have no part in it, so that pixels without one count too.

    Args:
        logits: Logits of the classes (B, N, h, w), float.
        goal: The same, of what `logits` should be.

    Source: Unsupervised data augmentation (arXiv 1904.12848) trains for what the network gives for the input as it was.

    Example:
        >>> logits = torch.tensor([[[[0.0]], [[1.0]]]])
        >>> float(consistency_loss(logits, logits)), round(float(consistency_loss(logits, 0 * logits)), 4)
        (0.0, 0.1201)
    """
    share = goal.sigmoid()
    each = (F.softplus(logits) - share * logits) - (F.softplus(goal) - share * goal)
    return each.sum(1).mean()


def class_weights(shares: Tensor, power: float) -> Tensor:
    """Weight of a pixel of each class: the share of its class to the power of `-power`, scaled to 1 on average over pixels.

    Args:
        shares: Share of each class among the pixels, (K,) float; a class without pixels gets the weight of the rarest.
        power: At 0 all pixels weigh the same, at 1 all classes do.

    Source: V. Badrinarayanan et al., "SegNet" (2015), balances by the median frequency, which is power 1.

    Example:
        >>> class_weights(torch.tensor([0.9, 0.1, 0.0]), 0.5)
        tensor([0.8333, 2.5000, 2.5000])
    """
    rarest = shares[shares > 0].min() if bool((shares > 0).any()) else torch.ones(())
    weights = shares.clamp(min=float(rarest)) ** -power
    return (weights / (weights * shares).sum().clamp(min=1e-12)).float()


def train_segmentation(  # noqa: PLR0913
    tok: PyramidTokenizer,
    sets: Sequence[SegmentationSet],
    *,
    config: TrainConfig,
    segmentation: SegmentationConfig | None = None,
    head: SegmentationHead | None = None,
    out: str | Path | None = None,
    left_out: Collection[str] = (),
    continuous: bool = False,
    half: bool = False,
    log: Log = print_log,
) -> Segmenter:
    """Trains a segmentation head on labelled images and saves it with its tokenizer; the same call resumes.

    Every id stays the same, and so does every decoded pixel unless `config.decoupled` is false.

    Args:
        tok: A trained tokenizer. Its ids do not change, and neither does its config.
        sets: Labelled sets, e.g. of `images.labelled.open_segmentation_set`; each may have class names of its own.
        config: `head_steps`, `head_lr`, `decoupled`, `class_balance`, `thinning`, `consistency`, `batch_size`, `crop_px` and what
            all stages share.
        segmentation: The head's shape; by default that of `tok.config`, or `SegmentationConfig()`.
        head: A trained head of that shape to begin with, e.g. after its trunk was trained on; it stays as it is. None begins
            with a new one.
        out: Directory of the model; `out/.training` holds what a resumed run needs. None keeps the result in memory only.
        left_out: Classes that are not learned, by their first word; their pixels do not count.
        continuous: Whether the head learns from features before quantisation: a control that shows what the codebooks cost.
        half: Whether decoder and head are stored in float16.
        log: Called with the figures of a step.

    Returns:
        The tokenizer with its head.

    Raises:
        NotFittedError: The codebooks are empty.
        ConfigError: The crop is no multiple of the coarsest stride, the tokenizer was cast to another dtype, or no set has a
            class that is to be left out.
        DataError: There are no images, labels have another size than their image, there is no class to learn, the labels of a
            set hold a single class or none, or a class has no word of its own.
        CheckpointError: The state in `out` belongs to other settings, is damaged, or cannot be written.

    Source: Per-class sigmoid over text embeddings: CAT-Seg (arXiv 2303.11797).
    """
    check_trainable(tok, config)
    if not tok.quantizer.is_fitted:
        raise NotFittedError("expected a trained tokenizer, got empty codebooks: train it first")
    check_kinds(sets, SegmentationSet, name="sets", fix="open them by open_segmentation_set(folder)")
    if config.sheet_every or config.tensorboard:
        warnings.warn("sheet_every and tensorboard are ignored: stage 3 has neither", stacklevel=2)
    with accelerated(config) as accelerator, training_folder(out) as folder:
        tok.to(accelerator.device)
        crops = LabelledCrops(
            sets,
            batch_size=config.batch_size,
            crop_px=config.crop_px,
            seed=config.seed + 4,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            accumulate=config.accumulate,
            left_out=left_out,
        )
        _tell(crops.check_labels(), aloud=accelerator.is_main_process)
        shape = segmentation or tok.config.segmentation or SegmentationConfig()
        seg = _begin(tok, shape, head, seed=config.seed)
        words = [_words(seg, names) for names in crops.names]
        shares = crops.pixel_shares() if config.class_balance else ()
        stage = SegmentationStage(seg, words, config, shares=shares, continuous=continuous)
        check_settings(folder / "segmentation.json", seg.tok, len(crops.places), config, head=shape)
        state = folder / f"{stage.name}{STATE_SUFFIX}"
        stage.requires_grad_(True)
        try:
            run_stage(stage, crops, config, accelerator=accelerator, state_path=state, log=log)
        finally:
            seg.requires_grad_(False).eval()
        tok.kept_head = hub.keep_head(seg.stored_head(), tok.own_tensors())  # in place of one it was loaded with
        accelerator.wait_for_everyone()
        if out is not None and accelerator.is_main_process:
            seg.save_pretrained(out, half=half)
            state.unlink(missing_ok=True)
    return seg


def _begin(
    tok: PyramidTokenizer, segmentation: SegmentationConfig, head: SegmentationHead | None, *, seed: int
) -> Segmenter:
    """The tokenizer with a new head, or with a copy of a trained one."""
    seg = new_segmenter(tok, segmentation, seed=seed)
    if head is None:
        return seg
    check_kind(head, SegmentationHead, name="head", fix='take the head of Segmenter.from_pretrained("tiny")')
    assert seg.head is not None
    shapes, found = ({name: tuple(x.shape) for name, x in h.state_dict().items()} for h in (seg.head, head))
    if shapes != found:
        differing = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
        raise ConfigError(
            f"expected a head of {segmentation} on this tokenizer's trunk, got one that differs in {differing[0]}: give "
            "segmentation= its shape, or begin with a new one"
        )
    seg.head.load_state_dict(head.state_dict())
    return seg


def new_segmenter(tok: PyramidTokenizer, segmentation: SegmentationConfig, *, seed: int = 0) -> Segmenter:
    """The tokenizer with a new head, which still gives exactly the masks of mode "lookup".

    A trunk of the head's own begins as a copy of the tokenizer's.

    Args:
        tok: A fitted tokenizer; it stays as it is.
        segmentation: The head's shape.
        seed: Seed of the head's initial weights.
    """
    cpu = torch.device("cpu")
    with own_randomness(cpu):
        reseed(seed, cpu)
        head = build_head(tok.trunk, embedding_dim=tok.backbone.embedding_dim, **to_dict(segmentation))
    if head.trunk is not None:
        head.trunk.load_state_dict(tok.trunk.state_dict())
    return Segmenter(tok, head)


def _tell(findings: Sequence[str], *, aloud: bool) -> None:
    """Warns of what was found in labels, in one process of several."""
    for finding in findings if aloud else ():
        warnings.warn(finding, stacklevel=3)


def _words(seg: Segmenter, names: Sequence[str]) -> Tensor:
    """Text embeddings of class names, (N, D) of unit norm: the mean of each class's synonyms.

    Words that several classes share are left to one of them.
    """
    words = seg.text.encode_names(distinct_names(names))
    sums = torch.zeros(len(names), words.embeddings.shape[1]).index_add_(0, words.owner, words.embeddings)
    return F.normalize(sums, dim=1)


def _at_size(labels: Tensor, size: Any) -> Tensor:
    """Labels (B, H, W) int64 resized to (B, h, w) by taking the nearest one."""
    return F.interpolate(labels[:, None].float(), size=tuple(size), mode="nearest-exact")[:, 0].long()
