"""What the bundled model may read: names, prompts, captions; what is kept out of its training; how names are held out."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import random
import re
from collections.abc import Iterable
from pathlib import Path

# Names that no label, dense label or caption of ours may show, so that open-vocabulary figures on them are honest.
# Each with its kin: the name that an image of theirs has in examples/research/zero_shot.py.
KEPT_OUT: dict[str, tuple[str, ...]] = {
    "zebra": ("zebra",),
    "bicycle": ("bicycle", "bike", "bicyclist", "cyclist", "biker", "bicycling", "cycling", "biking"),
    "boat": (
        *("boat", "boating", "boater", "ketch", "schooner", "yawl", "canoe", "kayak", "dinghy", "yacht", "gondola"),
        *("trimaran", "catamaran"),
    ),
    "sheep": ("sheep", "ram", "ewe", "lamb", "bighorn"),
    "pizza": ("pizza", "pizzeria"),
    "umbrella": ("umbrella", "parasol"),
}
PROMPTS = ("{}", "a photo of a {}", "an image of {}", "a picture of the {}", "a photo of the {} in the scene")
TEXT_TEST_PERCENT = 15


def is_test_row(file: str) -> bool:
    """The fixed tenth of the labelled rows of recon/train.csv that no training sees.

    Example:
        >>> is_test_row("train/imagenet_n01440764.jpg")
        False
    """
    return int(hashlib.sha1(file.encode()).hexdigest(), 16) % 10 == 0


def kept_out_name(text: str) -> str | None:
    """The kept-out name that a label or a caption speaks of, None where it speaks of none.

    Example:
        >>> kept_out_name("two sailboats at sea"), kept_out_name("mountain_bike"), kept_out_name("Motorbikes")
        ('boat', 'bicycle', None)
    """
    for word in re.findall(r"[a-z]+", text.lower()):
        for name, kin in KEPT_OUT.items():
            if any(form in kin for form in _singulars(word)):
                return name
            if name != "sheep" and word.startswith(name):  # zebras, bicycles; a sheepdog is no sheep
                return name
        if re.search(r"boats?$", word):
            return "boat"
    return None


def is_kept_out(text: str) -> bool:
    """Whether a label or a caption speaks of a kept-out name."""
    return kept_out_name(text) is not None


def _singulars(word: str) -> Iterable[str]:
    yield word
    if word.endswith("s"):
        yield word[:-1]
    if word.endswith("es"):
        yield word[:-2]


def clean_name(name: str) -> str:
    """A class name as words.

    Example:
        >>> clean_name("Aerosol_can"), clean_name("bow_(weapon)"), clean_name("water-other")
        ('aerosol can', 'bow (weapon)', 'water other')
    """
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def is_held_out(text: str) -> bool:
    """Whether a name belongs to the 15 % that the text encoder never reads by themselves (singular and plural fall together).

    Example:
        >>> is_held_out("Zebra") == is_held_out("zebras")
        True
    """
    root = clean_name(text)
    root = root[:-1] if root.endswith("s") and not root.endswith("ss") else root
    return int(hashlib.sha1(root.encode()).hexdigest(), 16) % 100 < TEXT_TEST_PERCENT


def prompts(name: str) -> list[str]:
    """A name in every template that the text encoder learns to read as the name itself."""
    return [template.format(name) for template in PROMPTS]


def imagenet_names(data: Path) -> list[list[str]]:
    """The 1,001 rows of MobileNetV2's output, each with its synonyms, the first one first; row 0 is the background."""
    lines = (data / "weights" / "imagenet_labels.txt").read_text().splitlines()
    return [[clean_name(name) for name in line.split(", ")] for line in lines]


def clip_names(data: Path, space: str) -> dict[str, list[str]]:
    """The names of "vitb32" or "vitb16", by their key in clip_text_embeddings.npz, in the order of its rows."""
    names = json.loads((data / "weights" / "clip_text_names.json").read_text())
    return {key: [clean_name(name) for name in rows] for key, rows in names.items() if key.startswith(space)}


