"""Fits what gives an image's embedding: the codebooks of the image tokens, and what the mean over the cells adds to them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.backbones.features import FeaturePyramid
from pyramid_tokenizer.errors import DataError
from pyramid_tokenizer.quantizer.fit.kept import Samples
from pyramid_tokenizer.quantizer.fit.kmeans import kmeans
from pyramid_tokenizer.quantizer.fit.regression import ridge
from pyramid_tokenizer.quantizer.image_codes import ImageQuantizer
from pyramid_tokenizer.quantizer.nearest import nearest
from pyramid_tokenizer.quantizer.pyramid import PyramidQuantizer

EMBEDDING_RIDGE = 1e-3
"""Ridge of the map to image embeddings, whose samples are images and not cells. Measured on an unfinished backbone of the
bundled model (zero-shot accuracy from tokens, 98 names, 160 px): 35.2, 35.6, 33.7 and 32.2 % at 1e-4, 1e-3, 1e-2 and 1e-1,
34.1 % without the map."""
DIRECTIONS = 32
"""k-means finds the entries of an image token in the space of so many directions, in which what is left of the embeddings
varies most: entries of all directions fit the few images near them alone. Cosine of the codes with embeddings that were not
fitted on, all directions and 32: .867 and .880 for twelve tokens of 6,286 images and .879 and .888 of 17,357, in the bundled
model's 128 dimensions; .536 and .590 for eight tokens of 4,800 images, in the 1,280 of MobileNetV2's pooled map (16: .589,
64: .588)."""


@torch.no_grad()
def fit_embedding(
    quantizer: PyramidQuantizer, samples: Samples, iterations: int, generator: torch.Generator, *, keep: bool = False
) -> None:
    """Fits the image tokens, then the linear map from the mean text embedding of cells to what they leave of image embeddings.

    Codes of cells keep the common directions of the text space better than the rare ones; the map gives the rare ones their
    weight back. It is fitted to what image tokens leave of images that *their* codebooks were not fitted on: of those that they
    were fitted on they leave next to nothing. Measured on a distilled ViT (651 photos, 153 names, mean of three seeds): 27.3 % of
    the names, against 26.5 % with the same images for both and 30.3 % by the embedding itself.

    Args:
        quantizer: With fitted levels; changed in place.
        samples: See `Samples`; called once.
        iterations: Steps of k-means.
        generator: Starts k-means.
        keep: Whether k-means starts from the present entries.

    Raises:
        DataError: Features without an image embedding.
    """
    found = [
        (image_embeddings(features), quantizer.mean_text_embedding(quantizer.encode(features)))
        for features, _ in samples()
    ]
    wanted, means = (torch.cat(rows) for rows in zip(*found, strict=True))
    left = wanted
    if quantizer.image.codebook_sizes:
        left = _left_by_other_half(quantizer.image, wanted, iterations, generator)
        fit_image_codes(quantizer.image, wanted, iterations, generator, keep=keep)
    fit = ridge(means, left, share=EMBEDDING_RIDGE)
    quantizer.to_embedding.weight.copy_(fit.weight.T)
    quantizer.to_embedding.bias.copy_(fit.bias)


@torch.no_grad()
def fit_image_codes(
    image: ImageQuantizer, rows: Tensor, iterations: int, generator: torch.Generator, *, keep: bool = False
) -> None:
    """Fits the codebooks of all image tokens: k-means of image embeddings, then of what is left of them, and so on.

    Entries lie in the space of the `DIRECTIONS` leading directions. Of fewer images than entries, each is an entry; the other
    entries repeat the first one and are never chosen.

    Args:
        image: Changed in place.
        rows: (N, D) float32 of unit norm, image embeddings.
        iterations: Steps of k-means.
        generator: Starts k-means.
        keep: Whether k-means starts from the present entries.
    """
    for codebook in image.codebooks:
        count = min(len(codebook), len(rows))
        axes = _leading(rows, DIRECTIONS if count < len(rows) else image.embedding_dim)
        start = codebook[:count] @ axes if keep else None
        entries = kmeans(rows @ axes, count, iterations=iterations, generator=generator, start=start) @ axes.T
        codebook.copy_(torch.cat([entries, entries[:1].expand(len(codebook) - count, -1)]))
        rows = rows - codebook[nearest(rows, codebook)]


def _leading(rows: Tensor, directions: int) -> Tensor:
    """(D, d): the orthonormal directions, as columns, in which (N, D) rows are largest; the identity where all are wanted."""
    if directions >= rows.shape[1]:
        return torch.eye(rows.shape[1], device=rows.device)
    return torch.linalg.eigh(rows.double().T @ rows.double()).eigenvectors[:, -directions:].float()


def _left_by_other_half(image: ImageQuantizer, rows: Tensor, iterations: int, generator: torch.Generator) -> Tensor:
    """(N, D): what codebooks that were fitted on the other half of the images leave of each; of a single image, nothing."""
    other = ImageQuantizer(image.codebook_sizes, embedding_dim=image.embedding_dim).to(rows.device)
    left = torch.zeros_like(rows)
    for own in (0, 1):
        if len(rows) > 1:
            fit_image_codes(other, rows[1 - own :: 2], iterations, generator)
            left[own::2] = rows[own::2] - other.codes(other.encode(rows[own::2]))
    return left


def image_embeddings(features: FeaturePyramid) -> Tensor:
    """The backbone's own image embeddings of a batch, (B, D) float32 of unit norm; DataError where there are none."""
    if features.embedding is None:
        raise DataError("expected features with an image embedding, got none: call the backbone with with_dense=True")
    return F.normalize(features.embedding.float(), dim=1)
