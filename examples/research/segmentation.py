"""Measures masks from tokens (by look-up and by the head) beside masks from the dense features and from unquantised features.

    python examples/research/segmentation.py --data DATA [--model tiny] [--px 256] [--sets camvid,msrc,coco80,ccp]

It reads the test splits of DATA/seg/* and prints three tables: masks of the names that the bundled model's training may show,
masks of the classes whose names were kept out of it (`KEPT_OUT` in train_tiny/texts.py), and what the codes of each level mean.
Progress goes to stderr; the tables go to stdout, `--markdown` and `--json`. A model without a head is measured by look-up and
dense features alone. For a labelled set of your own use `pyramid-tokenizer evaluate segmentation`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout, from any current directory

from benchmarks.reconstruction import number, say
from examples.research import segmentation_kept_out as kept_out
from examples.research import segmentation_rows as rows
from examples.research.segmentation_rows import Counts, Names
from examples.research.segmentation_tables import SINGLE, to_markdown
from pyramid_tokenizer import PyramidTokenizerError
from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.evaluation import LevelSemantics, bootstrap_interval
from pyramid_tokenizer.evaluation import oracle_scores as oracle
from pyramid_tokenizer.evaluation.confusion import ClassCounts
from pyramid_tokenizer.images.labelled import SegmentationSet, open_segmentation_set
from pyramid_tokenizer.segmentation.segmenter import Segmenter

SETS = ("camvid", "msrc", "coco80", "ccp")
KEPT_OUT_SETS = ("coco80", "msrc")


def protocol_of(px: int) -> str:
    """How it is measured, in one sentence per decision."""
    return (
        f"test splits; images are seen at a short side of {px} px, one at a time; scores are enlarged bilinearly to the "
        "labels' size, where pixels are counted; background pixels (coco80, ccp) are ignored, and so are those of kept-out "
        f"names in the table of learned names; intervals: 95 % bootstrap over images, {kept_out.SAMPLES} draws; codes are "
        "counted at the size that was seen, on the pixels of learned names"
    )


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """All figures, as `--json` writes them."""
    seg, continuous = load_models(args)
    notes = notes_on(seg)
    for note in notes:
        say(note)
    sets, shown_kept_out = [], {}
    for name in args.sets:
        entry, names, images = measure_set(name, seg, args, continuous)
        sets.append(entry)
        if name in KEPT_OUT_SETS and images:
            shown_kept_out[name] = (names, images)
    return {
        "model": Path(args.model).name if Path(args.model).is_dir() else args.model,
        "fingerprint": seg.tok.fingerprint,
        "protocol": protocol_of(args.px) + ("" if args.limit is None else f"; only {args.limit} images a split"),
        "machine": f"{os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}",
        "date": datetime.date.today().isoformat(),
        "notes": notes,
        "sets": sets,
        "kept_out": kept_out_rows(shown_kept_out),
    }


def load_models(args: argparse.Namespace) -> tuple[Segmenter, Segmenter | None]:
    """The model, and the one whose head was trained on features before quantisation.

    Raises:
        ConfigError: The second has no head, or other tokens than the first.
    """
    seg = Segmenter.from_pretrained(args.model)
    if args.continuous_head is None:
        return seg, None
    continuous = Segmenter.from_pretrained(args.continuous_head)
    if continuous.head is None:
        fix = "train one with examples/research/train_tiny/train_head.py --continuous"
        raise ConfigError(f"expected a model with a head in {str(args.continuous_head)!r}, got one without: {fix}")
    if continuous.tok.fingerprint != seg.tok.fingerprint:
        fix = "train both heads on one tokenizer"
        raise ConfigError(
            f"expected the tokenizer of {args.model!r} in {str(args.continuous_head)!r}, got another: {fix}"
        )
    return seg, continuous


def notes_on(seg: Segmenter) -> list[str]:
    """Why rows are missing."""
    notes = []
    if seg.head is None:
        notes.append("the model has no segmentation head: the decoder's rows are left out")
    if not seg.tok.backbone.has_dense:
        notes.append("the backbone has no dense text-aligned map: its rows are left out")
    return notes


def measure_set(
    name: str, seg: Segmenter, args: argparse.Namespace, continuous: Segmenter | None
) -> tuple[dict[str, Any], Names, dict[str, list[Tensor]]]:
    """A set's figures; its names; and, by source, the counts of each image that shows a kept-out class."""
    folder = args.data / "seg" / name
    train, test = (open_segmentation_set(folder, split=split) for split in ("train", "test"))
    names = Names.of(test.names)
    how = {"px": args.px, "limit": args.limit}
    counts = rows.count(seg, test, names, say=partial(say_of, f"{name} test"), continuous=continuous, **how)
    fitted = rows.name_codes(seg, train, names, say=partial(say_of, f"{name} train"), **how)
    entry = {
        "set": name,
        "background_ignored": names.has_background,
        "images": shown(test, args.limit),
        "names": len(names.all) - names.has_background,
        "learned_names": len(names.learned),
        "rows": [learned_row(source, images) for source, images in counts.learned.items()],
        "levels": level_rows(fitted, counts),
    }
    for row in entry["rows"]:
        say_of(name, f"{row['from']}: mIoU {number(row['miou_present'], 3)}")
    return entry, names, counts.images_of_kept_out


