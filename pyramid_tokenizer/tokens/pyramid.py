"""`TokenPyramid`: the ids of a batch of images, coarse to fine, and all that can be said about them without a model."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map

from pyramid_tokenizer.checks.arguments import check_path
from pyramid_tokenizer.checks.devices import check_device
from pyramid_tokenizer.errors import TokenError, TokenFileError, TokenMismatchError, TokenRangeError
from pyramid_tokenizer.files import refuse_lfs_bytes
from pyramid_tokenizer.tokens import format as token_format
from pyramid_tokenizer.tokens.checks import check_origin, checked_level, whole_numbers
from pyramid_tokenizer.tokens.geometry import check_grids

Precision = Literal["float32", "bfloat16", "float16", "float64"]
"""What a backbone can compute in: the name of its dtype."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class TokenPyramid:
    """Tokens of one or more images of one size. Immutable, and independent of any model.

    The constructor and `from_bytes` check everything and copy the ids. What is made from a pyramid (a prefix, single images,
    a batch on another device) is right because the pyramid was: nothing is checked or copied again, and memory is shared.
    On a GPU, every check would make the CPU wait.

    `tokens[:n]` is the coarsest n levels, a complete pyramid of its own that keeps nothing of the finer levels in memory.
    Two pyramids are equal if they hold the same ids of the same tokenizer for the same image size, on whatever devices;
    `precision` tells how ids were made and not what they mean, so it does not count. Equal pyramids of one precision have
    equal bytes. They cannot be hashed, because `ids` are tensors: use `to_bytes()` as a key.

    A `torch.utils.data.DataLoader` joins the pyramids that a data set returns into one batch by `cat`, and pins it. Its workers
    may hold a tokenizer and encode, under each of the start methods "fork", "spawn" and "forkserver"; under "forkserver", which
    hands at most 252 files to a worker, a model needs `torch.multiprocessing.set_sharing_strategy("file_system")` first.
    `torch.load(weights_only=True)` reads pyramids in what `torch.save` wrote, with every check; `save` and `load` are smaller.

    Raises:
        TokenError: A field of the wrong kind, e.g. float ids.
        TokenRangeError: An id outside its codebook, grids that are not whole multiples of the coarser ones, or an image
            size that no stride maps to the grids.

    Example:
        >>> ids = (torch.tensor([[[3, 1]]]), torch.tensor([[[0, 5, 2, 2], [7, 4, 4, 1]]]))
        >>> tokens = TokenPyramid(ids=ids, codebook_sizes=(4, 8), image_size=(30, 60), fingerprint="0" * 64)
        >>> tokens
        TokenPyramid(1 image of 30x60 px, 2 levels: 1x2 of 4, 2x4 of 8, 0.0156 bits per pixel, fingerprint 00000000, \
precision None)
        >>> tokens[:1].grids, tokens[:1].num_tokens
        (((1, 2),), 2)
        >>> TokenPyramid.from_bytes(tokens.to_bytes()) == tokens
        True
        >>> torch.utils.data.default_collate([tokens, tokens]).batch_size
        2
    """

    ids: tuple[Tensor, ...]
    """(B, h_l, w_l) per level, 0 = coarsest; any integer dtype on one device, kept as int64. Do not write into them:
    other pyramids may share their memory."""
    codebook_sizes: tuple[int, ...]
    """K_l per level: ids are in [0, K_l)."""
    image_size: tuple[int, int]
    """(H, W) of the original images in pixels, before padding."""
    fingerprint: str
    """64 lower-case hexadecimal digits that name the tokenizer whose codebooks the ids point into."""
    precision: Precision | None = None
    """Precision that the backbone computed in when the ids were made, because ids of one image differ slightly between
    precisions; None for ids that no encoder made, e.g. a language model's. Any precision can be decoded and searched."""

    def __post_init__(self) -> None:
        sizes = whole_numbers(self.codebook_sizes, "codebook_sizes", least=2)
        image_size = whole_numbers(self.image_size, "image_size", least=1)
        if len(image_size) != 2:
            raise TokenError(
                f"expected image_size as (height, width), got {self.image_size}: give the original size in pixels"
            )
        check_origin(self.fingerprint, self.precision)
        if not isinstance(self.ids, (tuple, list)) or not 1 <= len(self.ids) <= 255 or len(self.ids) != len(sizes):
            got = f"{len(self.ids)} levels" if isinstance(self.ids, (tuple, list)) else type(self.ids).__name__
            raise TokenError(
                f"expected ids as a tuple of 1 to 255 tensors, one for each of {len(sizes)} codebook_sizes, got {got}: "
                "give one tensor (B, h, w) per level"
            )
        ids = tuple(checked_level(level, x, k) for level, (x, k) in enumerate(zip(self.ids, sizes, strict=True)))
        if len({(len(x), x.device) for x in ids}) > 1:
            got = ", ".join(f"{len(x)} on {x.device}" for x in ids)
            raise TokenError(f"expected as many images on one device in every level, got {got}: use ids of one encode")
        check_grids([(x.shape[1], x.shape[2]) for x in ids], (image_size[0], image_size[1]))
        for name, value in (("ids", ids), ("codebook_sizes", sizes), ("image_size", image_size)):
            object.__setattr__(self, name, value)

    @property
    def batch_size(self) -> int:
        """B, the number of images."""
        return len(self.ids[0])

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """(h_l, w_l) per level."""
        return tuple((x.shape[1], x.shape[2]) for x in self.ids)

    @property
    def num_tokens(self) -> int:
        """Tokens of one image, over all levels."""
        return sum(h * w for h, w in self.grids)

    @property
    def bits_per_pixel(self) -> float:
        """Σ h_l · w_l · log2 K_l over the H · W pixels of the original image; files round each id up to whole bits."""
        bits = sum(h * w * math.log2(k) for (h, w), k in zip(self.grids, self.codebook_sizes, strict=True))
        return bits / (self.image_size[0] * self.image_size[1])

    @property
    def device(self) -> torch.device:
        """Where the ids lie."""
        return self.ids[0].device

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, levels: slice) -> TokenPyramid:
        """The coarsest n levels, as `tokens[:n]`.

        Args:
            levels: The slice `:n`, 1 <= n <= `len(tokens)`; there is no other part that could be decoded.

        Raises:
            TokenRangeError: Anything but a prefix of 1 to `len(tokens)` levels is asked for.
        """
        if not isinstance(levels, slice):
            hint = "use tokens.ids[level] for the ids of one level, tokens.unbind() for single images"
            raise TokenRangeError(f"expected a prefix tokens[:n], got tokens[{levels!r}]: {hint}")
        start, n, step = levels.start, levels.stop, levels.step
        whole = isinstance(n, int) and not isinstance(n, bool)
        if start not in (None, 0) or step not in (None, 1) or not whole or not 1 <= n <= len(self):
            got = ":".join("" if x is None else str(x) for x in ((start, n) if step is None else (start, n, step)))
            expected = f"a prefix tokens[:n] with 1 <= n <= {len(self)}"
            raise TokenRangeError(f"expected {expected}, got tokens[{got}]: finer levels need all coarser ones")
        return self._with_ids(self.ids[:n])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TokenPyramid):
            return NotImplemented
        pairs = zip(self.ids, other.ids, strict=False)
        return self._kind() == other._kind() and all(torch.equal(a.cpu(), b.cpu()) for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        height, width = self.image_size
        images = f"{self.batch_size} image{'s' if self.batch_size > 1 else ''} of {height}x{width} px"
        levels = ", ".join(f"{h}x{w} of {k}" for (h, w), k in zip(self.grids, self.codebook_sizes, strict=True))
        plural = "s" if len(self) > 1 else ""
        rate = f"{self.bits_per_pixel:.3g} bits per pixel"
        origin = f"fingerprint {self.fingerprint[:8]}, precision {self.precision}"
        return f"TokenPyramid({images}, {len(self)} level{plural}: {levels}, {rate}, {origin})"

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickling and copying: every level's own numbers, not those of the batch that it was taken from."""
        ids = tuple(_without_neighbours(x) for x in self.ids)
        return _unpickled, (ids, self.codebook_sizes, self.image_size, self.fingerprint, self.precision)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> TokenPyramid:
        """The same tokens with their ids on another device.

        Args:
            device: Where they go.
            non_blocking: Do not wait until pinned ids have arrived on a GPU, as in `Tensor.to`.

        Raises:
            ConfigError: This machine has no such device, or it holds no numbers ("meta").
        """
        check_device(device)
        return self._with_ids([x.to(device, non_blocking=non_blocking) for x in self.ids])

    def pin_memory(self) -> TokenPyramid:
        """The same tokens in page-locked memory, for a fast copy to a GPU; a `DataLoader(pin_memory=True)` calls it."""
        return self._with_ids([x.pin_memory() for x in self.ids])

    def numpy(self) -> tuple[NDArray[np.int64], ...]:
        """The ids as arrays (B, h_l, w_l), one per level, coarse to fine; copies, which may be changed."""
        return tuple(x.cpu().numpy().copy() for x in self.ids)

    def unbind(self) -> list[TokenPyramid]:
        """One pyramid of batch size 1 per image, in order; `cat` inverts it. They share the memory of the batch."""
        return [self._with_ids([x[i : i + 1] for x in self.ids]) for i in range(self.batch_size)]

    @classmethod
    def cat(cls, pyramids: Iterable[TokenPyramid]) -> TokenPyramid:
        """All images of several pyramids as one batch, in order.

        Args:
            pyramids: One or more, of one tokenizer, precision, image size, number of levels and device.

        Raises:
            TokenMismatchError: They come from different tokenizers, have different levels, or were made with backbones of
                different precisions.
            TokenError: There is none, or they differ in image size, grid or device.

        Example:
            >>> ids = (torch.arange(4).reshape(2, 1, 2),)
            >>> tokens = TokenPyramid(ids=ids, codebook_sizes=(4,), image_size=(8, 16), fingerprint="0" * 64)
            >>> TokenPyramid.cat(tokens.unbind()) == tokens
            True
        """
        pyramids = list(pyramids) if isinstance(pyramids, Iterable) else [pyramids]
        if not pyramids or not all(isinstance(p, TokenPyramid) for p in pyramids):
            got = sorted({type(p).__name__ for p in pyramids}) or "none"
            raise TokenError(f"expected a list of one TokenPyramid or more to join, got {got}: encode images first")
        for index, other in enumerate(pyramids):
            _check_joinable(pyramids[0], other, index)
        return pyramids[0]._with_ids([torch.cat(level) for level in zip(*(p.ids for p in pyramids), strict=True)])

    def to_bytes(self) -> bytes:
        """The whole pyramid, compact and with a checksum; `pyramid_tokenizer.tokens.format` specifies it on one screen."""
        header = token_format.TokenHeader(
            codebook_sizes=self.codebook_sizes,
            grids=self.grids,
            batch_size=self.batch_size,
            image_size=self.image_size,
            fingerprint=self.fingerprint,
            precision=self.precision,
        )
        return token_format.pack(header, [x.cpu().numpy() for x in self.ids])

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> TokenPyramid:
        """The pyramid that `to_bytes` wrote, on the CPU.

        Args:
            data: Exactly what `to_bytes` gave.

        Raises:
            TokenFileError: The bytes are of another format or version, too few, too many or altered.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TokenFileError(f"expected bytes, got {type(data).__name__}: use TokenPyramid.load(path) for a file")
        refuse_lfs_bytes(data, name="a token file", error=TokenFileError)
        header, ids = token_format.unpack(data)
        try:
            return cls(
                ids=tuple(torch.from_numpy(x) for x in ids),
                codebook_sizes=header.codebook_sizes,
                image_size=header.image_size,
                fingerprint=header.fingerprint,
                precision=header.precision,  # type: ignore[arg-type]
            )
        except TokenError as error:
            raise TokenFileError(
                f"the checksum of these token bytes is right, but their content is not: {error}"
            ) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes exactly `to_bytes()`; the file appears whole under its name or not at all, and replaces an older one.

        Args:
            path: Name of the file, in a directory that exists.

        Raises:
            TokenFileError: The file cannot be written, e.g. its directory does not exist.
        """
        check_path(path, name="path", error=TokenFileError)
        token_format.write_file(path, self.to_bytes())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TokenPyramid:
        """The pyramid that `save` wrote, on the CPU.

        Args:
            path: Name of the file.

        Raises:
            TokenFileError: There is no such file, or `from_bytes` refuses its bytes; the message names the file.
        """
        check_path(path, name="path", error=TokenFileError)
        data = token_format.read_file(path)
        try:
            return cls.from_bytes(data)
        except TokenFileError as error:
            raise TokenFileError(f"{os.fspath(path)}: {error}") from error

    def _kind(self) -> tuple[Any, ...]:
        return self.fingerprint, self.codebook_sizes, self.image_size, self.grids

    def _with_ids(self, ids: Sequence[Tensor]) -> TokenPyramid:
        """The same fields with other ids of this pyramid's kind, for as many levels as there are ids."""
        return _trusted(tuple(ids), self.codebook_sizes[: len(ids)], self.image_size, self.fingerprint, self.precision)


def trusted_pyramid(
    *,
    ids: Sequence[Tensor],
    codebook_sizes: tuple[int, ...],
    image_size: tuple[int, int],
    fingerprint: str,
    precision: Precision | None,
) -> TokenPyramid:
    """A pyramid of parts that an encoder of this package made: neither checked nor copied. See `TokenPyramid`.

    Args:
        ids: (B, h_l, w_l) int64 in [0, K_l) per level, coarse to fine, on one device; nobody else writes into them.
        codebook_sizes: K_l per level.
        image_size: (H, W) in pixels, before padding, which fits the grids.
        fingerprint: Of the tokenizer.
        precision: Of its backbone; None where none took part.
    """
    return _trusted(tuple(ids), codebook_sizes, image_size, fingerprint, precision)


def _trusted(
    ids: tuple[Tensor, ...],
    codebook_sizes: tuple[int, ...],
    image_size: tuple[int, int],
    fingerprint: str,
    precision: Precision | None,
) -> TokenPyramid:
    pyramid = object.__new__(TokenPyramid)  # without __post_init__, which checks
    for name, value in (
        ("ids", ids),
        ("codebook_sizes", codebook_sizes),
        ("image_size", image_size),
        ("fingerprint", fingerprint),
        ("precision", precision),
    ):
        object.__setattr__(pyramid, name, value)
    return pyramid


def _unpickled(
    ids: tuple[Tensor, ...],
    codebook_sizes: tuple[int, ...],
    image_size: tuple[int, int],
    fingerprint: str,
    precision: Precision | None,
) -> TokenPyramid:
    """A pyramid of a pickle, which can be anybody's: checked."""
    return TokenPyramid(
        ids=ids, codebook_sizes=codebook_sizes, image_size=image_size, fingerprint=fingerprint, precision=precision
    )


# The loader of torch that runs no code of a file may call this: it makes a pyramid that is right in all parts, or raises.
torch.serialization.add_safe_globals([_unpickled])


def _collate(batch: Sequence[TokenPyramid], *, collate_fn_map: object = None) -> TokenPyramid:
    return TokenPyramid.cat(batch)


# How torch documents that a type of one's own is taught to `torch.utils.data.default_collate`.
default_collate_fn_map[TokenPyramid] = _collate


def _without_neighbours(ids: Tensor) -> Tensor:
    """The tensor itself, or a copy of it where it is part of a larger one, all of which pickling would store."""
    return ids if ids.untyped_storage().nbytes() == ids.numel() * ids.element_size() else ids.clone()


def _check_joinable(first: TokenPyramid, other: TokenPyramid, index: int) -> None:
    if (other.fingerprint, other.codebook_sizes) != (first.fingerprint, first.codebook_sizes):
        got = f"{first} and, at {index}, {other}"
        raise TokenMismatchError(f"expected one tokenizer and as many levels, got {got}: join each kind alone")
    if other.precision != first.precision:
        raise TokenMismatchError(
            f"expected tokens that backbones of one precision made, got {first.precision} and, at {index}, "
            f"{other.precision}: encode all images in one precision or keep a list; to join them for decoding alone, drop "
            "it by dataclasses.replace(tokens, precision=None)"
        )
    if (other._kind(), other.device) != (first._kind(), first.device):
        got = f"{first} on {first.device} and, at {index}, {other} on {other.device}"
        raise TokenError(
            f"expected one image size, grid and device, got {got}: keep a list (in a DataLoader: collate_fn=list), encode images "
            "of one size, or move them"
        )