def seg_names(data: Path, dataset: str) -> list[str]:
    """A segmentation set's class names in the order of its labels."""
    return [clean_name(line) for line in (data / "seg" / dataset / "classes.txt").read_text().splitlines() if line]


def read_rows(data: Path) -> list[dict[str, str]]:
    """The rows of recon/train.csv; `label` as words, '' where there is none."""
    with open(data / "recon" / "train.csv") as file:
        return [{**row, "label": clean_name(row["label"])} for row in csv.DictReader(file)]


def read_wide(data: Path) -> list[dict[str, str]]:
    """The rows of wide/photos.csv that may be trained on, without those that name a kept-out name; none without the pack."""
    path = data / "wide" / "photos.csv"
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train" and not int(row["kept_out"])]
    return [row for row in rows if not is_kept_out(row["labels"])]


def wide_kept_out_names(data: Path) -> frozenset[str]:
    """The names of wide/ that no training sees as labels."""
    path = data / "wide" / "kept_out_names.txt"
    return frozenset(map(clean_name, path.read_text().splitlines())) if path.exists() else frozenset()


def wide_captions(data: Path) -> dict[str, tuple[str, ...]]:
    """By image file: the captions of the images of `read_wide` that speak of no kept-out name."""
    path = data / "wide" / "captions.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    allowed = {row["file"] for row in read_wide(data)}
    return {
        row["image"]: tuple(text for text in row["captions"] if not is_kept_out(text))
        for row in rows
        if row["image"] in allowed
    }


def all_names(data: Path) -> list[str]:
    """Every class name of the research data once: CLIP's lists, ImageNet's synonyms, labels of images, classes of seg/*."""
    names: dict[str, None] = {}
    for space in ("vitb32", "vitb16"):
        for rows in clip_names(data, space).values():
            names.update(dict.fromkeys(rows))
    names.update(dict.fromkeys(name for row in imagenet_names(data) for name in row))
    names.update(dict.fromkeys(row["label"] for row in read_rows(data) if row["label"]))
    for folder in sorted((data / "seg").iterdir()):
        names.update(dict.fromkeys(seg_names(data, folder.name)))
    return list(names)


def read_captions(data: Path) -> list[dict]:
    """The images with captions: id, image, split, captions."""
    lines = (data / "captions" / "captions.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def training_captions(data: Path) -> list[str]:
    """All captions without those of the test images and without those that speak of a kept-out name."""
    test = {text for row in read_captions(data) if row["split"] == "test" for text in row["captions"]}
    with gzip.open(data / "captions" / "coco_val2017_captions_text_only.tsv.gz", "rt") as file:
        texts = [line.rstrip("\n").split("\t", 1)[1] for line in file]
    texts += [text for row in read_captions(data) for text in row["captions"]]
    test = {_plain(text) for text in test}
    return [text for text in dict.fromkeys(texts) if _plain(text) not in test and not is_kept_out(text)]


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def bpe_words(data: Path) -> list[str]:
    """The whole words of three letters and more in open_clip's vocabulary."""
    with gzip.open(data / "weights" / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : 49152 - 256 - 2 + 1]
    words = ("".join(merge.split()) for merge in merges)
    return [word[:-4] for word in words if re.fullmatch(r"[a-z]{3,}</w>", word)]


def word_groups(names: list[str], words: list[str], count: int, *, seed: int = 0) -> list[str]:
    """Lists of two to four names, as an image's content reads, and pairs of words; half of each."""
    rng = random.Random(seed)
    groups = []
    for index in range(count):
        if index % 2:
            groups.append(" ".join(rng.sample(words, 2)))
        else:
            chosen = rng.sample(names, rng.randint(2, 4))
            groups.append(", ".join(chosen[:-1]) + rng.choice((" and ", ", ")) + chosen[-1])
    return groups
