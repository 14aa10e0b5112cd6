"""NaN and infinity are errors that name the stage where they came up: a pyramid of ids made of them would look valid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from pyramid_tokenizer.errors import PyramidTokenizerError


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no number is NaN or infinite; True while a graph is compiled, which cannot branch on values.

    One sum over each tensor decides, because NaN and infinity survive it, and a GPU is waited for once. Only where a sum is
    not finite are the numbers looked at one by one: a sum of huge ones overflows.

    Args:
        tensors: Of any shapes and dtypes on one device; those of integers are passed over.

    Example:
        >>> all_finite([torch.ones(3), torch.tensor([1e38, 1e38, 1e38, 1e38])])
        True
        >>> all_finite([torch.ones(3), torch.tensor([1.0, float("inf")])])
        False
    """
    if torch.compiler.is_compiling():
        return True
    floats = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
    if not floats or bool(torch.stack([_sum(tensor) for tensor in floats]).isfinite().all()):
        return True
    return all(bool(tensor.isfinite().all()) for tensor in floats)


def require_finite(
    tensors: Mapping[str, Tensor], *, stage: str, advice: str, error: type[PyramidTokenizerError]
) -> None:
    """Raises `error` where a number is NaN or infinite; the message names the stage and the first such tensor.

    Args:
        tensors: As for `all_finite`, by the names that the message shows.
        stage: Where the numbers come from, e.g. "the features of the backbone".
        advice: What the user can do, the end of the message.
        error: The class to raise.

    Example:
        >>> from pyramid_tokenizer.errors import CheckpointError
        >>> broken = {"bias": torch.zeros(2), "weight": torch.tensor([0.5, float("nan"), float("inf")])}
        >>> try:
        ...     require_finite(broken, stage="the decoder", advice="load it again", error=CheckpointError)
        ... except CheckpointError as caught:
        ...     print(caught)
        expected finite numbers in the decoder, got 2 of 3 NaN or infinite in weight: load it again
    """
    if all_finite(tensors.values()):
        return
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all())
    wrong, count = int((~tensors[name].isfinite()).sum()), tensors[name].numel()
    raise error(f"expected finite numbers in {stage}, got {wrong} of {count} NaN or infinite in {name}: {advice}")


def _sum(tensor: Tensor) -> Tensor:
    return tensor.sum(dtype=torch.float32 if tensor.itemsize < 4 else tensor.dtype).float()
