from __future__ import annotations

import math
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from pyramid_tokenizer.errors import TokenError, TokenMismatchError
from pyramid_tokenizer.tokens import health
from pyramid_tokenizer.tokens.health import LevelHealth, TokenHealth, measure_health
from pyramid_tokenizer.tokens.pyramid import TokenPyramid


def level(*counts: int) -> LevelHealth:
    return LevelHealth(counts=torch.tensor(counts))


def pyramid(ids: Tensor, k: int, fingerprint: str = "0" * 64) -> TokenPyramid:
    size = (8 * ids.shape[1], 8 * ids.shape[2])
    return TokenPyramid(ids=(ids,), codebook_sizes=(k,), image_size=size, fingerprint=fingerprint)


def test_a_uniform_codebook_is_healthy():
    even = level(*[10] * 8)
    assert (even.codebook_size, even.num_tokens, even.usage, even.num_unused) == (8, 80, 1.0, 0)
    assert even.perplexity == pytest.approx(8, rel=1e-12)
    assert even.perplexity_share == pytest.approx(1, rel=1e-12)
    assert even.unused_codes.tolist() == []
    assert even.verdict == "healthy"
    assert even.advice == "Nothing to do."


def test_perplexity_of_a_half_and_two_quarters_is_the_root_of_eight():
    assert level(2, 1, 1, 0).perplexity == pytest.approx(2 ** (0.5 * 1 + 0.5 * 2), rel=1e-12)


def test_a_codebook_of_which_one_entry_is_used_has_collapsed():
    unused = level(0, 0, 500, *[0] * 17)
    assert unused.usage == pytest.approx(1 / 20)
    assert unused.perplexity == 1.0
    assert unused.unused_codes.tolist() == [0, 1, *range(3, 20)]
    assert unused.num_unused == 19
    assert unused.verdict == "collapsed"
    assert "revival" in unused.advice


def test_a_codebook_whose_entries_all_came_once_can_still_have_collapsed():
    skewed = level(10_000, *[1] * 99)
    n = 10_099
    entropy = -(10_000 / n * math.log(10_000 / n) + 99 / n * math.log(1 / n))
    assert skewed.usage == 1.0
    assert skewed.perplexity == pytest.approx(math.exp(entropy), rel=1e-12)
    assert skewed.perplexity_share < 0.02
    assert skewed.verdict == "collapsed"


def test_a_codebook_used_to_two_thirds_is_underused():
    partial = level(*[17] * 6, 0, 0, 0)
    assert partial.usage == pytest.approx(6 / 9)
    assert partial.verdict == "underused"
    assert "smaller codebook" in partial.advice


def test_a_codebook_of_which_all_entries_but_few_often_are_used_is_underused():
    assert level(*[100] * 3, *[1] * 7).usage == 1.0
    assert level(*[100] * 3, *[1] * 7).verdict == "underused"


@pytest.mark.parametrize(
    ("k", "n", "expected"), [(2, 3, 7 / 8), (3, 2, 5 / 9), (4, 1, 1 / 4), (4096, 64, 1 - (4095 / 4096) ** 64)]
)
def test_expected_usage_is_that_of_uniform_draws(k, n, expected):
    counts = torch.zeros(k, dtype=torch.int64)
    counts[0] = n
    assert LevelHealth(counts=counts).expected_usage == pytest.approx(expected, rel=1e-9)


def test_expected_usage_agrees_with_all_draws_of_a_small_codebook_counted_out():
    k, n = 3, 4
    draws = torch.cartesian_prod(*[torch.arange(k)] * n)  # (81, 4)
    mean = sum(len(set(draw)) for draw in draws.tolist()) / len(draws) / k
    assert level(4, 0, 0).expected_usage == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize("ids", [torch.zeros(64, dtype=torch.int64), torch.arange(64)])
def test_few_tokens_are_no_collapse(ids):
    few = LevelHealth(counts=torch.bincount(ids, minlength=4096))
    assert few.verdict == "too few tokens to tell"
    assert few.advice == (
        "Measure more and different images: at least 40,960 tokens of this level, 40,896 more than now."
    )


def test_many_entries_of_a_large_codebook_seen_in_few_tokens_are_healthy_at_once():
    assert level(*[1] * 95, *[0] * 5).verdict == "healthy"


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ([100] * 90 + [0] * 10, "healthy"),  # usage .90, perplexity .90
        ([100] * 89 + [0] * 11, "underused"),
        ([400] * 25 + [0] * 75, "underused"),  # usage .25 of an expected 1.00
        ([100] * 24 + [0] * 76, "collapsed"),
        ([10] * 10 + [0] * 90, "collapsed"),  # a token per entry; usage .10 of an expected .63
        ([5] * 20 + [0] * 80, "too few tokens to tell"),  # a token per entry; usage .20 of an expected .63
        ([9] * 10 + [9] + [0] * 89, "too few tokens to tell"),  # 99 tokens of 100 entries
        ([30] * 30 + [0] * 70, "too few tokens to tell"),  # nine tokens per entry
        ([33] * 30 + [10] + [0] * 69, "underused"),  # ten
    ],
)
def test_verdicts_change_at_the_documented_thresholds(counts, verdict):
    assert (health.HEALTHY_USAGE, health.COLLAPSED_USAGE) == (0.9, 0.25)
    assert (health.COLLAPSE_TOKENS_PER_CODE, health.TOKENS_PER_CODE) == (1, 10)
    assert level(*counts).verdict == verdict


