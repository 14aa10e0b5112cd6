"""Measures how long it takes to segment stored images again with other words: from their tokens and from their pixels.

    python benchmarks/relabel.py --images photos [--model tiny] [--count 1000] [--words 150]

The images of the folder (centre crops of 256 px) and their tokens are held in memory and repeated until there are `--count`. The
core of the look-up is also measured by itself: indexing tables of scores, level by level, against multiplying the embedding of
every cell of the finest grid with every word. The cases run in turn, so ratios within a round are valid on a busy machine too;
the milliseconds are those of this machine. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, from any current directory

from benchmarks import baselines
from benchmarks.reconstruction import encode, say, table
from benchmarks.speed import Case, Spread, machine, take_turns
from pyramid_tokenizer import PyramidTokenizerError, TokenPyramid
from pyramid_tokenizer.quantizer.nearest import gather_rows
from pyramid_tokenizer.segmentation.segmenter import Segmenter

BATCH = 16
SIDE_PX = 256
SPACES = (512, 1024)
"""Dimensions of CLIP's ViT-B and ViT-H spaces."""
PART_FLOATS = 2**19
"""Scores of a part of the batch: 2 MB fit into the cache of a core, the scores of a whole batch do not."""
PIXEL_SHARE = 10
"""Masks at pixel resolution are made of every tenth batch only."""
THINGS = (
    *("sky", "grass", "tree", "road", "building", "water", "car", "person", "dog", "cat", "bird", "horse", "flower"),
    *("table", "chair", "cup", "wall", "window"),
)
KINDS = ("", "red", "blue", "green", "yellow", "white", "black", "small", "large", "old")
"""Their combinations are the words; the time does not depend on which words they are."""

