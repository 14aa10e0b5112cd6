"""`TokenPyramid`: the ids of a batch of images, coarse to fine, and all that can be said about them without a model."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map

from pyramid_tokenizer.checks.arguments import check_path
from pyramid_tokenizer.checks.devices import check_device
from pyramid_tokenizer.errors import TokenError, TokenFileError
from pyramid_tokenizer.files import refuse_lfs_bytes
from pyramid_tokenizer.tokens import format as token_format
from pyramid_tokenizer.tokens import notebook, summary
from pyramid_tokenizer.tokens.checks import (
    check_joinable,
    check_origin,
    checked_ids,
    checked_image_ids,
    prefix_length,
    whole_numbers,
)
from pyramid_tokenizer.tokens.geometry import check_grids
from pyramid_tokenizer.tokens.splits import Presence, check_tree


def _no_image_ids() -> Tensor:
    return torch.empty(0, 0, dtype=torch.int64)


Precision = Literal["float32", "bfloat16", "float16", "float64"]
"""What a backbone can compute in: the name of its dtype."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class TokenPyramid:
    """Tokens of one or more images of one size. Immutable, and independent of any model.

    The constructor and `from_bytes` check everything and copy the ids. What is made from a pyramid (a prefix, single images,
    a batch on another device) is right because the pyramid was: nothing is checked or copied again, and memory is shared.
    On a GPU, every check would make the CPU wait.

    A level below level 0 may be sparse: a cell of it is present and has an id, or is absent and has -1. Each present cell of the
    next coarser level is split, and then all cells below it are present, or it is not, and then all of them are absent; nothing
    is present below an absent cell. `present` follows from the ids.

    Above level 0 there may be *image tokens*, a few ids for the image as a whole that say what the backbone's image embedding
    says. All prefixes have them, and decoding does not need them.

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
        TokenRangeError: An id outside its codebook, grids that are not whole multiples of the coarser ones, an image size
            that no stride maps to the grids, or absent cells that are no tree of splits.

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
        >>> ids[1][:, :, :2] = -1  # the left cell is not split
        >>> TokenPyramid(ids=ids, codebook_sizes=(4, 8), image_size=(30, 60), fingerprint="0" * 64)
        TokenPyramid(1 image of 30x60 px, 2 levels: 1x2 of 4, 2x4 of 8 (50 % present), 0.01 bits per pixel, \
fingerprint 00000000, precision None)
    """

    ids: tuple[Tensor, ...]
    """(B, h_l, w_l) per level, 0 = coarsest; any integer dtype on one device, kept as int64; -1 where a cell is absent. Do not
    write into them: other pyramids may share their memory."""
    codebook_sizes: tuple[int, ...]
    """K_l per level: ids are in [0, K_l)."""
    image_size: tuple[int, int]
    """(H, W) of the original images in pixels, before padding."""
    fingerprint: str
    """64 lower-case hexadecimal digits that name the tokenizer whose codebooks the ids point into."""
    image_ids: Tensor = field(default_factory=_no_image_ids)
    """(B, M) int64 in [0, K) of each image token, on the ids' device; M is 0 where there are none. Any integer dtype is taken."""
    image_codebook_sizes: tuple[int, ...] = ()
    """K of each image token; one for each of M."""
    precision: Precision | None = None
    """Precision that the backbone computed in when the ids were made, because ids of one image differ slightly between
    precisions; None for ids that no encoder made, e.g. a language model's. Any precision can be decoded and searched."""
    present: Presence = field(init=False)
    """(B, h_l, w_l) bool per level, True where a cell has an id, or None where no cell of the level is absent. Parts of a sparse
    batch keep its masks, also where all of their own cells are present: on a GPU, looking would make the CPU wait."""

    def __post_init__(self) -> None:
        sizes = whole_numbers(self.codebook_sizes, "codebook_sizes", least=2)
        image_size = whole_numbers(self.image_size, "image_size", least=1)
        if len(image_size) != 2:
            raise TokenError(
                f"expected image_size as (height, width), got {self.image_size}: give the original size in pixels"
            )
        check_origin(self.fingerprint, self.precision)
        image_sizes = whole_numbers(self.image_codebook_sizes, "image_codebook_sizes", least=2)
        ids, present = checked_ids(self.ids, sizes)
        image_ids = checked_image_ids(self.image_ids, image_sizes, like=ids[0])
        grids = [(x.shape[1], x.shape[2]) for x in ids]
        check_grids(grids, (image_size[0], image_size[1]))
        check_tree(present, grids)
        checked = {"ids": ids, "codebook_sizes": sizes, "image_size": image_size, "present": present}
        set_fields(self, **checked, image_ids=image_ids, image_codebook_sizes=image_sizes)

    @property
    def batch_size(self) -> int:
        """B, the number of images."""
        return len(self.ids[0])

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """(h_l, w_l) per level."""
        return tuple((x.shape[1], x.shape[2]) for x in self.ids)

    @property
    def is_sparse(self) -> bool:
        """Whether cells may be absent: some level has a mask in `present`."""
        return any(mask is not None for mask in self.present)

    @property
    def token_counts(self) -> Tensor:
        """(B,) int64 on the ids' device: how many tokens each image has, over all levels and with the image tokens."""
        return summary.level_counts(self).sum(0) + len(self.image_codebook_sizes)

    @property
    def num_tokens(self) -> int:
        """Tokens of one image, over all levels and with the image tokens; in a sparse batch, the most that an image has."""
        if self.is_sparse:
            return int(self.token_counts.max())
        return sum(h * w for h, w in self.grids) + len(self.image_codebook_sizes)

    @property
    def bits_per_pixel(self) -> float:
        """Σ log2 K_l over the tokens and 1 per split bit, over the H · W pixels of the original image, as the mean of the images.

        An image needs one split bit per present cell of the next coarser level for every level that is not full in it. Files
        round each id up to whole bits.
        """
        return summary.bits_per_pixel(self)

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
        n = prefix_length(levels, len(self))
        return self._with(ids=self.ids[:n], present=self.present[:n], codebook_sizes=self.codebook_sizes[:n])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TokenPyramid):
            return NotImplemented
        pairs = zip((*self.ids, self.image_ids), (*other.ids, other.image_ids), strict=False)
        return self._kind() == other._kind() and all(torch.equal(a.cpu(), b.cpu()) for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return summary.describe_pyramid(self)

    def _repr_html_(self) -> str:
        return notebook.to_html(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickling and copying: every level's own numbers, not those of the batch that it was taken from."""
        ids = tuple(_without_neighbours(x) for x in self.ids)
        image = _without_neighbours(self.image_ids), self.image_codebook_sizes
        return _unpickled, (ids, self.codebook_sizes, self.image_size, self.fingerprint, self.precision, *image)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> TokenPyramid:
        """The same tokens with their ids on another device.

        Args:
            device: Where they go.
            non_blocking: Do not wait until pinned ids have arrived on a GPU, as in `Tensor.to`.

        Raises:
            ConfigError: This machine has no such device, or it holds no numbers ("meta").
        """
        check_device(device)
        return self._each(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> TokenPyramid:
        """The same tokens in page-locked memory, for a fast copy to a GPU; a `DataLoader(pin_memory=True)` calls it."""
        return self._each(Tensor.pin_memory)

    def numpy(self) -> tuple[NDArray[np.int64], ...]:
        """The ids as arrays (B, h_l, w_l), one per level, coarse to fine, -1 where absent; copies, which may be changed."""
        return tuple(x.cpu().numpy().copy() for x in self.ids)

    def unbind(self) -> list[TokenPyramid]:
        """One pyramid of batch size 1 per image, in order; `cat` inverts it. They share the memory of the batch."""
        return [self.image(i) for i in range(self.batch_size)]

    def image(self, index: int) -> TokenPyramid:
        """One image of the batch, counted from 0, as a batch of one that shares its memory."""
        return self._each(operator.itemgetter(slice(index, index + 1)))

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
        check_joinable(pyramids)
        ids = tuple(torch.cat(level) for level in zip(*(p.ids for p in pyramids), strict=True))
        masked = [any(masks) for masks in zip(*([m is not None for m in p.present] for p in pyramids), strict=True)]
        present = tuple(x >= 0 if mask else None for x, mask in zip(ids, masked, strict=True))
        return pyramids[0]._with(ids=ids, present=present, image_ids=torch.cat([p.image_ids for p in pyramids]))

    def to_bytes(self) -> bytes:
        """The whole pyramid, compact and with a checksum; `pyramid_tokenizer.tokens.format` specifies it on one screen."""
        arrays = [x.cpu().numpy() for x in self.ids]
        masked = [x for x, mask in zip(arrays, self.present, strict=True) if mask is not None]
        header = token_format.TokenHeader(
            codebook_sizes=self.codebook_sizes,
            grids=self.grids,
            batch_size=self.batch_size,
            image_size=self.image_size,
            fingerprint=self.fingerprint,
            precision=self.precision,
            sparse_counts=tuple(int(n) for x in masked if (n := np.count_nonzero(x >= 0)) < x.size),
            image_codebook_sizes=self.image_codebook_sizes,
        )
        return token_format.pack(header, arrays, self.image_ids.cpu().numpy())

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
        header, ids, image_ids = token_format.unpack(data)
        try:
            return cls(
                ids=tuple(torch.from_numpy(x) for x in ids),
                codebook_sizes=header.codebook_sizes,
                image_size=header.image_size,
                fingerprint=header.fingerprint,
                precision=header.precision,  # type: ignore[arg-type]
                image_ids=torch.from_numpy(image_ids),
                image_codebook_sizes=header.image_codebook_sizes,
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
        return self.fingerprint, self.codebook_sizes, self.image_codebook_sizes, self.image_size, self.grids

    def with_ids(self, ids: Sequence[Tensor], present: Presence) -> TokenPyramid:
        """The same images with other tokens of their levels, unchecked: see `tokens.trusted.trusted_pyramid`."""
        return self._with(ids=tuple(ids), present=present)

    def _each(self, change: Callable[[Tensor], Tensor]) -> TokenPyramid:
        """The same fields with every level's ids and mask, and the image ids, changed in one way."""
        present = tuple(None if mask is None else change(mask) for mask in self.present)
        return self._with(ids=tuple(map(change, self.ids)), present=present, image_ids=change(self.image_ids))

    def _with(self, **changes: Any) -> TokenPyramid:
        """The same fields but for some, which are right because this pyramid's are."""
        return set_fields(
            object.__new__(TokenPyramid), **({f.name: getattr(self, f.name) for f in fields(self)} | changes)
        )


def set_fields(pyramid: TokenPyramid, **values: Any) -> TokenPyramid:
    """Sets fields of a pyramid that is being made, which is immutable afterwards; none of them is checked."""
    for name, value in values.items():
        object.__setattr__(pyramid, name, value)
    return pyramid


def _unpickled(
    ids: tuple[Tensor, ...],
    codebook_sizes: tuple[int, ...],
    image_size: tuple[int, int],
    fingerprint: str,
    precision: Precision | None,
    image_ids: Tensor,
    image_codebook_sizes: tuple[int, ...],
) -> TokenPyramid:
    """A pyramid of a pickle, which can be anybody's: checked."""
    kind = {"codebook_sizes": codebook_sizes, "image_codebook_sizes": image_codebook_sizes, "image_size": image_size}
    return TokenPyramid(ids=ids, image_ids=image_ids, fingerprint=fingerprint, precision=precision, **kind)  # type: ignore[arg-type]


# The loader of torch that runs no code of a file may call this: it makes a pyramid that is right in all parts, or raises.
torch.serialization.add_safe_globals([_unpickled])


def _collate(batch: Sequence[TokenPyramid], *, collate_fn_map: object = None) -> TokenPyramid:
    return TokenPyramid.cat(batch)


# How torch documents that a type of one's own is taught to `torch.utils.data.default_collate`.
default_collate_fn_map[TokenPyramid] = _collate


def _without_neighbours(ids: Tensor) -> Tensor:
    """The tensor itself, or a copy of it where it is part of a larger one, all of which pickling would store."""
    return ids if ids.untyped_storage().nbytes() == ids.numel() * ids.element_size() else ids.clone()
