"""`evaluate_semantics`: what tokens know of names and captions, beside the backbone that they were made of."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.errors import DataError
from pyramid_tokenizer.evaluation.bootstrap import mean_interval
from pyramid_tokenizer.images.read import to_batch
from pyramid_tokenizer.segmentation.segmenter import Segmenter
from pyramid_tokenizer.tokenizer import PyramidTokenizer

TOP = (1, 5)
"""A name counts as found among so many best ones."""
RECALL = (1, 5, 10)
"""An image or a caption counts as found among so many best ones."""
SAMPLES = 1000
"""Draws of the bootstrap."""
_FILE, _LABEL, _CAPTION = ("file", "image", "filename"), ("label", "name", "class"), ("caption", "text")


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledImages:
    """Image files with a name, captions or both."""

    files: tuple[Path, ...]
    labels: tuple[str | None, ...]
    """The name of each image; None for one without."""
    captions: tuple[tuple[str, ...], ...]
    """The captions of each image."""

    @property
    def names(self) -> list[str]:
        """The different names, sorted."""
        return sorted({label for label in self.labels if label is not None})


def read_labels(path: str | Path, images: str | Path) -> LabelledImages:
    r"""Reads a CSV file of labels, with a header.

    Args:
        path: A UTF-8 file with the column "file" (a path below `images`), and "label" or "caption" or both; a file may have
            several rows, for several captions. Other columns are ignored.
        images: The folder of the images.

    Raises:
        DataError: The file cannot be read, a column is missing, an image does not exist, has two different labels, or there is
            neither a label nor a caption.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "a.png").touch()
        ...     _ = Path(folder, "labels.csv").write_text("file,label\na.png,dog\n")
        ...     read_labels(Path(folder, "labels.csv"), folder).names
        ['dog']
    """
    path, folder = Path(path), Path(images)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"expected a UTF-8 CSV file of labels, got {str(path)!r}: {error}") from error
    file_column = next((name for name in columns if name.strip().lower() in _FILE), None)
    label_column = next((name for name in columns if name.strip().lower() in _LABEL), None)
    caption_column = next((name for name in columns if name.strip().lower() in _CAPTION), None)
    if file_column is None or (label_column is None and caption_column is None):
        raise DataError(
            f"expected the columns file and label or caption in {str(path)!r}, got {', '.join(columns) or 'none'}: write a first "
            "line such as file,label"
        )
    labels: dict[str, str | None] = {}
    captions: dict[str, list[str]] = {}
    for row in rows:
        name = (row[file_column] or "").strip()
        label = (row[label_column] or "").strip() or None if label_column else None
        if labels.setdefault(name, label) != label:
            raise DataError(
                f"expected one label for each image, got {labels[name]!r} and {label!r} for {name!r}: keep one"
            )
        caption = (row[caption_column] or "").strip() if caption_column else ""
        captions.setdefault(name, []).extend([caption] if caption else [])
    missing = next((name for name in labels if not (folder / name).is_file()), None)
    if missing is not None:
        raise DataError(
            f"expected the images of {str(path)!r} in {str(folder)!r}, got no {missing!r}: correct the path"
        )
    if not any(labels.values()) and not any(captions.values()):
        raise DataError(f"expected a label or a caption in {str(path)!r}, got none: fill a column")
    return LabelledImages(
        files=tuple(folder / name for name in labels),
        labels=tuple(labels.values()),
        captions=tuple(map(tuple, captions.values())),
    )


@torch.no_grad()
def evaluate_semantics(
    tok: PyramidTokenizer,
    images: LabelledImages,
    *,
    names: Sequence[str] | None = None,
    size: int = 256,
    progress: Callable[[str, int], Callable[[], None]] = lambda what, total: lambda: None,
) -> dict[str, Any]:
    """Measures zero-shot classification, retrieval by captions, and agreement of cells, from tokens and from the backbone.

    Images are read one by one. The backbone's figures come from its own image embedding and its dense features.

    Args:
        tok: A fitted tokenizer.
        images: What `read_labels` gives.
        names: The names to choose from, the labels among them, synonyms as "car|automobile"; None for the labels.
        size: Short side that images are resized to.
        progress: Called with the name of a stage and how many steps it has; what it returns is called after each step. Names
            are read before the images, captions after them: a `TextEncoder` has a `progress` of its own.

    Returns:
        Plain data: "num_images", "protocol", and "rows" of "what", "from", "value", "interval" and "count".

    Raises:
        DataError: A label is none of the names.
        ImageError: An image cannot be read.
    """
    names = images.names if names is None else list(names)
    targets = _targets(images.labels, names)
    parts: dict[str, list[Tensor]] = {"tokens": [], "backbone": []}
    agreement: list[Tensor] = []
    if len(names) > 1:
        tok.text.encode_names(names)  # it remembers them
    agree = _agreement(tok, names) if len(names) > 1 and tok.backbone.has_dense else None
    advance = progress("images", len(images.files))
    for file in images.files:
        batch = to_batch(file, size=size)
        tokens = tok.encode(batch)
        parts["tokens"].append(tok.embedding(tokens).cpu())
        embedding = tok.features(batch, with_dense=True).embedding
        assert embedding is not None
        parts["backbone"].append(F.normalize(embedding.float(), dim=1).cpu())
        if agree is not None:
            agreement.append(agree(batch, tokens))
        advance()
    embedded = {name: torch.cat(rows) for name, rows in parts.items()}
    rows = [*_zero_shot(tok, embedded, names, targets), *_retrieval(tok, embedded, images.captions)]
    if agreement:
        what = "pixels with the same name as by dense features"
        rows.append(_row(what, "tokens", torch.stack(agreement)))
    return {"num_images": len(images.files), "num_names": len(names), "protocol": _protocol(size), "rows": rows}


def _targets(labels: Sequence[str | None], names: Sequence[str]) -> list[int | None]:
    places = {word.strip(): place for place, name in enumerate(names) for word in name.split("|")}
    unknown = next((label for label in labels if label is not None and label not in places), None)
    if unknown is not None:
        raise DataError(
            f"expected every label among the {len(names)} names, got {unknown!r}: add it, or leave the names out"
        )
    return [None if label is None else places[label] for label in labels]


def _agreement(tok: PyramidTokenizer, names: Sequence[str]) -> Callable[[Tensor, Any], Tensor]:
    seg = Segmenter(tok)

    def agree(batch: Tensor, tokens: Any) -> Tensor:
        found = seg.segment(tokens, names, mode="lookup").labels == seg.segment(batch, names, mode="dense").labels
        return found.double().mean().cpu()

    return agree


def _zero_shot(
    tok: PyramidTokenizer, embedded: dict[str, Tensor], names: Sequence[str], targets: Sequence[int | None]
) -> Iterator[dict[str, Any]]:
    chosen = [i for i, target in enumerate(targets) if target is not None]
    if not chosen or len(names) < 2:
        return
    words = tok.text.encode_names(names)
    wanted = torch.tensor([targets[i] for i in chosen])
    scores = {source: words.classify(rows[chosen]).scores for source, rows in embedded.items()}
    right: dict[tuple[str, int], Tensor] = {}
    for top in (top for top in TOP if top < len(names)):
        for source, of_source in scores.items():
            right[source, top] = (of_source.topk(top, dim=1).indices == wanted[:, None]).any(1).double()
            yield _row(f"zero-shot, top {top} of {len(names)} names", source, right[source, top])
    yield _row("zero-shot, top 1", "tokens minus backbone", right["tokens", 1] - right["backbone", 1])


def _retrieval(
    tok: PyramidTokenizer, embedded: dict[str, Tensor], captions: Sequence[Sequence[str]]
) -> Iterator[dict[str, Any]]:
    texts = [text for of_image in captions for text in of_image]
    owner = torch.tensor([place for place, of_image in enumerate(i for i in captions if i) for _ in of_image])
    chosen = [place for place, of_image in enumerate(captions) if of_image]
    if len(chosen) < 2:
        return
    words = tok.text.encode(texts, templates="plain")
    scores = {source: words @ rows[chosen].T for source, rows in embedded.items()}  # (captions, images)
    for count in RECALL:
        if count >= len(chosen):
            break
        for source, of_source in scores.items():
            found = (of_source.topk(count, dim=1).indices == owner[:, None]).any(1).double()
            yield _row(f"caption to image, recall at {count} of {len(chosen)}", source, found)
        for source, of_source in scores.items():
            ranked = owner[of_source.T.topk(count, dim=1).indices]
            found = (ranked == torch.arange(len(chosen))[:, None]).any(1).double()
            yield _row(f"image to caption, recall at {count} of {len(texts)}", source, found)


def _row(what: str, source: str, values: Tensor) -> dict[str, Any]:
    return {
        "what": what,
        "from": source,
        "value": float(values.mean()),
        "interval": list(mean_interval(values, samples=SAMPLES)),
        "count": len(values),
    }


def _protocol(size: int) -> str:
    return (
        f"whole images with a short side of {size} px, one at a time; names in the package's default prompts, captions as they "
        "are; the backbone by its own image embedding, tokens by the embedding that they give; pixels: the best name by look-up "
        f"from tokens and by the backbone's dense features; intervals: 95 % bootstrap over images or captions, {SAMPLES:,} draws"
    )
