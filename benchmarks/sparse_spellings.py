"""Which spelling of sparse pyramids a language model learns better: split marks, or an id that means nothing.

    python benchmarks/sparse_spellings.py --images PHOTOS --heldout OTHER_PHOTOS

It trains the generator of examples/08_train_a_generator.py on the same crops, for as many steps, once on the sequences of
`Vocabulary`, where one mark stands in place of the cells below one that is not split, and once on sequences that have an integer
for every cell: its id, or `none`. It prints the bits per held-out image. What follows from what came before costs nothing in
either: a model chooses among the integers that the grammar allows, so of the `none`s only the first below a present cell counts.
"""

from __future__ import annotations

import argparse
import runpy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pyramid_tokenizer import PyramidTokenizer, TokenPyramid, Vocabulary
from pyramid_tokenizer.images import RandomCrops
from pyramid_tokenizer.tokens.splits import children_of

EXAMPLE = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "08_train_a_generator.py"))


def with_null_ids(vocabulary: Vocabulary, tokens: TokenPyramid) -> Any:
    """The `Sequences` of the example with an integer for every cell, row by row, and `none` where it is absent."""
    integers = [vocabulary.flatten(tokens[:1])[:, :-1]]  # without the end
    kinds = [(integers[0] >= vocabulary.level_offsets[0]).long()]
    choices = [torch.tensor([vocabulary.end]), _ids(vocabulary, 0)]
    for number, (first, count) in enumerate(
        zip(vocabulary.image_offsets, vocabulary.image_codebook_sizes, strict=True)
    ):
        kinds[0][:, 3 + number] = len(choices)  # behind the begin and the two crops
        choices.append(torch.arange(first, first + count))
    for level in range(1, len(tokens)):
        ids, ratio = tokens.ids[level], tokens.grids[level][0] // tokens.grids[level - 1][0]
        may_be = children_of(tokens.ids[level - 1] >= 0, ratio)
        first = torch.zeros_like(may_be)
        first[:, ::ratio, ::ratio] = True
        kind = torch.where(first, len(choices), torch.where(ids >= 0, len(choices) + 1, 0)) * may_be
        none = torch.tensor([vocabulary.none])
        choices += [torch.cat([none, _ids(vocabulary, level)]), _ids(vocabulary, level)]
        marker = torch.full((len(ids), 1), vocabulary.level_markers[level])
        own = torch.where(ids >= 0, ids + vocabulary.level_offsets[level], vocabulary.none)
        integers += [marker, own.flatten(1)]
        kinds += [torch.zeros_like(marker), kind.flatten(1)]
    end = torch.full((tokens.batch_size, 1), vocabulary.end)
    return EXAMPLE["Sequences"](torch.cat([*integers, end], 1), torch.cat([*kinds, torch.zeros_like(end)], 1), choices)


def _ids(vocabulary: Vocabulary, level: int) -> torch.Tensor:
    first = vocabulary.level_offsets[level]
    return torch.arange(first, first + vocabulary.codebook_sizes[level])


def encode(tok: PyramidTokenizer, images: str, crops: int, px: int, quality: float) -> TokenPyramid:
    pixels = RandomCrops(images, batch_size=crops, crop_px=px)[0]
    levels = tok.quantizer.base_levels
    return TokenPyramid.cat([tok.encode(part, levels=levels, quality=quality) for part in pixels.split(32)])


SPELLINGS = {"split marks": EXAMPLE["sequences_of"], "null ids": with_null_ids}


def compare(
    vocabulary: Vocabulary, training: TokenPyramid, heldout: TokenPyramid, spell: Callable, seed: int, args: Any
) -> str:
    """Trains on one spelling; what came of it, in words."""
    torch.manual_seed(seed)
    model = EXAMPLE["Generator"](vocabulary.size, vocabulary.sequence_length(training.image_size), args.dim, args.depth)
    data, begun = spell(vocabulary, training), time.process_time()
    EXAMPLE["train"](model, data, args.steps, args.batch)
    seconds = time.process_time() - begun
    needed = EXAMPLE["measure"](model, spell(vocabulary, heldout))
    mean = float((data.integers != vocabulary.end).sum(1).float().mean())
    return f"{needed:.1f} bits per held-out image, {mean:.0f} integers on average, {seconds:.0f} CPU s of training"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", required=True)
    parser.add_argument("--heldout", required=True)
    parser.add_argument("--crops", type=int, default=4000)
    parser.add_argument("--px", type=int, default=64)
    parser.add_argument("--quality", type=float, default=0.5)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--dim", type=int, default=96)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    tok = PyramidTokenizer.from_pretrained("tiny")
    crops = ((args.images, args.crops), (args.heldout, args.crops // 10))
    training, heldout = (encode(tok, images, count, args.px, args.quality) for images, count in crops)
    levels = len(training)
    vocabulary = Vocabulary(
        codebook_sizes=tok.quantizer.codebook_sizes[:levels],
        strides=tok.quantizer.strides[:levels],
        fingerprint=tok.fingerprint,
    )
    print(f"held out: {heldout.bits_per_pixel * args.px**2:.1f} bits per image at a fixed rate", flush=True)
    for seed in range(args.seeds):
        for name, spell in SPELLINGS.items():
            print(f"seed {seed}, {name}: {compare(vocabulary, training, heldout, spell, seed, args)}", flush=True)


if __name__ == "__main__":
    main()
