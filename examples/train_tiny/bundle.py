"""Puts a trained model into the package as a bundled one: float16 decoder, measured figures, the card.

python benchmarks/reconstruction.py --data ../shared/data --model build/tiny-v0 --json build/evaluation.json
python examples/train_tiny/bundle.py --model build/tiny-v0 --name tiny-v0 --evaluation build/evaluation.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pyramid_tokenizer import PyramidTokenizer

HERE = Path(__file__).resolve().parent
ASSETS = HERE.parents[1] / "pyramid_tokenizer" / "assets"
LIMIT_BYTES = 32_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="directory that train_tokenizer.py wrote")
    parser.add_argument("--name", required=True, help="tiny-vN")
    parser.add_argument("--evaluation", type=Path, required=True, help="what benchmarks/reconstruction.py --json wrote")
    args = parser.parse_args()
    evaluation = json.loads(args.evaluation.read_text(encoding="utf-8"))
    tok = PyramidTokenizer.from_pretrained(args.model)
    if evaluation.get("fingerprint") != tok.fingerprint:
        parser.error(f"{args.evaluation} measured another model: run the benchmark on {args.model}")
    folder = tok.save_pretrained(ASSETS / args.name, half=True, evaluation=evaluation)
    header, body = (folder / "README.md").read_text(encoding="utf-8").split("# A pyramid-tokenizer model\n", 1)
    card = (HERE / "card.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(f"{header}{card}\n## Use\n{body}", encoding="utf-8")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {size:,} bytes")
    if size > LIMIT_BYTES:
        parser.error(f"expected at most {LIMIT_BYTES:,} bytes, got {size:,}: make the model smaller")


if __name__ == "__main__":
    main()
