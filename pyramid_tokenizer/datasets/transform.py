"""`ToTokens`: image -> `TokenPyramid`, as a transform of `torchvision.transforms.v2` inside a dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pyramid_tokenizer.encoding.by_content import Budget
from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.tokenizer import PyramidTokenizer

if TYPE_CHECKING:
    from pyramid_tokenizer.tokens import TokenPyramid


class ToTokens(nn.Module):
    """Turns the images of a sample into tokens and leaves all else as it is, as transforms of torchvision's v2 do.

    A sample is an image, or any nesting of tuples, lists and dicts with images in it. Images are `PIL.Image`s and
    `tv_tensors.Image`s; in a sample without these, the first plain tensor or array is the image. Labels, boxes and masks pass.

    In a `DataLoader`, each worker encodes on its own: give the model by its name, and a worker loads it when it first needs it.
    `torch.utils.data.default_collate` makes a batch of tokens whose images have one size.

    Args:
        model: A tokenizer, or what `PyramidTokenizer.from_pretrained` takes: a bundled name, a folder, a Hub repository.
        size: Short side in pixels that images are resized to first. None: they keep their size.
        levels: How many levels, coarse to fine, as `PyramidTokenizer.encode` has it.
        limits: One of `max_tokens`, `target_psnr` and `quality`, as `PyramidTokenizer.encode` has them.

    Raises:
        ConfigError: `model` is neither, or several limits are given. When it is called: a sample without an image.

    Example:
        >>> photo = Image.new("RGB", (100, 80), "navy")
        >>> transform = ToTokens("tiny", size=64, levels=2)  # alone, or the last one in a `v2.Compose`
        >>> tokens, label = transform(photo, 3)
        >>> tokens.image_size, tokens.num_tokens, label
        ((64, 80), 42, 3)
    """

    def __init__(
        self,
        model: PyramidTokenizer | str,
        *,
        size: int | None = None,
        levels: int | None = None,
        **limits: Any,
    ) -> None:
        super().__init__()
        if not isinstance(model, (PyramidTokenizer, str)):
            raise ConfigError(
                f"expected model as a PyramidTokenizer or a name, got {type(model).__name__}: write ToTokens('tiny')"
            )
        Budget(**limits)
        self.name = model if isinstance(model, str) else None
        self.options = {"size": size, "levels": levels, **limits}
        # In a list, where nn.Module does not see it: a transform has no weights to train or to move.
        self._loaded = [] if isinstance(model, str) else [model]

    def forward(self, *sample: Any) -> Any:
        """The sample with tokens in place of images; several arguments come back as a tuple."""
        whole = sample[0] if len(sample) == 1 else sample
        found = list(_leaves(whole))
        chosen = [i for i, leaf in enumerate(found) if _is_image(leaf)]
        chosen = chosen or [i for i, leaf in enumerate(found) if isinstance(leaf, (Tensor, np.ndarray))][:1]
        if not chosen:
            kinds = sorted({type(leaf).__name__ for leaf in found})
            raise ConfigError(f"expected an image in the sample, got {kinds}: open it first, e.g. by PIL.Image.open")
        places = iter(range(len(found)))
        return _mapped(whole, lambda leaf: self._encode(leaf) if next(places) in chosen else leaf)

    def extra_repr(self) -> str:
        """What `repr` shows between the brackets."""
        given = [f"{name}={value}" for name, value in self.options.items() if value is not None]
        return ", ".join([repr(self.name or "a tokenizer"), *given])

    def __getstate__(self) -> dict[str, Any]:
        """Without a model that was loaded by its name: the other process loads its own."""
        return {**self.__dict__, "_loaded": [] if self.name is not None else self._loaded}

    @torch.no_grad()
    def _encode(self, image: Any) -> TokenPyramid:
        if not self._loaded:
            self._loaded.append(PyramidTokenizer.from_pretrained(self.name or ""))
        plain = image.as_subclass(Tensor) if isinstance(image, Tensor) else image
        return self._loaded[0].encode(plain, **self.options)


def _is_image(leaf: Any) -> bool:
    # By its name: an import of torchvision takes seconds, and what is a tv_tensor has imported it.
    kind = type(leaf)
    is_tv_image = kind.__module__.startswith("torchvision.tv_tensors") and kind.__name__ == "Image"
    return is_tv_image or isinstance(leaf, Image.Image)


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same nesting with changed leaves, in the order of `_leaves`."""
    if isinstance(value, Mapping):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [_mapped(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return change(value)
