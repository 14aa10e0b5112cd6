"""Train a small transformer to write images as tokens, coarse to fine, and let it write new ones.

    python examples/08_train_a_generator.py --images photos --out generated

Without --images it takes four sample photos of scikit-image. It encodes random crops as sparse pyramids, into the datasets
out/train and out/heldout, trains on the first and writes out/samples.png: images that the model made, and below them some of its
training. It prints the bits that a held-out image needs, which are its cross-entropy and what an entropy coder would reach, and
those of its tokens at a fixed rate. Without photos of your own it learns three of them by heart and knows nothing of others.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyramid_tokenizer import PyramidTokenizer, TokenPyramid, Vocabulary
from pyramid_tokenizer.datasets import TokenDataset, tokenize
from pyramid_tokenizer.images import RandomCrops, open_images, to_pil
from pyramid_tokenizer.tokens.sequence_state import SequenceState
from pyramid_tokenizer.visualize import contact_sheet


class Generator(nn.Module):
    """A causal transformer: integers (B, N) -> (B, N, dim), which tell what follows each of them."""

    def __init__(self, size: int, length: int, dim: int = 96, depth: int = 3):
        super().__init__()
        self.integers, self.places = nn.Embedding(size, dim), nn.Embedding(length, dim)
        block = nn.TransformerEncoderLayer(dim, 4, 4 * dim, activation="gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, depth, nn.LayerNorm(dim), enable_nested_tensor=False)
        nn.init.normal_(self.integers.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.02)

    def forward(self, sequence: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(sequence.shape[1])
        x = self.integers(sequence) + self.places.weight[: sequence.shape[1]]
        return self.blocks(x, mask=mask, is_causal=True)

    def logits(self, x: Tensor, choice: Tensor) -> Tensor:
        """(..., dim) -> (..., K), of the integers (K,) that are allowed."""
        return x @ self.integers.weight[choice].T


@dataclass
class Sequences:
    """Integers of n images (n, N); kinds (n, N): of each, the number of the choice that the grammar leaves in its place."""

    integers: Tensor
    kinds: Tensor
    choices: list[Tensor]


def sequences_of(vocabulary: Vocabulary, tokens: TokenPyramid) -> Sequences:
    integers, numbers = vocabulary.flatten(tokens), {}
    kinds = torch.zeros_like(integers)
    for row, kinds_of_row in zip(integers.tolist(), kinds, strict=True):
        state = SequenceState(vocabulary, image_size=tokens.image_size, levels=len(tokens))
        for place, integer in enumerate(row):
            kinds_of_row[place] = numbers.setdefault(state.ranges, len(numbers))
            state.append(integer)
    return Sequences(
        integers, kinds, [torch.cat([torch.arange(r.start, r.stop) for r in ranges]) for ranges in numbers]
    )


def bits_of(model: Generator, data: Sequences, rows: Tensor) -> Tensor:
    """(n,) bits that each of these images needs; where the grammar leaves no choice, none."""
    integers, kinds = data.integers[rows], data.kinds[rows, 1:]
    x, found = model(integers[:, :-1]), torch.zeros(kinds.shape)
    for kind, choice in enumerate(data.choices):
        here = kinds == kind
        if len(choice) > 1 and here.any():
            wanted = torch.searchsorted(choice, integers[:, 1:][here])
            found[here] = F.cross_entropy(model.logits(x[here], choice), wanted, reduction="none")
    return found.sum(1) / math.log(2)


def train(model: Generator, data: Sequences, steps: int, batch: int = 16) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    rates = [min(1, (step + 1) / 50) * (1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps + 1)]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rates.__getitem__)
    for step in range(steps):
        loss = bits_of(model, data, torch.randint(len(data.integers), (batch,))).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}: {loss.item():.1f} bits per image of the training", flush=True)


@torch.no_grad()
def measure(model: Generator, data: Sequences) -> float:
    """Bits per image."""
    model.eval()
    return float(torch.cat([bits_of(model, data, rows) for rows in torch.arange(len(data.integers)).split(64)]).mean())


@torch.no_grad()
def sample(model: Generator, vocabulary: Vocabulary, like: TokenPyramid, count: int) -> TokenPyramid:
    """New images of the size and levels of others: every integer is chosen among those that the grammar allows."""
    states = [SequenceState(vocabulary, image_size=like.image_size, levels=len(like)) for _ in range(count)]
    integers = torch.full((count, 1), vocabulary.begin)
    for state in states:
        state.append(vocabulary.begin)
    while not all(state.finished for state in states):
        choices = [state.allowed() for state in states]
        found = zip(choices, model.eval()(integers)[:, -1], strict=True)
        new = [int(choice[model.logits(x, choice).softmax(0).multinomial(1)]) for choice, x in found]
        for state, integer in zip(states, new, strict=True):
            state.append(integer)
        integers = torch.cat([integers, torch.tensor(new)[:, None]], dim=1)
    return vocabulary.unflatten(integers)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", help="a folder, a list, tar shards, Parquet files (default: three sample photos)")
    parser.add_argument("--heldout", help="other images, for the bits alone (default: a sample photo)")
    parser.add_argument("--out", type=Path, default=Path("generated"))
    parser.add_argument("--px", type=int, default=64, help="side of the crops (default: %(default)s)")
    parser.add_argument("--crops", type=int, default=2000, help="for the training (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--quality", type=float, default=0.5, help="from 0 to 1 (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.images is None or args.heldout is None:
        from skimage import data

        args.images = args.images or [data.astronaut(), data.chelsea(), data.coffee()]
        args.heldout = args.heldout or [data.rocket()]

    torch.manual_seed(0)
    tok = PyramidTokenizer.from_pretrained("tiny")
    stored = {}
    for name, images, crops in (("train", args.images, args.crops), ("heldout", args.heldout, args.crops // 8)):
        pixels = RandomCrops(open_images(images), batch_size=crops, crop_px=args.px)[0]
        limit = {"levels": tok.quantizer.base_levels, "quality": args.quality}
        tokenize(pixels, args.out / name, model=tok, workers=0, batch_size=16, resume=False, **limit)
        dataset = TokenDataset(args.out / name, cache_dir=args.out / "cache")
        stored[name] = dataset.__getitems__(range(len(dataset))).batch().tokens

    vocabulary, (training, heldout) = dataset.vocabulary, stored.values()
    model = Generator(vocabulary.size, vocabulary.sequence_length(training.image_size))
    train(model, sequences_of(vocabulary, training), args.steps)
    needed, fixed = measure(model, sequences_of(vocabulary, heldout)), heldout.bits_per_pixel * args.px**2
    share = f"{abs(needed / fixed - 1):.1%} {'less' if needed < fixed else 'more'}"
    print(f"a held-out image needs {needed:.1f} bits, its tokens at a fixed rate {fixed:.1f}: {share}")

    made = sample(model, vocabulary, training, 16).unbind()
    rows = [made[:8], made[8:], training.unbind()[:8]]
    images = [[to_pil(tok.decode(tokens))[0].resize((128, 128)) for tokens in row] for row in rows]
    contact_sheet(images, row_titles=("made", "made", "decoded")).save(args.out / "samples.png")
    print(args.out / "samples.png")


if __name__ == "__main__":
    main()
