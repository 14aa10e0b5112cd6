"""`measure_health` counts how often each codebook entry is used, judges every level, and says what to do."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyramid_tokenizer.errors import TokenError, TokenMismatchError
from pyramid_tokenizer.tokens.pyramid import TokenPyramid

Verdict = Literal["healthy", "underused", "collapsed", "too few tokens to tell"]

HEALTHY_USAGE = 0.90
"""Least share of entries in use. Of log-normal frequencies (σ = 1), ten tokens per entry show 95 %."""
HEALTHY_PERPLEXITY = 0.50
"""Least perplexity as a share of K. Log-normal frequencies (σ = 1) have 61 %, and show 56 % at ten tokens per entry."""
COLLAPSED_USAGE = 0.25
"""Used entries, as a share of those that as many uniform draws would use, below which a codebook has collapsed."""
COLLAPSED_PERPLEXITY = 0.10
"""Perplexity, as a share of K, below which a codebook has collapsed, however many entries were seen once."""
COLLAPSE_TOKENS_PER_CODE = 1
"""Tokens per entry from which a collapse is told: uniform draws then use 63 % of K, at a perplexity of 56 % of K."""
TOKENS_PER_CODE = 10
"""Tokens per entry from which every verdict is told: uniform draws then miss one entry in 22,000."""

_ADVICE: dict[Verdict, str] = {
    "healthy": "Nothing to do.",
    "underused": (
        "Fit this level again on more and more varied images (50 vectors per entry), or give it a smaller codebook."
    ),
    "collapsed": (
        "Start this level's codebook without gradients (whitening, then k-means over accumulated batches), "
        "and keep revival on, scaled by tokens per entry, until shortly before training ends."
    ),
    "too few tokens to tell": (
        "Measure more and different images: at least {needed:,} tokens of this level, {missing:,} more than now."
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LevelHealth:
    """How the entries of one codebook are used. Every figure follows from the counts.

    Example:
        >>> level = LevelHealth(counts=torch.tensor([60, 20, 20, 0]))
        >>> level.usage, level.unused_codes.tolist(), round(level.perplexity, 3), level.verdict
        (0.75, [3], 2.586, 'underused')
    """

    counts: Tensor
    """(K,) int64 on the CPU: how often each entry was used."""

    @property
    def codebook_size(self) -> int:
        """K, entries of the codebook."""
        return len(self.counts)

    @property
    def num_tokens(self) -> int:
        """Tokens counted."""
        return int(self.counts.sum())

    @property
    def usage(self) -> float:
        """Share of entries that came at least once, in [0, 1]."""
        return 1 - self.num_unused / self.codebook_size

    @property
    def expected_usage(self) -> float:
        """Share of entries that as many tokens drawn uniformly would use: 1 − (1 − 1/K)^n."""
        return -math.expm1(self.num_tokens * math.log1p(-1 / self.codebook_size))

    @property
    def perplexity(self) -> float:
        """Exponential of the entropy of the counts, in [1, K]: as many equally frequent entries carry the same."""
        share = self.counts[self.counts > 0].double() / self.num_tokens
        return math.exp(-float((share * share.log()).sum()))

    @property
    def perplexity_share(self) -> float:
        """Perplexity as a share of K, in (0, 1]."""
        return self.perplexity / self.codebook_size

    @property
    def unused_codes(self) -> Tensor:
        """(num_unused,) int64, rising: the entries that never came."""
        return (self.counts == 0).nonzero()[:, 0]

    @property
    def num_unused(self) -> int:
        """Entries that never came."""
        return int((self.counts == 0).sum())

    @property
    def verdict(self) -> Verdict:
        """One of four words; this module's constants are the thresholds."""
        n, k = self.num_tokens, self.codebook_size
        if self.usage >= HEALTHY_USAGE and self.perplexity_share >= HEALTHY_PERPLEXITY:
            return "healthy"  # at any number of tokens: more of them cannot make a used entry unused
        low = self.usage < COLLAPSED_USAGE * self.expected_usage or self.perplexity_share < COLLAPSED_PERPLEXITY
        if low and n >= COLLAPSE_TOKENS_PER_CODE * k:
            return "collapsed"
        return "underused" if n >= TOKENS_PER_CODE * k else "too few tokens to tell"

    @property
    def advice(self) -> str:
        """What to do, in one sentence."""
        needed = TOKENS_PER_CODE * self.codebook_size
        return _ADVICE[self.verdict].format(needed=needed, missing=needed - self.num_tokens)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TokenHealth:
    """How the codebooks of one tokenizer are used over some images; `print` it for a table."""

    levels: tuple[LevelHealth, ...]
    """Per level, coarse to fine."""
    num_images: int
    """Images counted. Tokens of one image resemble each other: measure many different ones."""
    fingerprint: str
    """The fingerprint of the tokenizer that made the tokens."""

    @property
    def verdict(self) -> Verdict:
        """The worst of the levels' verdicts."""
        order: tuple[Verdict, ...] = ("collapsed", "underused", "too few tokens to tell", "healthy")
        return order[min(order.index(level.verdict) for level in self.levels)]

    def __str__(self) -> str:
        images = f"{self.num_images:,} image{'' if self.num_images == 1 else 's'}"
        head = ("level", "entries", "tokens", "used", "expected", "perplexity", "of K", "unused")
        rows = [
            (
                str(i),
                f"{level.codebook_size:,}",
                f"{level.num_tokens:,}",
                f"{level.usage:.1%}",
                f"{level.expected_usage:.1%}",
                f"{level.perplexity:,.1f}",
                f"{level.perplexity_share:.1%}",
                f"{level.num_unused:,}",
            )
            for i, level in enumerate(self.levels)
        ]
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
        verdicts = ["verdict", *(level.verdict for level in self.levels)]
        lines = [f"codebook usage over {images}, tokenizer {self.fingerprint[:8]}"]
        lines += [f"{row}  {verdict}" for row, verdict in zip(table, verdicts, strict=True)]
        lines += [f"level {i}: {level.advice}" for i, level in enumerate(self.levels) if level.verdict != "healthy"]
        return "\n".join(lines)


