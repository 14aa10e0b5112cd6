r"""Puts a trained model into the package as a bundled one: float16 decoder and head, measured figures, the card.

    python benchmarks/reconstruction.py --data DATA --model build/tiny-head --json build/evaluation.json
    python benchmarks/bundled.py --data DATA --model build/tiny-head --json build/figures.json
    python examples/research/train_tiny/bundle.py --model build/tiny-head --evaluation build/evaluation.json \
        --figures build/figures.json

`--beside` shows the figures of the model before, as `benchmarks/bundled.py --json` wrote them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # this checkout, from any current directory

from benchmarks.bundled import to_markdown
from pyramid_tokenizer.hub.card import add_to_card
from pyramid_tokenizer.hub.directory import HEAD_FILE
from pyramid_tokenizer.segmentation.segmenter import Segmenter

HERE = Path(__file__).resolve().parent
ASSETS = HERE.parents[2] / "pyramid_tokenizer" / "assets"
TERMS = {
    "license": "other",
    "license_name": "research-only-images",
    "datasets": [
        *(
            "caltech-101",
            "coco",
            "imagenet-samples",
            "msrc-v2",
            "clothing-co-parsing",
            "camvid",
            "tf_flowers",
            "pascal-voc-2012",
        ),
        *(
            "miniplaces",
            "mini-imagenet",
            "tiny-imagenet",
            "imagenette",
            "flickr8k",
            "dtd",
            "uec-food256",
            "grocery-store",
        ),
    ],
    "metrics": ["psnr", "ssim", "accuracy", "mean_iou"],
}
LIMIT_BYTES = 28_200_000
"""Of backbone, codebooks and decoder; the head comes on top."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="directory that train_head.py wrote")
    parser.add_argument("--name", default="tiny", help="folder in the package (default: %(default)s)")
    parser.add_argument("--evaluation", type=Path, required=True, help="what benchmarks/reconstruction.py --json wrote")
    parser.add_argument("--figures", type=Path, required=True, help="what benchmarks/bundled.py --json wrote")
    parser.add_argument("--beside", type=Path, help="the same of the model before")
    args = parser.parse_args()
    evaluation = json.loads(args.evaluation.read_text(encoding="utf-8"))
    figures = json.loads(args.figures.read_text(encoding="utf-8"))
    before = None if args.beside is None else json.loads(args.beside.read_text(encoding="utf-8"))
    seg = Segmenter.from_pretrained(args.model)
    for path, found in ((args.evaluation, evaluation), (args.figures, figures)):
        if found.get("fingerprint") != seg.tok.fingerprint:
            parser.error(f"{path} measured another model: run the benchmark on {args.model}")
    folder = seg.save_pretrained(ASSETS / args.name, half=True, evaluation=evaluation)
    header, body = (folder / "README.md").read_text(encoding="utf-8").split("# A pyramid-tokenizer model\n", 1)
    card = (HERE / "card.md").read_text(encoding="utf-8")
    table = f"`python benchmarks/bundled.py --data DATA` prints this table.\n\n{to_markdown(figures, before)}"
    body = body.split("\n## Terms\n", 1)[0]  # card.md has them
    text = f"{header}{card}\n## Figures\n\n{table}\n## Use\n{body}"
    whole = add_to_card(text, repo_id=args.name, **TERMS)
    (folder / "README.md").write_text(whole, encoding="utf-8")
    head = (folder / HEAD_FILE).stat().st_size
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) - head
    print(f"{folder}: {size:,} bytes, and {head:,} of the segmentation head")
    if size > LIMIT_BYTES:
        parser.error(f"expected at most {LIMIT_BYTES:,} bytes, got {size:,}: make the model smaller")


if __name__ == "__main__":
    main()
