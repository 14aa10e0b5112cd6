"""`VocabularyEmbeddings`: classes and the embeddings of their words; from a score per phrase to a score per class.

`Classification`: the class that suits each image best.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.images.labelled.labels import NO_CLASS


@dataclass(frozen=True, kw_only=True, slots=True)
class Classification:
    """The class that suits each image best."""

    labels: Tensor
    """(B,) int64, an index into `names`."""
    scores: Tensor
    """(B, N) float32: cosine of the image's embedding with each class, in [-1, 1]; the highest of its synonyms'."""
    names: tuple[str, ...]
    """The first synonym of each class."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VocabularyEmbeddings:
    """Class names and the embeddings of their words in CLIP's joint space; `TextEncoder.encode_names` makes it.

    Raises:
        ConfigError: Embeddings or owners of another shape or dtype, or a class without a phrase.

    Example:
        >>> words = VocabularyEmbeddings(names=("car", "dog"), embeddings=torch.eye(3), owner=torch.tensor([0, 0, 1]))
        >>> words.class_scores(torch.tensor([0.1, 0.7, 0.4]))
        tensor([0.7000, 0.4000])
    """

    names: tuple[str, ...]
    """N names to show."""
    embeddings: Tensor
    """(P, D) float32 on the CPU, unit rows."""
    owner: Tensor
    """(P,) int64 on the CPU, the class of each phrase in [0, N); `NO_CLASS` is the background."""

    def __post_init__(self) -> None:
        count = len(self.embeddings) if self.embeddings.ndim == 2 else -1
        if self.owner.shape != (count,) or self.owner.dtype != torch.int64:
            got = f"{tuple(self.embeddings.shape)} with {self.owner.dtype} {tuple(self.owner.shape)}"
            raise ConfigError(
                f"expected embeddings (P, D) with an int64 owner (P,), got {got}: give the class of each row"
            )
        if sorted(set(self.owner.tolist()) - {NO_CLASS}) != list(range(self.num_classes)) or not self.names:
            raise ConfigError(
                f"expected a phrase for each of {self.num_classes} classes and {NO_CLASS} for the background, got owners "
                f"{sorted(set(self.owner.tolist()))}: number the classes as in names"
            )

    @property
    def num_classes(self) -> int:
        """N, the background not counted."""
        return len(self.names)

    @property
    def has_background(self) -> bool:
        """Whether some phrases stand for everything else."""
        return bool((self.owner == NO_CLASS).any())

    def class_scores(self, phrase_scores: Tensor, *, dim: int = -1) -> Tensor:
        """The score of each class: the highest score of its synonyms, so that a further synonym never lowers it.

        Source:
            Maximum over a class's words: SCLIP (arXiv 2312.01597), `clip_segmentor.py`, and its many successors.

        Args:
            phrase_scores: (..., P) float on any device; a higher score means a better match.
            dim: The dimension of size P: 1 for maps (B, P, H, W).

        Returns:
            (..., N) of the same dtype and device; (..., N + 1) where there is a background, which comes last. Where every class
            has one phrase, this is the tensor that was given, not a copy.

        Raises:
            ConfigError: Not P scores along `dim`, or no floats.
        """
        count = len(self.owner)
        if not phrase_scores.is_floating_point() or phrase_scores.ndim == 0 or phrase_scores.shape[dim] != count:
            got = f"{phrase_scores.dtype} of shape {tuple(phrase_scores.shape)}"
            raise ConfigError(
                f"expected {count} float scores along dimension {dim}, one per phrase, got {got}: multiply by embeddings.T"
            )
        columns = self.num_classes + self.has_background
        index = self.owner % columns  # NO_CLASS, -1, becomes the last column
        if torch.equal(index, torch.arange(columns, device=index.device)):
            return phrase_scores
        scores = phrase_scores.movedim(dim, -1)  # (..., P)
        lowest = scores.new_full((*scores.shape[:-1], columns), -torch.inf)
        return lowest.scatter_reduce(-1, index.to(scores.device).expand(scores.shape), scores, "amax").movedim(-1, dim)

    def classify(self, embeddings: Tensor) -> Classification:
        """The class of each image by the cosine of its embedding with the words of the classes; without a background.

        Args:
            embeddings: (B, D) float of unit norm, on any device.

        Example:
            >>> words = VocabularyEmbeddings(names=("car", "dog"), embeddings=torch.eye(2), owner=torch.tensor([0, 1]))
            >>> words.classify(torch.tensor([[0.6, 0.8]])).labels
            tensor([1])
        """
        scores = self.class_scores(embeddings @ self.embeddings.to(embeddings.device).T)  # (B, N)
        return Classification(labels=scores.argmax(1), scores=scores, names=self.names)
