"""Puts the trained text encoder and backbone into one open_clip directory, as fp16.

    python examples/research/train_tiny/join_networks.py --text build/parts/text --image build/parts/image --out build/parts/clip

Works at any time while the trainings run, on their latest checkpoints.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common import build_clip, export_clip, load_checkpoint
from open_clip.model import CLIP


def join(text: Path, image: Path | None) -> CLIP:
    """A CLIP of both backbones' checkpoints; without an backbone that part keeps its fresh weights.

    Raises:
        FileNotFoundError: A directory holds no checkpoint yet.
    """
    model = build_clip()
    state = model.state_dict()
    for directory in (text, image):
        saved = load_checkpoint(directory / "checkpoint.pt") if directory else {"text": {}}
        if saved is None:
            raise FileNotFoundError(f"expected checkpoint.pt in {directory}, got none: train that backbone first")
        tensors = saved["text"] if "text" in saved else saved["average"]
        state |= {name: value for name, value in tensors.items() if name in state}
        if "log_scale" in tensors:
            state["logit_scale"] = tensors["log_scale"]
    model.load_state_dict(state)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="what train_text.py wrote")
    parser.add_argument("--image", type=Path, help="what train_image.py wrote")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.manual_seed(0)
    export_clip(join(args.text, args.image), args.out)
    size = sum(file.stat().st_size for file in args.out.iterdir())
    print(f"{args.out}: {size:,} bytes")


if __name__ == "__main__":
    main()