def test_uniform_draws_are_never_called_collapsed_or_underused():
    for k in (2, 7, 100, 3000):
        for n in (1, k // 2 + 1, k, 2 * k, 5 * k, 9 * k, 10 * k, 50 * k):
            counts = torch.bincount(torch.randint(k, (n,)), minlength=k)
            assert LevelHealth(counts=counts).verdict in ("healthy", "too few tokens to tell"), (k, n)


def test_log_normal_draws_are_healthy_at_ten_tokens_per_entry_as_the_thresholds_say():
    share = torch.randn(5000).exp()
    drawn = torch.multinomial(share / share.sum(), 50_000, replacement=True)
    measured = LevelHealth(counts=torch.bincount(drawn, minlength=5000))
    assert measured.usage == pytest.approx(0.95, abs=0.01)
    assert measured.perplexity_share == pytest.approx(0.56, abs=0.02)
    assert measured.verdict == "healthy"


def test_counts_are_those_of_every_level_and_image():
    ids = (torch.tensor([[[1]], [[3]]]), torch.tensor([[[0, 1], [1, 1]], [[4, 0], [0, 1]]]))
    tokens = TokenPyramid(ids=ids, codebook_sizes=(4, 5), image_size=(8, 8), fingerprint="ab" * 32)
    measured = measure_health(tokens)
    assert [x.counts.tolist() for x in measured.levels] == [[0, 1, 0, 1], [3, 4, 0, 0, 1]]
    assert measured.num_images == 2
    assert measured.fingerprint == "ab" * 32
    assert [x.counts.tolist() for x in measure_health(tokens[:1]).levels] == [[0, 1, 0, 1]]


def test_a_stream_of_images_of_any_sizes_counts_like_their_sum():
    many = [pyramid(torch.randint(9, (b, h, w)), 9) for b, h, w in ((1, 2, 3), (3, 1, 1), (2, 5, 4))]
    expected = sum(torch.bincount(t.ids[0].flatten(), minlength=9) for t in many)
    measured = measure_health(iter(many))
    assert measured.levels[0].counts.tolist() == expected.tolist()
    assert measured.num_images == 6
    singles = [single for tokens in many for single in tokens.unbind()]
    assert measure_health(singles).levels[0].counts.tolist() == expected.tolist()


def test_a_stream_is_not_kept():
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def stream() -> Iterator[TokenPyramid]:
        nonlocal most
        for _ in range(20):
            tokens = pyramid(torch.zeros(1, 2, 2, dtype=torch.int64), 3)
            alive.append(weakref.ref(tokens.ids[0]))
            most = max(most, sum(ref() is not None for ref in alive))
            yield tokens

    assert measure_health(stream()).levels[0].num_tokens == 80
    assert most <= 2


def test_the_worst_level_gives_the_verdict():
    good, few, low, bad = level(*[10] * 4), level(1, 1, 0, 0, 0), level(*[17] * 6, 0, 0, 0), level(90, 0, 0, 0, 0)
    assert [x.verdict for x in (good, few, low, bad)] == [
        "healthy",
        "too few tokens to tell",
        "underused",
        "collapsed",
    ]
    for worst, others in ((bad, (low, few, good)), (low, (few, good)), (few, (good,)), (good, ())):
        measured = TokenHealth(levels=(*others, worst, *others), num_images=1, fingerprint="0" * 64)
        assert measured.verdict == worst.verdict


def test_the_table_is_aligned_and_ends_with_advice_for_each_level_that_is_not_healthy():
    levels = (level(*[25] * 4), LevelHealth(counts=torch.cat([torch.tensor([64]), torch.zeros(4095).long()])))
    assert str(TokenHealth(levels=levels, num_images=1234, fingerprint="0f" * 32)).split("\n") == [
        "codebook usage over 1,234 images, tokenizer 0f0f0f0f",
        "level  entries  tokens    used  expected  perplexity    of K  unused  verdict",
        "    0        4     100  100.0%    100.0%         4.0  100.0%       0  healthy",
        "    1    4,096      64    0.0%      1.6%         1.0    0.0%   4,095  too few tokens to tell",
        "level 1: Measure more and different images: at least 40,960 tokens of this level, 40,896 more than now.",
    ]


def test_tokens_that_cannot_be_counted_together_are_refused():
    a = pyramid(torch.zeros(1, 2, 2, dtype=torch.int64), 3)
    for other in (pyramid(a.ids[0], 4), pyramid(a.ids[0], 3, "11" * 32)):
        with pytest.raises(TokenMismatchError, match="expected tokens of codebooks .* like the first"):
            measure_health([a, other])
    with pytest.raises(TokenError, match="got none"):
        measure_health([])
    with pytest.raises(TokenError, match="got Tensor"):
        measure_health([a.ids[0]])


@pytest.mark.gpu
def test_counts_on_a_gpu_are_the_same():
    tokens = pyramid(torch.randint(9, (4, 5, 5)), 9)
    assert (
        measure_health(tokens.to("cuda")).levels[0].counts.tolist() == measure_health(tokens).levels[0].counts.tolist()
    )
