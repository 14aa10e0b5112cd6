"""Fits the codebooks of the image tokens: k-means of image embeddings, then of what is left of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.backbones.features import FeaturePyramid
from pyramid_tokenizer.errors import DataError
from pyramid_tokenizer.quantizer.fit.kept import Samples
from pyramid_tokenizer.quantizer.fit.kmeans import kmeans
from pyramid_tokenizer.quantizer.image_codes import ImageQuantizer
from pyramid_tokenizer.quantizer.nearest import nearest


@torch.no_grad()
def fit_image_codes(
    image: ImageQuantizer, samples: Samples, iterations: int, generator: torch.Generator, *, keep: bool = False
) -> None:
    """Fits the codebooks of all image tokens.

    Of fewer images than entries, each is an entry; the other entries repeat the first one and are never chosen.

    Args:
        image: Changed in place.
        samples: See `Samples`; called once, and not at all where there are no image tokens.
        iterations: Steps of k-means.
        generator: Starts k-means.
        keep: Whether k-means starts from the present entries.

    Raises:
        DataError: Features without an image embedding.
    """
    if not image.codebook_sizes:
        return
    rest = torch.cat([image_embeddings(features) for features, _ in samples()])
    for codebook in image.codebooks:
        count = min(len(codebook), len(rest))
        start = codebook[:count] if keep else None
        entries = kmeans(rest, count, iterations=iterations, generator=generator, start=start)
        codebook.copy_(torch.cat([entries, entries[:1].expand(len(codebook) - count, -1)]))
        rest = rest - codebook[nearest(rest, codebook)]


def image_embeddings(features: FeaturePyramid) -> Tensor:
    """The backbone's own image embeddings of a batch, (B, D) float32 of unit norm; DataError where there are none."""
    if features.embedding is None:
        raise DataError("expected features with an image embedding, got none: call the backbone with with_dense=True")
    return F.normalize(features.embedding.float(), dim=1)