INDEXING = "indexing, whole batch"
BEFORE_UPSAMPLING = "indexing, each level on its own grid"
"""The core of a look-up. Enlarging coarse levels and adding up follow, and cost the same however scores are made."""
FROM_TOKENS = "tokens, one label per cell"
FROM_PIXELS = "pixels: encode, then the same"
TOKENS_TO_PIXELS = "tokens, one label per pixel"


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A case: its milliseconds per image, and the ratio of its time to that of another case."""

    what: str
    milliseconds: Spread
    times: Spread | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """Stored images and their tokens, in batches."""

    images: tuple[Tensor, ...]
    """(B, 3, H, W) uint8 each."""
    tokens: tuple[TokenPyramid, ...]
    """Of the same images."""


def class_names(count: int) -> list[str]:
    """The first `count` class names, made of `KINDS` and `THINGS`."""
    names = [f"{kind} {thing}".strip() for kind, thing in product(KINDS, THINGS)]
    if count > len(names):
        raise ValueError(f"expected --words of at most {len(names)}, got {count}: there are no more names")
    return names[:count]


def store(seg: Segmenter, folder: Path, count: int) -> Stored:
    """The images of the folder and their tokens, repeated until there are `count`, in batches of up to `BATCH`."""
    found = baselines.load_images(folder, side=SIDE_PX, limit=count)
    say(f"{len(found)} images: encoding")
    single = encode(seg.tok, found, BATCH).unbind()
    order = list(islice(cycle(range(len(found))), count))
    batches = [order[i : i + BATCH] for i in range(0, count, BATCH)]
    return Stored(
        images=tuple(found[batch] for batch in batches),
        tokens=tuple(TokenPyramid.cat([single[i] for i in batch]) for batch in batches),
    )


def segmenting(seg: Segmenter, stored: Stored, names: Sequence[str]) -> tuple[list[Line], int]:
    """Times the segmentation of all images from tokens and from pixels, batch by batch in turn.

    Returns:
        Lines with the spread over batches, ratios within a batch, and the number of images.
    """
    seconds: dict[str, list[float]] = {FROM_TOKENS: [], FROM_PIXELS: [], TOKENS_TO_PIXELS: []}
    count = 0
    for index, (images, tokens) in enumerate(zip(stored.images, stored.tokens, strict=True)):
        cases: dict[str, Case] = {
            FROM_TOKENS: lambda t=tokens: seg.segment(t, names, mode="lookup", resolution="cells"),
            FROM_PIXELS: lambda p=images: seg.segment(p / 255, names, mode="lookup", resolution="cells"),
        }
        if index % PIXEL_SHARE == 0:
            cases[TOKENS_TO_PIXELS] = lambda t=tokens: seg.segment(t, names, mode="lookup")
        for what, case in cases.items():
            began = time.perf_counter()
            case()
            seconds[what].append((time.perf_counter() - began) / len(images))
        count += len(images)
        if index % 10 == 0:
            say(f"segmented {count} images")
    times = [slow / fast for slow, fast in zip(seconds[FROM_PIXELS], seconds[FROM_TOKENS], strict=True)]
    shown = {FROM_PIXELS: Spread.of(times)}
    return [Line(what=what, milliseconds=in_ms(each), times=shown.get(what)) for what, each in seconds.items()], count


def in_ms(seconds: Sequence[float]) -> Spread:
    return Spread.of([1000 * x for x in seconds])


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """The text embeddings of codes and of words in one space."""

    title: str
    text_embeddings: tuple[Tensor, ...]
    """(K_l, D) per level."""
    words: Tensor
    """(N, D)."""

    @property
    def tables(self) -> list[Tensor]:
        """(K_l, N) per level: scores of every code with every word."""
        return [rows @ self.words.T for rows in self.text_embeddings]


def spaces(seg: Segmenter, names: Sequence[str]) -> Iterator[Space]:
    """The space of the model, and larger spaces with random vectors; the cost of indexing does not depend on the space."""
    own = seg.tok.quantizer.weighted_text_embeddings()
    words = seg.text.encode_names(names).embeddings
    yield Space(title=f"D = {words.shape[1]}, the model's", text_embeddings=own, words=words)
    rng = torch.Generator().manual_seed(0)
    for dim in SPACES:
        random = [F.normalize(torch.randn(len(rows), dim, generator=rng), dim=1) for rows in (*own, words)]
        yield Space(title=f"D = {dim}, random vectors", text_embeddings=tuple(random[:-1]), words=random[-1])


def core_cases(space: Space, ids: Sequence[Tensor]) -> dict[str, Case]:
    """The ways to compute the scores (cells, N) on the finest grid, by indexing and by products; all give the same.

    Args:
        space: The text embeddings of codes and words.
        ids: (B, h_l, w_l) int64 per level.
    """
    tables, words = space.tables, space.words.T.contiguous()  # (D, N)
    rows = cells_of(space.text_embeddings, ids)  # (cells, D)
    cells = ids[-1][0].numel()
    step = max(1, PART_FLOATS // (cells * words.shape[1]))
    return {
        INDEXING: lambda: gather_rows(tables, ids),
        "indexing, in parts": lambda: use(gather_rows(tables, part) for part in parts_of(ids, step)),
        "product, whole batch": lambda: rows @ words,
        "product, in parts": lambda: use(part @ words for part in rows.split(cells * step)),
        "indexing embeddings, then product": lambda: cells_of(space.text_embeddings, ids) @ words,
        BEFORE_UPSAMPLING: lambda: [F.embedding(level, rows) for level, rows in zip(ids, tables, strict=True)],
    }


def use(parts: Iterable[Tensor]) -> None:
    """Consumes the parts one by one and keeps none of them."""
    deque(parts, maxlen=0)


def cells_of(text_embeddings: Sequence[Tensor], ids: Sequence[Tensor]) -> Tensor:
    """(cells, D) contiguous: the embedding of every cell of the finest grid."""
    return gather_rows(text_embeddings, ids).permute(0, 2, 3, 1).flatten(0, 2).contiguous()


def parts_of(ids: Sequence[Tensor], step: int) -> Iterator[list[Tensor]]:
    """The ids of a few images at a time."""
    for start in range(0, len(ids[0]), step):
        yield [level[start : start + step] for level in ids]


def check_equal(cases: dict[str, Callable[[], object]]) -> None:
    """Checks that indexing gives what the product gives.

    Raises:
        RuntimeError: The scores differ.
    """
    indexed, product = cases[INDEXING](), cases["product, whole batch"]()
    assert isinstance(indexed, Tensor)
    assert isinstance(product, Tensor)
    difference = float((indexed.permute(0, 2, 3, 1).flatten(0, 2) - product).abs().max())
    if difference > 1e-4:
        raise RuntimeError(f"expected indexed scores equal to the products, got a difference of {difference}")


def core(space: Space, ids: Sequence[Tensor], rounds: int) -> list[Line]:
    """Milliseconds per image of each case, and the ratio of its time to that of indexing alone in the same round."""
    cases = core_cases(space, ids)
    check_equal(cases)
    seconds = take_turns(cases, rounds)
    return [
        Line(
            what=f"{space.title}: {what}",
            milliseconds=in_ms([x / len(ids[0]) for x in each]),
            times=Spread.of([x / y for x, y in zip(each, seconds[BEFORE_UPSAMPLING], strict=True)]),
        )
        for what, each in seconds.items()
    ]


def to_markdown(title: str, lines: Sequence[Line], *, times: str) -> str:
    shown = [
        (
            line.what,
            f"{line.milliseconds.median:.3f}",
            "" if line.times is None else f"{line.times.median:.1f} x",
            "" if line.times is None else f"{line.times.low:.1f} to {line.times.high:.1f}",
        )
        for line in lines
    ]
    return table((title, "ms per image", times, "range"), shown)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="a folder of images")
    parser.add_argument(
        "--model", default="tiny", help="bundled name, directory or Hub repository (default: %(default)s)"
    )
    parser.add_argument("--count", type=int, default=1000, help="stored images (default: %(default)s)")
    parser.add_argument("--words", type=int, default=150, help="class names (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=21, help="of the core (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="torch threads")
    return parser.parse_args(argv)


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    here = machine()
    try:
        seg = Segmenter.from_pretrained(args.model)
        names = class_names(args.words)
        stored = store(seg, args.images, args.count)
    except (PyramidTokenizerError, FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    began = time.perf_counter()
    seg.segment(stored.tokens[0], names, mode="lookup", resolution="cells")  # reads the words and makes the tables
    once = time.perf_counter() - began
    lines, count = segmenting(seg, stored, names)
    print(f"- model: {args.model}\n- machine: {here}\n- {len(names)} words, look-up, batches of {BATCH}, {SIDE_PX} px")
    print(f"- reading the words and making their tables, once a vocabulary: {1000 * once:.0f} ms\n")
    print(to_markdown(f"segmenting {count} stored images from", lines, times="times that from tokens") + "\n")
    ids = seg.tok.ids(stored.tokens[0])
    found = []
    for space in spaces(seg, names):
        say(f"core, {space.title}")
        found += core(space, ids, args.rounds)
    print(to_markdown("the core: scores of all cells", found, times="times the indexing alone"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
