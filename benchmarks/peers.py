"""Measures a tokenizer beside its peers in one run: diffusers' VQModel and AutoencoderTiny, and image codecs at the same rate.

    python benchmarks/peers.py [--model tiny] [--images DIR] [--px 256] [--batch 8] [--rounds 3]

VQModel has the configuration of VQ-16 (LlamaGen: 16 px a token, 16,384 entries of 8 dimensions), AutoencoderTiny its own
default; both have random weights, which cost the same as trained ones, so that they have a time and no PSNR. They need the
package diffusers and are left out without it. A codec takes the highest quality whose files are together no larger than the
tokens, or its lowest one. Seconds are CPU seconds with one thread; the cases take turns, and a ratio is the median of those
of single rounds. The images are central squares of the first of the folder, or scikit-image's photos. The last line of the
output is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, from any current directory

from benchmarks.baselines import load_images
from benchmarks.reconstruction import number, say, table
from benchmarks.speed import images, machine, take_turns
from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.evaluation.codecs import CODECS, decode_files, encode_files, has_codec

VQ16: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 5,
    "up_block_types": ("UpDecoderBlock2D",) * 5,
    "block_out_channels": (128, 128, 256, 256, 512),
    "layers_per_block": 2,
    "latent_channels": 256,
    "num_vq_embeddings": 16384,
    "vq_embed_dim": 8,
}
"""Source: Sun et al., "Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation", arXiv 2406.06525, VQ-16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """One way to code a batch of images and to decode it."""

    encode: Callable[[], object]
    decode: Callable[[], object]
    bits_per_pixel: float | None = None
    """Mean over the images; None where there are no ids."""
    psnr: float | None = None
    """In dB; None where there are no trained weights."""


def mean_psnr(found: Tensor, wanted: Tensor) -> float:
    """Mean PSNR of single images (N, 3, H, W) in [0, 1], in dB."""
    return float((-10 * (found - wanted).square().flatten(1).mean(1).clamp(min=1e-10).log10()).mean())


def tokenizer_peer(tok: PyramidTokenizer, batch: Tensor) -> Peer:
    tokens = tok.encode(batch)
    psnr = mean_psnr(tok.decode(tokens), batch)
    return Peer(
        encode=lambda: tok.encode(batch),
        decode=lambda: tok.decode(tokens),
        bits_per_pixel=tokens.bits_per_pixel,
        psnr=psnr,
    )


def codec_peer(codec: str, batch: Tensor, bits_per_pixel: float) -> Peer:
    """The highest quality whose files are together no larger than that rate, or the lowest quality."""
    whole = (batch * 255).round().to(torch.uint8)
    qualities, pixels = list(CODECS[codec][1]), whole.shape[0] * whole.shape[2] * whole.shape[3]

    def rate(quality: int) -> float:
        return 8 * sum(map(len, encode_files(whole, codec, quality))) / pixels

    low, high = 0, len(qualities) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if rate(qualities[middle]) <= bits_per_pixel else (low, middle - 1)
    files = encode_files(whole, codec, qualities[low])
    return Peer(
        encode=lambda: encode_files(whole, codec, qualities[low]),
        decode=lambda: decode_files(files),
        bits_per_pixel=rate(qualities[low]),
        psnr=mean_psnr(decode_files(files).float() / 255, batch),
    )


def network_peers(batch: Tensor) -> dict[str, Peer]:
    """The networks of diffusers with random weights; none where the package is missing."""
    try:
        from diffusers import AutoencoderTiny, VQModel
    except ImportError as error:
        say(f"without VQModel and AutoencoderTiny: {error}")
        return {}
    pixels = 2 * batch - 1
    vq, tiny = VQModel(**VQ16).eval(), AutoencoderTiny().eval()
    codes, latents = vq.encode(pixels).latents, tiny.encode(pixels).latents

    def vq_ids() -> Tensor:
        return vq.quantize(vq.encode(pixels).latents)[2][2]

    bits = 14 * codes.shape[2] * codes.shape[3] / (batch.shape[2] * batch.shape[3])
    return {
        "VQModel as VQ-16": Peer(encode=vq_ids, decode=lambda: vq.decode(codes).sample, bits_per_pixel=bits),
        "AutoencoderTiny": Peer(encode=lambda: tiny.encode(pixels).latents, decode=lambda: tiny.decode(latents).sample),
    }


@torch.no_grad()
def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures, JSON-ready."""
    torch.set_num_threads(1)
    here = machine()
    if args.images is None:
        batch = images(args.batch, args.px)[0]
    else:
        batch = load_images(args.images, side=args.px, limit=args.batch).float() / 255
    own = tokenizer_peer(PyramidTokenizer.from_pretrained(args.model), batch)
    assert own.bits_per_pixel is not None
    peers = {args.model: own, **network_peers(batch)}
    peers |= {codec: codec_peer(codec, batch, own.bits_per_pixel) for codec in CODECS if has_codec(codec)}
    say(f"{args.rounds} rounds of {', '.join(peers)}")
    rows = {name: {"bits_per_pixel": peer.bits_per_pixel, "psnr": peer.psnr} for name, peer in peers.items()}
    for what in ("encode", "decode"):
        cases = {name: getattr(peer, what) for name, peer in peers.items()}
        seconds = take_turns(cases, args.rounds, clock=time.process_time)
        for name, found in seconds.items():
            ratios = [one / mine for one, mine in zip(found, seconds[args.model], strict=True)]
            rows[name] |= {
                f"{what}_ms": 1000 * statistics.median(found) / len(batch),
                f"{what}_ratio": statistics.median(ratios),
            }
    facts = {"model": args.model, "machine": here, "px": args.px, "batch": len(batch)}
    return {"benchmark": "peers", **facts, "rows": rows}


def to_markdown(result: dict[str, Any]) -> str:
    columns = {
        "bits_per_pixel": 3,
        "psnr": 2,
        "encode_ms": 1,
        "encode_ratio": 2,
        "decode_ms": 1,
        "decode_ratio": 2,
    }
    own = result["model"]
    head = ("", "bits/px", "dB", "encode, ms", f"x {own}'s", "decode, ms", f"x {own}'s")
    rows = result["rows"].items()
    return table(head, [(name, *(number(row[key], digits) for key, digits in columns.items())) for name, row in rows])


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="bundled name or directory (default: %(default)s)")
    parser.add_argument("--images", type=Path, help="folder of images")
    parser.add_argument("--px", type=int, default=256, help="side of the images (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="images at a time (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    result = measure(parse(argv))
    print(f"- machine: {result['machine']}, one used\n- {result['px']} px, batches of {result['batch']}\n")
    print(to_markdown(result))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
