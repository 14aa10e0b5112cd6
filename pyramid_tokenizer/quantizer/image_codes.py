"""The image tokens: a few codes for the image as a whole, of the backbone's image embedding.

The levels' codes say what is where; their mean knows only that part of the image embedding which the dense features of single
places know. On a ViT much of it is in the class token alone, and image tokens keep it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyramid_tokenizer.quantizer.level import float32_on
from pyramid_tokenizer.quantizer.nearest import nearest


class ImageQuantizer(nn.Module):
    """Image embeddings to ids and back: each codebook is for what the codes of those before it leave.

    Args:
        codebook_sizes: K of each image token; () for none.
        embedding_dim: D, dimensions of the space that images and words share.

    Source: B. Juang and A. Gray, "Multiple stage vector quantization for speech coding" (1982).

    Example:
        >>> image = ImageQuantizer((8, 8), embedding_dim=16)
        >>> for codebook in image.codebooks:
        ...     _ = torch.nn.init.normal_(codebook)
        >>> ids = image.encode(torch.rand(2, 16))
        >>> ids.shape, image.codes(ids).shape
        (torch.Size([2, 2]), torch.Size([2, 16]))
    """

    def __init__(self, codebook_sizes: Sequence[int], *, embedding_dim: int):
        super().__init__()
        self.codebook_sizes, self.embedding_dim = tuple(codebook_sizes), embedding_dim
        for number, size in enumerate(self.codebook_sizes):
            self.register_buffer(f"codebook_{number}", torch.zeros(size, embedding_dim))

    @property
    def codebooks(self) -> list[Tensor]:
        """(K, D) float32 for each image token."""
        return [self.get_buffer(f"codebook_{number}") for number in range(len(self.codebook_sizes))]

    def encode(self, embeddings: Tensor) -> Tensor:
        """Ids of image embeddings of any norm: (B, D) -> (B, M) int64."""
        if not self.codebook_sizes:
            return torch.empty(len(embeddings), 0, dtype=torch.int64, device=embeddings.device)
        ids: list[Tensor] = []
        with float32_on(embeddings.device):
            rest = F.normalize(embeddings.float(), dim=1)
            for codebook in self.codebooks:
                ids.append(nearest(rest, codebook))
                rest = rest - codebook[ids[-1]]
        return torch.stack(ids, 1)

    def codes(self, ids: Tensor) -> Tensor:
        """What ids say of the image embeddings, the sum of their entries: (B, M) int64 -> (B, D) float32."""
        # len(ids) would fix the batch of a recorded graph
        total = torch.zeros(ids.shape[0], self.embedding_dim, device=ids.device)
        for number, codebook in enumerate(self.codebooks):
            total = total + codebook[ids[:, number]]
        return total