def measure_health(tokens: TokenPyramid | Iterable[TokenPyramid]) -> TokenHealth:
    """Counts how the entries of every codebook are used, in memory for one counter per entry, however many tokens there are.

    Absent cells of sparse levels have no token and do not count, and neither do image tokens, which have codebooks of their own.

    Args:
        tokens: One pyramid or any number of them, of any sizes and precisions, of one tokenizer and with the same levels.

    Raises:
        TokenMismatchError: The pyramids come from different tokenizers or have different levels.
        TokenError: There is none, or something else than tokens was given.

    Example:
        >>> ids = (torch.arange(4).repeat(4).reshape(1, 4, 4), torch.zeros(1, 8, 8, dtype=torch.int64))
        >>> tokens = TokenPyramid(ids=ids, codebook_sizes=(4, 16), image_size=(32, 32), fingerprint="0" * 64)
        >>> print(measure_health(tokens))
        codebook usage over 1 image, tokenizer 00000000
        level  entries  tokens    used  expected  perplexity    of K  unused  verdict
            0        4      16  100.0%     99.0%         4.0  100.0%       0  healthy
            1       16      64    6.2%     98.4%         1.0    6.2%      15  collapsed
        level 1: Start this level's codebook without gradients (whitening, then k-means over accumulated batches), \
and keep revival on, scaled by tokens per entry, until shortly before training ends.
    """
    counts: list[Tensor] = []
    kind: tuple[str, tuple[int, ...]] = ("", ())
    num_images = 0
    for pyramid in tokens if isinstance(tokens, Iterable) else (tokens,):
        if not isinstance(pyramid, TokenPyramid):
            raise TokenError(f"expected TokenPyramids, got {type(pyramid).__name__}: pass what `encode` gives")
        if not counts:
            kind = (pyramid.fingerprint, pyramid.codebook_sizes)
            counts = [torch.zeros(k, dtype=torch.int64) for k in pyramid.codebook_sizes]
        elif (pyramid.fingerprint, pyramid.codebook_sizes) != kind:
            expected = f"tokens of codebooks {kind[1]} and fingerprint {kind[0][:8]} like the first"
            raise TokenMismatchError(f"expected {expected}, got {pyramid}: measure each tokenizer and prefix alone")
        for count, ids, mask in zip(counts, pyramid.ids, pyramid.present, strict=True):
            tokens_of_level = ids.flatten() if mask is None else ids[mask]
            count.add_(torch.bincount(tokens_of_level, minlength=len(count)).cpu())
        num_images += pyramid.batch_size
    if not counts:
        raise TokenError("expected at least one TokenPyramid, got none: encode images first")
    levels = tuple(LevelHealth(counts=c) for c in counts)
    return TokenHealth(levels=levels, num_images=num_images, fingerprint=kind[0])
