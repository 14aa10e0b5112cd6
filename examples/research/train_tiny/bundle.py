"""Puts a trained model into the package as a bundled one: float16 decoder and head, measured figures, the card.

python benchmarks/reconstruction.py --data DATA --model build/tiny-head --json build/evaluation.json
python examples/research/zero_shot.py --data DATA --model build/tiny-head --json build/zero_shot.json
python examples/research/train_tiny/bundle.py --model build/tiny-head --name tiny --evaluation build/evaluation.json \
    --zero-shot build/zero_shot.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pyramid_tokenizer.hub.card import add_to_card
from pyramid_tokenizer.hub.directory import HEAD_FILE
from pyramid_tokenizer.segmentation.segmenter import Segmenter

HERE = Path(__file__).resolve().parent
ASSETS = HERE.parents[2] / "pyramid_tokenizer" / "assets"
TERMS = {
    "license": "other",
    "license_name": "research-only-images",
    "datasets": ["caltech-101", "coco", "imagenet-samples", "msrc-v2", "clothing-co-parsing", "camvid", "tf_flowers"],
    "metrics": ["psnr", "ssim", "accuracy", "mean_iou"],
}
LIMIT_BYTES = 28_000_000
"""Of backbone, codebooks and decoder; the head comes on top."""


def zero_shot_table(rows: list[list[str]]) -> str:
    """What examples/research/zero_shot.py --json wrote, as Markdown."""
    lines = ["| what | from | figure |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="directory that train_head.py wrote")
    parser.add_argument("--name", default="tiny", help="folder in the package (default: %(default)s)")
    parser.add_argument("--evaluation", type=Path, required=True, help="what benchmarks/reconstruction.py --json wrote")
    parser.add_argument(
        "--zero-shot", type=Path, required=True, help="what examples/research/zero_shot.py --json wrote"
    )
    args = parser.parse_args()
    evaluation = json.loads(args.evaluation.read_text(encoding="utf-8"))
    seg = Segmenter.from_pretrained(args.model)
    if evaluation.get("fingerprint") != seg.tok.fingerprint:
        parser.error(f"{args.evaluation} measured another model: run the benchmark on {args.model}")
    folder = seg.save_pretrained(ASSETS / args.name, half=True, evaluation=evaluation)
    header, body = (folder / "README.md").read_text(encoding="utf-8").split("# A pyramid-tokenizer model\n", 1)
    card = (HERE / "card.md").read_text(encoding="utf-8")
    words = zero_shot_table(json.loads(args.zero_shot.read_text(encoding="utf-8")))
    body = body.split("\n## Terms\n", 1)[0]  # card.md has them
    whole = add_to_card(f"{header}{card}\n## Words\n\n{words}\n\n## Use\n{body}", repo_id=args.name, **TERMS)
    (folder / "README.md").write_text(whole, encoding="utf-8")
    head = (folder / HEAD_FILE).stat().st_size
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) - head
    print(f"{folder}: {size:,} bytes, and {head:,} of the segmentation head")
    if size > LIMIT_BYTES:
        parser.error(f"expected at most {LIMIT_BYTES:,} bytes, got {size:,}: make the model smaller")


if __name__ == "__main__":
    main()
