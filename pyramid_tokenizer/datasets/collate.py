"""`collate_by_size`: what makes batches where images differ in size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch.utils.data import default_collate

from pyramid_tokenizer.datasets.rows import Rows, TokenRow
from pyramid_tokenizer.tokens.pyramid import TokenPyramid


def collate_by_size(samples: Sequence[Any]) -> tuple[Any, ...]:
    """One batch for each image size among samples; a `collate_fn` of a `DataLoader`.

    Grids of two sizes fit into no tensor, and a token that fills a gap would be one that the image does not have. So the samples
    of each size become a batch of their own, as `torch.utils.data.default_collate` makes it.

    Args:
        samples: Rows of a `TokenDataset`, or samples of a dataset of one's own: `TokenPyramid`s, or tuples, lists and dicts that
            hold some beside what `default_collate` takes, as `ToTokens` gives them.

    Returns:
        Batches by growing size, each with its samples in their order: `TokenBatch`es of rows, else what `default_collate` gives.

    Example:
        >>> from PIL import Image
        >>> from pyramid_tokenizer.datasets import ToTokens
        >>> encode = ToTokens("tiny")
        >>> samples = [encode(Image.new("RGB", size), label) for label, size in enumerate([(64, 32), (32, 32), (64, 32)])]
        >>> [(tokens.image_size, labels.tolist()) for tokens, labels in collate_by_size(samples)]
        [((32, 32), [1]), ((32, 64), [0, 2])]
    """
    if isinstance(samples, Rows):
        return samples.by_size()
    groups: dict[tuple[tuple[int, int], ...], list[Any]] = {}
    for sample in samples:
        groups.setdefault(tuple(_sizes(sample)), []).append(sample)
    return tuple(default_collate(groups[sizes]) for sizes in sorted(groups))


def _sizes(value: Any) -> Iterator[tuple[int, int]]:
    """The image size of every pyramid in a sample."""
    if isinstance(value, TokenRow):
        yield value.tokens.image_size
    elif isinstance(value, TokenPyramid):
        yield value.image_size
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _sizes(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _sizes(item)
