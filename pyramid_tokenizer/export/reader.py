"""`OnnxTokenizer`: exported models with numpy, Pillow and onnxruntime alone. This one file can be copied into another project.

    tok = OnnxTokenizer("exported")            # the folder that `pyramid-tokenizer export tiny --to onnx --out exported` wrote
    ids = tok.encode("photo.jpg")              # one int64 array (1, h_l, w_l) per level, coarse to fine, and `ids.image_ids`
    images = tok.decode(ids[:1], (480, 640))   # (1, 3, 480, 640) float32 in [0, 1]; every prefix of levels decodes
    tok.classify(ids)                          # names and cosines, by the words that were exported beside the model

Images are read by version 1 of the library's image recipe: EXIF orientation applied, transparency on white, 8-bit values divided
by 255, resized by an antialiased bicubic kernel in float32, padded at the right and bottom by repeating the edge.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

METADATA = "pyramid_tokenizer"
"""The name in a file's metadata under which its facts are, as JSON."""
IMAGE_RECIPE = 1
"""The version of the image recipe that this file follows."""
WORDS_FILE = "words.npz"

_ORIENTATION_TAG = 0x0112
# EXIF orientation -> what makes it upright, in this order: t(ranspose), v(ertical flip), h(orizontal flip)
_TURNS = {2: "h", 3: "vh", 4: "v", 5: "t", 6: "th", 7: "tvh", 8: "tv"}


class TokenIds(list[NDArray[np.int64]]):
    """One array of ids (B, h_l, w_l) per level, coarse to fine, and `image_ids` (B, M) or None; also a prefix `ids[:n]`."""

    def __init__(self, levels: Sequence[NDArray[np.int64]], image_ids: NDArray[np.int64] | None = None):
        super().__init__(levels)
        self.image_ids = image_ids

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return TokenIds(found, self.image_ids) if isinstance(key, slice) else found


