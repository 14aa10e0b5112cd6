"""Writes the labels that `benchmarks/recipe.py` measures the research data with.

    python examples/research/recipe_labels.py --data DATA --out labels.csv
    python benchmarks/recipe.py --backbone DIR --images DATA --labels labels.csv --limit 700 --masks DATA/seg/camvid DATA/seg/msrc

Measured are the test photos of Caltech-101 and the flowers (rows of recon/train.csv that no training sees), and the test images
of seg/coco80 and seg/msrc, whose label is the class with the largest labelled area. The other rows of recon/train.csv, without
test photos and kept-out names, are fitted on.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout, from any current directory

from examples.research.train_tiny.texts import clean_name, is_kept_out, is_test_row, read_rows, seg_names

NAMED_SOURCES = ("caltech101", "flowers")
SETS = ("coco80", "msrc")
IGNORE = 255


def photo_rows(data: Path) -> list[tuple[str, str, str]]:
    """File, label and split of the rows of recon/train.csv that may be used."""
    rows = []
    for row in read_rows(data):
        named, test = row["source"] in NAMED_SOURCES, bool(row["label"]) and is_test_row(row["file"])
        if row["label"] and ((test and not named) or (not test and is_kept_out(row["label"]))):
            continue
        label = clean_name(row["label"]) if named else ""
        rows.append((f"recon/{row['file']}", label, "test" if test else "train"))
    return rows


def mask_rows(data: Path, name: str) -> list[tuple[str, str, str]]:
    """File, label and split of a labelled set's test images, by the class of the largest area."""
    folder, classes = data / "seg" / name, seg_names(data, name)
    images = {path.stem: path for path in (folder / "images").iterdir()}
    rows = []
    for line in (folder / "splits" / "test.txt").read_text().split():
        stem = Path(line).stem
        values = np.asarray(Image.open(folder / "labels" / f"{stem}.png"))
        areas = np.bincount(values[values != IGNORE].ravel(), minlength=len(classes))
        areas[[i for i, label in enumerate(classes) if label == "background"]] = 0
        if areas.any():
            rows.append((images[stem].relative_to(data).as_posix(), clean_name(classes[areas.argmax()]), "test"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the research data with recon/ and seg/")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = photo_rows(args.data) + [row for name in SETS for row in mask_rows(args.data, name)]
    with open(args.out, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("file", "label", "split"), *rows])
    test = [label for _, label, split in rows if split == "test"]
    print(f"{len(rows)} rows, {len(test)} to measure, {len(set(test))} names among them")


if __name__ == "__main__":
    main()