def say_of(title: str, text: str) -> None:
    say(f"{title}: {text}")


def shown(labelled: SegmentationSet, limit: int | None) -> int:
    return len(labelled) if limit is None else min(limit, len(labelled))


def learned_row(source: str, images: Sequence[ClassCounts]) -> dict[str, Any]:
    """One line of the first table."""
    total = ClassCounts(
        **{field: sum(getattr(counts, field) for counts in images) for field in ("correct", "wanted", "predicted")}
    )
    scores = total.scores()
    return {
        "from": source,
        "classes_present": int((total.wanted > 0).sum()),
        **{name: plain(getattr(scores, name)) for name in SINGLE},
        "interval": plain(bootstrap_interval(images, samples=kept_out.SAMPLES)),
    }


def level_rows(fitted: Sequence[LevelSemantics], counts: Counts) -> list[dict[str, Any]]:
    """What the codes of each level mean, coarse to fine: named on the train split, measured on the test split."""
    return [
        {
            "codes": len(fit.counts),
            "seen_in_test": test.num_seen,
            "purity": plain(test.mean_purity),
            "majority_share": plain(test.majority_share),
            "oracle_miou_present": plain(oracle(fit, test).miou_present),
            "oracle_pixel_accuracy": plain(oracle(fit, test).pixel_accuracy),
        }
        for fit, test in zip(fitted, counts.semantics.levels, strict=True)
    ]


def kept_out_rows(sets: dict[str, tuple[Names, dict[str, list[Tensor]]]]) -> list[dict[str, Any]]:
    """The second table: each set by itself, then all together."""
    groups = {name: [name] for name in sets}
    if len(sets) > 1:
        groups[" + ".join(sets)] = list(sets)
    found = []
    for title, members in groups.items():
        for source in sets[members[0]][1]:
            scores = kept_out.kept_out_scores([(sets[name][0], sets[name][1][source]) for name in members])
            say(f"kept-out names, {title}, {source}: {scores.miou:.3f}, {scores.ratio:.1f} times shuffled ones")
            found.append({"set": title, "from": source, **{k: plain(v) for k, v in asdict(scores).items()}})
    return found


def plain(value: Any) -> Any:
    """Fit for JSON: None for what is not finite."""
    if isinstance(value, tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_whole(path: Path, text: str) -> None:
    """Writes the file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def set_names(text: str) -> list[str]:
    return text.split(",")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the data folder; holds seg/")
    parser.add_argument(
        "--model", default="tiny", help="bundled name, directory or Hub repository (default: %(default)s)"
    )
    parser.add_argument("--px", type=int, default=256, help="short side of the images (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="only the first so many images of each split")
    parser.add_argument("--sets", type=set_names, default=list(SETS), metavar="A,B", help="folders of seg/")
    parser.add_argument(
        "--continuous-head", type=Path, metavar="DIR", help="the same tokenizer with a head trained on features"
    )
    parser.add_argument("--threads", type=int, help="torch threads")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
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
        write_whole(args.markdown, text)
    if args.json:
        write_whole(args.json, json.dumps(result, indent=2, allow_nan=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
