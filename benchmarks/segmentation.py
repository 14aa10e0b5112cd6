"""Measures masks of PASCAL VOC 2012 in its three protocols: by look-up and by the head, both from tokens, and by dense features.

    python benchmarks/segmentation.py --data VOC [--split val] [--model tiny] [--limit N]

VOC is the folder VOCdevkit/VOC2012, or a part of it as images/, labels/ (with the values of SegmentationClass), classes.txt and
splits/NAME.txt. The protocols are voc-20, which ignores the background; voc-20b, whose background is 39 other words of
PASCAL-Context; and voc-21, whose background is the words below. Progress goes to stderr, the tables to stdout, `--markdown` and
`--json`, which also lists the images. A set of another kind: `pyramid-tokenizer evaluate segmentation`.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import json
import math
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, from any current directory

from benchmarks.reconstruction import number, say, table
from pyramid_tokenizer import PyramidTokenizerError, Segmenter, TokenPyramid
from pyramid_tokenizer.evaluation import evaluate_segmentation, label_images
from pyramid_tokenizer.images.labelled import Sample, SegmentationSet, open_segmentation_set
from pyramid_tokenizer.images.labelled.protocols import find_protocol

PROTOCOLS = ("voc-20", "voc-20b", "voc-21")
MODES = {
    "lookup": "look-up, from tokens",
    "decoder": "head, from tokens",
    "dense": "dense features, no tokens",
}
# fmt: off
BACKGROUND = (
    "sky", "wall", "tree", "wood", "grass", "road", "sea", "river", "mountain", "sands", "desk", "bed", "building", "cloud",
    "lamp", "door", "window", "wardrobe", "ceiling", "shelf", "curtain", "stair", "floor", "hill", "rail", "fence",
)
# fmt: on
"""The words of voc-21's background: those of SCLIP (arXiv 2312.01597), `cls_voc21.txt`."""
EVERY = 50
"""Images between two lines of progress."""


def open_voc(folder: Path, protocol: str, split: str) -> SegmentationSet:
    """A split of VOC, laid out as the devkit has it, or as images/, labels/ and splits/NAME.txt."""
    found = find_protocol(protocol)
    if not (folder / found.layout.image_folder).is_dir():
        layout = dataclasses.replace(find_protocol("folder").layout, class_files=())
        found = dataclasses.replace(found, layout=layout)
    return open_segmentation_set(folder, found, split=split)


def shown(labelled: SegmentationSet, limit: int | None, what: str) -> Iterator[Sample]:
    """The first images of a set, with a line of progress now and then."""
    for index in range(len(labelled) if limit is None else min(limit, len(labelled))):
        yield labelled[index]
        if (index + 1) % EVERY == 0:
            say(f"{what}: {index + 1} images")


def measure(
    seg: Segmenter, labelled: SegmentationSet, mode: str, tokens: Sequence[TokenPyramid], limit: int | None
) -> dict[str, Any]:
    """One row: a protocol by one mode. The tokens are those of the images, in order."""
    protocol = labelled.protocol
    background = BACKGROUND if protocol.background == "class" else None
    predict: Any = label_images(seg, protocol, background=background, mode=mode)
    stored = iter(tokens)
    result = evaluate_segmentation(
        predict if mode == "dense" else lambda _: predict(next(stored)),  # a segmenter takes images or tokens
        shown(labelled, limit, f"{protocol.name}, {mode}"),
        num_classes=labelled.num_classes,
        names=protocol.display_names,
        none_class=protocol.background_class,
        largest_ignored_share=1.0,
    )
    found = result.to_dict()
    say(f"{protocol.name}, {MODES[mode]}: mIoU {number(100 * result.scores.miou_present, 2)} %")
    return {"protocol": protocol.name, "mode": mode, "from": MODES[mode], **found}


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """All figures, as `--json` writes them."""
    seg = Segmenter.from_pretrained(args.model)
    modes = [
        mode
        for mode in MODES
        if not (mode == "decoder" and seg.head is None) and not (mode == "dense" and not seg.tok.backbone.has_dense)
    ]
    for mode in set(MODES) - set(modes):
        say(f"the model has no {MODES[mode]}: its rows are left out")
    sets = [open_voc(args.data, protocol, args.split) for protocol in PROTOCOLS]
    names = [pair.key for pair in sets[0].files][: args.limit]
    tokens = [seg.tok.encode(sample.image) for sample in shown(sets[0], args.limit, "encode")]
    rows = [measure(seg, labelled, mode, tokens, args.limit) for labelled in sets for mode in modes]
    return {
        "model": Path(args.model).name if Path(args.model).is_dir() else args.model,
        "fingerprint": seg.tok.fingerprint,
        "data": f"{len(names)} images of split {args.split}, SHA-256 of their sorted names {digest(names)[:16]}",
        "protocol": "images are seen whole, at their own size; scores are enlarged bilinearly to it; mIoU over the "
        f"classes in the labels; intervals: 95 % bootstrap over images, 1,000 draws; "
        f"background of voc-21: {', '.join(BACKGROUND)}",
        "machine": f"{os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}, {torch.get_num_threads()} threads",
        "date": datetime.date.today().isoformat(),
        "rows": rows,
        "images": names,
    }


def digest(names: Sequence[str]) -> str:
    """SHA-256 of the sorted names, a line each: tells whether two runs measured the same images."""
    return hashlib.sha256("".join(f"{name}\n" for name in sorted(names)).encode()).hexdigest()


def to_markdown(result: dict[str, Any]) -> str:
    facts = "\n".join(
        f"- {name}: {result[name]}" for name in ("model", "fingerprint", "data", "protocol", "machine", "date")
    )
    rows = [
        (
            row["protocol"],
            row["from"],
            percent(row["miou_present"]),
            " to ".join(map(percent, row["intervals"]["miou_present"])),
            percent(row["miou_union"]),
            percent(row["pixel_accuracy"]),
        )
        for row in result["rows"]
    ]
    head = (
        "protocol",
        "from",
        "mIoU, %",
        "95 % interval",
        "mIoU, classes in labels or predictions, %",
        "pixel accuracy, %",
    )
    return f"{facts}\n\n{table(head, rows)}\n"


def percent(share: float | None) -> str:
    return number(math.nan if share is None else 100 * share, 1)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument(
        "--data", type=Path, required=True, metavar="VOC", help="the folder of VOC 2012, or of a part of it"
    )
    parser.add_argument("--split", default="val", help="name of the list of images (default: %(default)s)")
    parser.add_argument(
        "--model", default="tiny", help="bundled name, directory or Hub repository (default: %(default)s)"
    )
    parser.add_argument("--limit", type=int, help="only the first so many images")
    parser.add_argument("--threads", type=int, help="torch threads")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures and the names of the images there")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        result = evaluate(args)
    except PyramidTokenizerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    text = to_markdown(result)
    print(text)
    if args.markdown:
        args.markdown.write_text(text, encoding="utf-8")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
