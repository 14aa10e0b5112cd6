"""Writes the ids of images as integers of a vocabulary; `Vocabulary` has the grammar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.tokens.splits import splits_of
from pyramid_tokenizer.tokens.summary import level_counts

if TYPE_CHECKING:
    from pyramid_tokenizer.tokens.pyramid import TokenPyramid
    from pyramid_tokenizer.tokens.vocabulary import Vocabulary

_NOTHING = -1
"""Stands where a sequence has no integer, until the others close ranks."""


def write_full(vocabulary: Vocabulary, ids: Sequence[Tensor], image_ids: Tensor, crop: tuple[int, int]) -> Tensor:
    """(B, N) int64: the sequences of images of which all levels are full.

    Args:
        vocabulary: Of the integers.
        ids: (B, h_l, w_l) int64 per level, coarse to fine.
        image_ids: (B, M) int64 of the image tokens.
        crop: Rows and columns of padding at bottom and right, in pixels.
    """
    parts = _begin(vocabulary, ids[0], image_ids, crop)
    for level, level_ids in enumerate(ids[1:], start=1):
        marker = _special(ids[0], vocabulary.level_markers[level])
        parts += [marker, (level_ids + vocabulary.level_offsets[level]).flatten(1)]
    return torch.cat([*parts, _special(ids[0], vocabulary.end)], dim=1)


def write_sparse(vocabulary: Vocabulary, tokens: TokenPyramid, crop: tuple[int, int]) -> Tensor:
    """(B, N) int64: the sequences of images that may have sparse levels, the shorter ones filled up with the mark of the end.

    Args:
        vocabulary: Of the integers.
        tokens: Of B images.
        crop: Rows and columns of padding at bottom and right, in pixels.
    """
    v, root = vocabulary, tokens.ids[0]
    counts = level_counts(tokens)  # (L, B)
    parts = _begin(v, root, tokens.image_ids, crop)
    for level, mask in enumerate(tokens.present):
        if level == 0:
            continue
        ids = tokens.ids[level]
        row_by_row = (ids + v.level_offsets[level]).flatten(1)  # (B, h_l · w_l)
        marker = _special(root, v.level_markers[level])
        if mask is not None:
            is_full = (counts[level] == row_by_row.shape[1])[:, None]
            marker = torch.where(is_full, marker, v.sparse_markers[level - 1])
            families = _families(v, level, tokens.ids[level - 1], ids)
            row_by_row = torch.where(is_full, row_by_row, families)
        parts += [marker, row_by_row]
    return _closed_up(torch.cat([*parts, _special(root, v.end)], dim=1), v.end)


def flatten_each(vocabulary: Vocabulary, tokens: TokenPyramid) -> list[Tensor]:
    """The sequence of each image, (N,) int64, without the padding that `Vocabulary.flatten` puts behind shorter ones.

    Args:
        vocabulary: Of the tokenizer that made the tokens.
        tokens: Of B images.
    """
    rows = vocabulary.flatten(tokens)
    if not tokens.is_sparse:
        return list(rows)
    lengths = lengths_of(vocabulary, level_counts(tokens), tokens.grids[0][0])
    return [row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)]


def lengths_of(vocabulary: Vocabulary, counts: Tensor, heights: Tensor | int) -> Tensor:
    """(n,) int64: the lengths of the sequences of images.

    A cell that is not split has one mark in place of the ids below it, so a full level has as many marks as a sparse one
    whose cells are all split: none.

    Args:
        vocabulary: Of the images.
        counts: (L, n) int64, the tokens of each level and image.
        heights: (n,) int64, or one for all: h_0, rows of level 0.
    """
    strides = vocabulary.strides
    special = 4 + len(counts) + len(vocabulary.image_codebook_sizes)  # begin, two crops, end, the levels' markers
    lengths = counts.sum(0) + heights + special
    for level in range(1, len(counts)):
        lengths += counts[level - 1] - counts[level] // (strides[level - 1] // strides[level]) ** 2
    return lengths


def _special(root: Tensor, *tokens: int) -> Tensor:
    return torch.tensor(tokens, device=root.device).expand(len(root), -1)  # (B, len(tokens))


def _begin(vocabulary: Vocabulary, root: Tensor, image_ids: Tensor, crop: tuple[int, int]) -> list[Tensor]:
    v = vocabulary
    image = image_ids + image_ids.new_tensor(v.image_offsets)  # (B, M)
    rows = F.pad(root + v.level_offsets[0], (0, 1), value=v.row)  # (B, h_0, w_0 + 1)
    crops = [v.crop_offset + pixels for pixels in crop]
    return [_special(root, v.begin, *crops), image, _special(root, v.level_markers[0]), rows.flatten(1)]


def _families(vocabulary: Vocabulary, level: int, coarse: Tensor, fine: Tensor) -> Tensor:
    """(B, H · W) for each cell of the coarser level in turn: its children, or a mark and nothing, or, if absent, nothing."""
    (h, w), ratio = coarse.shape[1:], fine.shape[1] // coarse.shape[1]
    blocks = (
        (fine + vocabulary.level_offsets[level]).unflatten(2, (w, ratio)).unflatten(1, (h, ratio))
    )  # (B, h, r, w, r)
    children = blocks.transpose(2, 3).flatten(3)  # (B, h, w, r · r)
    unsplit = torch.full_like(children, _NOTHING)
    unsplit[..., 0] = torch.where(coarse >= 0, vocabulary.none, _NOTHING)
    return torch.where(splits_of(fine >= 0, ratio)[..., None], children, unsplit).flatten(1)


def _closed_up(wide: Tensor, padding: int) -> Tensor:
    """The rows (B, M) without nothing: (B, N), N the length of the longest, the others filled up."""
    there = wide != _NOTHING
    longest = int(there.sum(1).max())
    places = torch.where(there, there.cumsum(1) - 1, longest)
    rows = torch.full((len(wide), longest + 1), padding, device=wide.device)
    return rows.scatter_(1, places, torch.where(there, wide, padding))[:, :longest]