class OnnxTokenizer:
    """Encodes, decodes and names images with exported ONNX files.

    Files are opened when they are first used, and several threads may share one tokenizer.

    Args:
        directory: The folder of encode.onnx, decode.onnx, embed.onnx and words.npz, or of those of them that are needed.
        threads: Threads of onnxruntime; 0 leaves the choice to it.
        providers: Where onnxruntime computes, such as "CUDAExecutionProvider"; ids are checked for the CPU alone.

    Raises:
        FileNotFoundError: The folder has no exported part.
        ValueError: Its files are of several models, or of another format or image recipe than this reader knows.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        threads: int = 0,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ):
        self.directory = Path(directory)
        self._threads, self._providers = threads, list(providers)
        self._sessions: dict[str, Any] = {}
        self._facts: dict[str, Any] = {}
        self._read_words: dict[Path, tuple[list[str], NDArray[np.float32], NDArray[np.int64]]] = {}
        parts = [part for part in ("encode", "decode", "embed") if (self.directory / f"{part}.onnx").is_file()]
        if not parts:
            raise FileNotFoundError(f"expected e.g. encode.onnx in {str(self.directory)!r}, got none: export a model")
        self._session(parts[0])

    @property
    def fingerprint(self) -> str:
        """Names the model that ids belong to: 64 hexadecimal digits."""
        return self._facts["fingerprint"]

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """K_l per level, coarse to fine, detail levels included."""
        return tuple(self._facts["codebook_sizes"])

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell of each level, coarse to fine."""
        return tuple(self._facts["strides"])

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) of the one size of images that the files take; None where they take all sizes."""
        return tuple(self._facts["size"]) if self._facts["size"] else None

    def read(self, image: Any, size: int | None = None) -> NDArray[np.float32]:
        """One image as (3, H, W) float32 in [0, 1].

        Args:
            image: A path, a PIL image, or an array that `read_image` takes.
            size: The short side is resized to this many pixels. Where the files take one size and `size` is None, the image is
                resized to cover that size, and its centre is taken.
        """
        if size is not None or self.size is None:
            return read_image(image, size)
        return _cover(read_image(image), self.size)

    def encode(self, images: Any, *, size: int | None = None, levels: int | None = None) -> TokenIds:
        """Ids, one array (B, h_l, w_l) int64 per level, coarse to fine, and those of the image tokens.

        Args:
            images: An image as `read` takes it, several in a list that are of one size when read, or a batch
                (B, 3, H, W) float32 in [0, 1].
            size: As for `read`; not for a batch.
            levels: How many levels; None for all but the detail levels.

        Raises:
            ValueError: The images differ in size, are of another size than the files take, or `levels` is out of range.
        """
        session = self._session("encode")
        count = self._facts["base_levels"] if levels is None else levels
        if not 1 <= count <= len(self.strides):
            raise ValueError(f"expected levels from 1 to {len(self.strides)}, got {levels}: ask for fewer")
        batch = self._batch(images, size)
        grids = self._grids(batch.shape[2:])
        padded = _pad(batch, self._facts["multiple_px"])
        self._check_size(padded.shape[2:])
        wanted = [f"ids_{level}" for level in range(count)]
        wanted += ["image_ids"] if self._facts["image_codebook_sizes"] else []
        found = session.run(wanted, {"images": padded}, _only_these())
        ids = [np.ascontiguousarray(level[:, :h, :w]) for level, (h, w) in zip(found[:count], grids, strict=False)]
        return TokenIds(ids, *found[count:])

    def decode(self, ids: Sequence[Any], image_size: tuple[int, int] | None = None) -> NDArray[np.float32]:
        """Images of ids of all levels or of a prefix: (B, 3, H, W) float32 in [0, 1].

        Args:
            ids: (B, h_l, w_l) integers per level, as `encode` gives them; -1 where a sparse level has no token.
            image_size: (H, W) of the images that were encoded, to cut the padding away; None keeps it.

        Raises:
            ValueError: Grids that do not belong together, or an id outside its codebook.
        """
        session = self._session("decode")
        images = session.run(None, self._inputs(self._check_ids(ids), len(self.strides)))[0]
        return images if image_size is None else images[..., : image_size[0], : image_size[1]]

    def embedding(self, ids: Sequence[Any]) -> NDArray[np.float32]:
        """Image embeddings of ids of all levels or of a prefix: (B, D) float32 of unit norm.

        Args:
            ids: As for `decode`; of a model with image tokens, what `encode` gives or `TokenIds` of one's own.
        """
        session = self._session("embed")
        count, levels = self._facts["base_levels"], self._check_ids(ids)
        return session.run(None, self._inputs(levels[:count], count) | self._image_input(ids, len(levels[0])))[0]

    def classify(
        self, ids: Sequence[Any], words: str | os.PathLike[str] | None = None
    ) -> tuple[list[str], NDArray[np.float32]]:
        """The exported names, and the cosine of each image with each of them: N names, (B, N) float32 in [-1, 1].

        A class of several words has the score of the best of them.

        Args:
            ids: As for `decode`.
            words: A file that `export --classes` wrote; None for words.npz beside the model.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It belongs to another model.
        """
        names, rows, owner = self._words(Path(words) if words is not None else self.directory / WORDS_FILE)
        by_phrase = self.embedding(ids) @ rows.T  # (B, P)
        scores = np.full((len(by_phrase), len(names)), -np.inf, dtype=np.float32)
        for phrase, name in enumerate(owner):
            scores[:, name] = np.maximum(scores[:, name], by_phrase[:, phrase])
        return names, scores

    def _session(self, part: str) -> Any:
        if part not in self._sessions:
            import onnxruntime

            path = self.directory / f"{part}.onnx"
            if not path.is_file():
                raise FileNotFoundError(f"expected {str(path)!r}, got no such file: export with --part {part}")
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = self._threads, 3
            session = onnxruntime.InferenceSession(str(path), options, providers=self._providers)
            self._take_facts(session.get_modelmeta().custom_metadata_map, path)
            self._sessions[part] = session
        return self._sessions[part]

    def _take_facts(self, metadata: dict[str, str], path: Path) -> None:
        facts = json.loads(metadata.get(METADATA, "{}"))
        if facts.get("format") != 1 or facts.get("image_recipe") != IMAGE_RECIPE:
            got = f"format {facts.get('format')} and recipe {facts.get('image_recipe')}"
            expected = f"a file of format 1 and image recipe {IMAGE_RECIPE}"
            raise ValueError(f"expected {expected}, got {got} in {str(path)!r}: use that version's reader")
        self._facts = self._facts or facts
        for fact, fix in (("fingerprint", "all parts of one model"), ("size", "all parts for one size")):
            if facts[fact] != self._facts[fact]:
                got = f"{facts[fact] or 'all sizes'} in {str(path)!r}"
                raise ValueError(f"expected {fact} {self._facts[fact] or 'all sizes'}, got {got}: export {fix}")

    def _batch(self, images: Any, size: int | None) -> NDArray[np.float32]:
        if isinstance(images, np.ndarray) and images.ndim == 4:
            if size is not None or images.dtype != np.float32 or images.shape[1] != 3:
                got = f"{images.dtype} {images.shape} with size={size}"
                raise ValueError(f"expected a batch (B, 3, H, W) float32 and no size, got {got}: resize by `read`")
            low, high = float(images.min()), float(images.max())
            if not (low >= 0 and high <= 1):  # NaN fails too
                raise ValueError(f"expected pixels in [0, 1], got [{low:.4g}, {high:.4g}]: divide 0..255 by 255")
            return images
        several = list(images) if isinstance(images, (list, tuple)) else [images]
        read = [self.read(image, size) for image in several]
        if len({image.shape for image in read}) != 1:
            sizes = sorted({image.shape[1:] for image in read})
            raise ValueError(f"expected images of one size, got {sizes}: encode them one by one, or crop them")
        return np.stack(read)

    def _grids(self, image_size: Sequence[int]) -> list[tuple[int, int]]:
        h, w = (-(-side // self.strides[0]) for side in image_size)
        return [(h * (self.strides[0] // stride), w * (self.strides[0] // stride)) for stride in self.strides]

    def _check_size(self, image_size: Sequence[int]) -> None:
        if self.size is not None and tuple(image_size) != self.size:
            wanted, got = (f"{height} x {width} px" for height, width in (self.size, image_size))
            raise ValueError(f"expected images of {wanted} (height x width), got {got}: export for that size")

    def _inputs(self, levels: list[NDArray[np.int64]], count: int) -> dict[str, NDArray[np.int64]]:
        """What decode.onnx and embed.onnx read: `count` levels, of which those behind a prefix have no token."""
        batch, height, width = levels[0].shape
        ratios = [self.strides[0] // stride for stride in self.strides[len(levels) : count]]
        absent = [np.full((batch, height * r, width * r), -1, dtype=np.int64) for r in ratios]
        return {f"ids_{level}": own for level, own in enumerate([*levels, *absent])}

    def _image_input(self, ids: Any, batch: int) -> dict[str, NDArray[np.int64]]:
        """What embed.onnx reads of image tokens."""
        sizes, own = self._facts["image_codebook_sizes"], getattr(ids, "image_ids", None)
        if not sizes:
            return {}
        if own is None or own.shape != (batch, len(sizes)) or not ((own >= 0) & (own < sizes)).all():
            raise ValueError(f"expected image_ids ({batch}, {len(sizes)}) < {sizes}, got {own}: pass those of `encode`")
        return {"image_ids": np.ascontiguousarray(own, dtype=np.int64)}

    def _check_ids(self, ids: Sequence[Any]) -> list[NDArray[np.int64]]:
        levels = [np.ascontiguousarray(level, dtype=np.int64) for level in ids]
        if not 1 <= len(levels) <= len(self.strides) or levels[0].ndim != 3:
            raise ValueError(f"expected (B, h, w) of 1 to {len(self.strides)} levels, got {len(levels)}: see `encode`")
        batch, height, width = levels[0].shape
        self._check_size((height * self.strides[0], width * self.strides[0]))
        for index, (level, stride, entries) in enumerate(zip(levels, self.strides, self.codebook_sizes, strict=False)):
            expected = (batch, height * (ratio := self.strides[0] // stride), width * ratio)
            low, high = level.min(initial=0), level.max(initial=0)
            if level.shape != expected or low < (-1 if index else 0) or high >= entries:
                got = f"{level.shape} in [{low}, {high}]"
                raise ValueError(f"expected level {index} of {expected} in [0, {entries}), got {got}: see `encode`")
        return levels

    def _words(self, path: Path) -> tuple[list[str], NDArray[np.float32], NDArray[np.int64]]:
        if path not in self._read_words:
            if not path.is_file():
                raise FileNotFoundError(f"expected {str(path)!r}, got no such file: export with --classes")
            with np.load(path) as stored:
                fingerprint = str(stored["fingerprint"])
                self._session("embed")
                if fingerprint != self.fingerprint:
                    got = f"{fingerprint[:12]} in {str(path)!r}"
                    raise ValueError(f"expected words of model {self.fingerprint[:12]}, got {got}: export them with it")
                names = [str(name) for name in stored["names"]]
                self._read_words[path] = names, stored["embeddings"], stored["owner"]
        return self._read_words[path]


def read_image(image: Any, size: int | None = None) -> NDArray[np.float32]:
    """One image as (3, H, W) float32 in [0, 1], by the image recipe.

    Args:
        image: A path, a file object, a PIL image, or an array (H, W) or (H, W, C) of uint8, uint16 or float in [0, 1], with C = 1
            grey, 2 grey and alpha, 3 RGB or 4 RGBA.
        size: The short side is resized to this many pixels; None keeps the size.

    Raises:
        ValueError: An image of 32-bit integers, or an array of another kind.
        OSError: Pillow cannot read the file.
    """
    array = image if isinstance(image, np.ndarray) else _decode(image)
    array = array[..., None] if array.ndim == 2 else array
    known = array.dtype.kind in "bf" or array.dtype.str[1:] in ("u1", "u2")
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4) or not known:
        raise ValueError(
            f"expected (H, W) or (H, W, 1 to 4) of 8 or 16 bit or float, got {array.dtype} {array.shape}: convert it"
        )
    scale = np.iinfo(array.dtype).max if array.dtype.kind == "u" else 1
    planes = np.divide(array.transpose(2, 0, 1), scale, dtype=np.float32, order="C")
    if array.dtype.kind == "f":
        low, high = float(planes.min()), float(planes.max())
        if not (low >= -1e-3 and high <= 1 + 1e-3):  # NaN fails too
            raise ValueError(f"expected pixels in [0, 1], got [{low:.4g}, {high:.4g}]: divide by their largest value")
        planes = planes.clip(0, 1)
    if len(planes) in (2, 4):
        planes = 1 + planes[-1] * (planes[:-1] - 1)  # on white
    if size is not None:
        height, width = planes.shape[1:]
        short = min(height, width)
        planes = resize(planes, (round(height * size / short), round(width * size / short)))
    return np.ascontiguousarray(np.broadcast_to(planes, (3, *planes.shape[1:])))


def resize(planes: NDArray[np.float32], target: tuple[int, int]) -> NDArray[np.float32]:
    """Planes (C, H, W) resized to `target` by an antialiased bicubic kernel (a = -0.5) and clamped to [0, 1], as torch does.

    Source:
        `torch.nn.functional.interpolate(mode="bicubic", antialias=True)`, which follows Pillow.
    """
    if planes.shape[1:] == tuple(target):
        return planes
    across = _resize_last(planes, target[1])
    return _resize_last(across.swapaxes(1, 2), target[0]).swapaxes(1, 2).clip(0, 1)


def _resize_last(x: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """The last axis resized to `count` places."""
    if x.shape[-1] == count:
        return x
    weights, starts, stops = _kernel(x.shape[-1], count)
    result = np.empty((*x.shape[:-1], count), dtype=np.float32)
    for first in range(0, count, 32):  # neighbours read nearly the same places: a small dense product for each group
        last = min(first + 32, count)
        low, high = int(starts[first]), int(stops[last - 1])
        result[..., first:last] = x[..., low:high] @ weights[first:last, low:high].T
    return result


def _kernel(size: int, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """The matrix (count, size) that resizes an axis, and the first and the last place that each of its rows reads."""
    scale = np.float32(size) / np.float32(count)
    stretch = max(scale, np.float32(1))
    centres = scale * (np.arange(count, dtype=np.float32) + np.float32(0.5))
    starts = np.maximum((centres - 2 * stretch + np.float32(0.5)).astype(np.int64), 0)
    stops = np.minimum((centres + 2 * stretch + np.float32(0.5)).astype(np.int64), size)
    places = np.arange(size, dtype=np.float32)
    inside = (places >= starts[:, None]) & (places < stops[:, None])
    away = np.abs((places - centres[:, None] + np.float32(0.5)) / stretch)
    near = (1.5 * away - 2.5) * away * away + 1
    far = ((-0.5 * away + 2.5) * away - 4) * away + 2
    weights = np.where(inside, np.where(away < 1, near, np.where(away < 2, far, 0)), np.float32(0))
    return weights / weights.sum(1, keepdims=True, dtype=np.float32), starts, stops


def _decode(image: Any) -> NDArray[Any]:
    """(H, W) or (H, W, C) array of a file or a PIL image, upright; C = 2 and 4 carry alpha."""
    if not isinstance(image, Image.Image):
        with Image.open(image) as opened:
            return _decode(opened)
    image.load()
    if image.mode in ("1", "F") or image.mode.startswith("I;16"):
        array = np.asarray(image)
    elif image.mode == "I":
        raise ValueError("expected 8 or 16 bits a value, got a PIL image of mode 'I': convert it to 'I;16' or 'L'")
    elif image.has_transparency_data:
        array = np.asarray(image.convert("LA" if image.mode in ("LA", "La") else "RGBA"))
    else:
        array = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    try:
        turns = _TURNS.get(image.getexif().get(_ORIENTATION_TAG, 1), "")
    except Exception:  # broken EXIF is common; viewers show such an image as it is stored
        turns = ""
    array = array.swapaxes(0, 1) if "t" in turns else array
    return array[:: -1 if "v" in turns else 1, :: -1 if "h" in turns else 1]


def _cover(image: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """The image resized to cover a size, and the centre of that size."""
    height, width = image.shape[1:]
    factor = max(size[0] / height, size[1] / width)
    image = resize(image, (max(size[0], round(height * factor)), max(size[1], round(width * factor))))
    top, left = (image.shape[1] - size[0]) // 2, (image.shape[2] - size[1]) // 2
    return np.ascontiguousarray(image[:, top : top + size[0], left : left + size[1]])


def _pad(batch: NDArray[np.float32], multiple: int) -> NDArray[np.float32]:
    bottom, right = -batch.shape[2] % multiple, -batch.shape[3] % multiple
    if not bottom and not right:
        return np.ascontiguousarray(batch)
    return np.pad(batch, ((0, 0), (0, 0), (0, bottom), (0, right)), mode="edge")


def _only_these() -> Any:
    """The option of a run that leaves out what only other outputs need, such as detail levels."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.only_execute_path_to_fetches = True
    return options
