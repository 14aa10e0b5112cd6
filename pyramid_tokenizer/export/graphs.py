"""The parts of a tokenizer as modules from tensors to tensors, without checks of values: what graphs are recorded of."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from pyramid_tokenizer.quantizer.nearest import whole_products
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.tokens.splits import Presence


class EncodeGraph(nn.Module):
    """Images to the ids of all levels, detail levels included, and of the image tokens where there are some.

    Example:
        >>> import torch
        >>> graph = EncodeGraph(PyramidTokenizer.from_pretrained("tiny"))
        >>> with torch.no_grad():
        ...     [tuple(ids.shape) for ids in graph(torch.rand(1, 3, 64, 96))]
        [(1, 2, 3), (1, 4, 6), (1, 8, 12), (1, 16, 24), (1, 12)]
    """

    def __init__(self, tok: PyramidTokenizer):
        super().__init__()
        self.backbone, self.quantizer = tok.backbone, tok.quantizer

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) float32 in [0, 1], sides in multiples of `multiple_px` -> (B, h_l, w_l) int64 per level [, (B, M)]."""
        ids: dict[int, Tensor] = {}
        codes: dict[int, Tensor] = {}
        with whole_products():
            features = self.backbone(images, with_dense=self.quantizer.needs_dense)
            for index in self.quantizer.order:
                level = self.quantizer.level(index)
                ids[index] = level.assign(level.project(self.quantizer.level_input(index, features, codes)))
                codes[index] = level.look_up(ids[index])
            of_levels = tuple(ids[index] for index in sorted(ids))
            if not self.quantizer.image.codebook_sizes:
                return of_levels
            assert features.embedding is not None
            return (*of_levels, self.quantizer.image.encode(features.embedding))


class DecodeGraph(nn.Module):
    """Ids of all levels to images; -1 stands where there is no token, so that one graph decodes every prefix.

    Example:
        >>> import torch
        >>> tok = PyramidTokenizer.from_pretrained("tiny")
        >>> tokens = tok.encode(torch.rand(1, 3, 64, 96))
        >>> none = torch.full((1, 16, 24), -1)
        >>> with torch.no_grad():
        ...     torch.allclose(DecodeGraph(tok)((*tokens.ids, none)), tok.decode(tokens), atol=1e-5)
        True
    """

    def __init__(self, tok: PyramidTokenizer):
        super().__init__()
        self.quantizer, self.trunk, self.pixel_decoder = tok.quantizer, tok.trunk, tok.pixel_decoder

    def forward(self, ids: Sequence[Tensor]) -> Tensor:
        """(B, h_l, w_l) int64 per level -> (B, 3, s h, s w) float32 in [0, 1], s the stride of the level."""
        present = _presence(ids)
        with whole_products():
            codes = self.quantizer.codes(ids, present)
            linear_reconstruction = self.quantizer.linear_reconstruction(codes, present)
            return self.pixel_decoder(self.trunk(codes, present)[-1], linear_reconstruction).clamp(0, 1)


class EmbedGraph(nn.Module):
    """Ids of all levels that are no detail levels, and of the image tokens, to image embeddings; -1 where there is no token.

    Example:
        >>> import torch
        >>> tok = PyramidTokenizer.from_pretrained("tiny")
        >>> tokens = tok.encode(torch.rand(1, 3, 64, 96))
        >>> torch.allclose(EmbedGraph(tok)((*tokens.ids, tokens.image_ids)), tok.embedding(tokens), atol=1e-5)
        True
    """

    def __init__(self, tok: PyramidTokenizer):
        super().__init__()
        self.quantizer = tok.quantizer

    def forward(self, ids: Sequence[Tensor]) -> Tensor:
        """(B, h_l, w_l) int64 per level [, (B, M) of the image tokens] -> (B, D) float32 of unit norm."""
        levels, image_ids = (ids[:-1], ids[-1]) if self.quantizer.image.codebook_sizes else (ids, None)
        return F.normalize(self.quantizer.unscaled_embedding(levels, _presence(levels), image_ids), dim=1)


def _presence(ids: Sequence[Tensor]) -> Presence:
    return (None, *(level >= 0 for level in ids[1:]))
