"""Thinning by the tree that is best at a price, against all trees of a small pyramid."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyramid_tokenizer.errors import TokenError
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.tokens.thinning import Gains, SplitOrder, price_of, split_order, thinned
from tests.tokens.pyramids import same

SIZES = (4, 16, 64)


def gains_of(seed: int, *, batch: int = 2, shapes=((1, 2), (2, 4))) -> Gains:
    generator = torch.Generator().manual_seed(seed)
    saved = tuple(torch.randn(batch, *shape, generator=generator) + 0.5 for shape in shapes)
    return Gains(error=torch.full((batch,), 9.0), saved=saved)


def trees(h: int, w: int):
    """Every choice of splits of a pyramid whose level 1 has twice the grid of level 0: (h, w) and (2 h, 2 w) bool."""
    for roots in itertools.product([False, True], repeat=h * w):
        root = torch.tensor(roots).view(h, w)
        present = root.repeat_interleave(2, 0).repeat_interleave(2, 1).flatten().nonzero().flatten().tolist()
        for chosen in itertools.product([False, True], repeat=len(present)):
            child = torch.zeros(4 * h * w, dtype=torch.bool)
            child[[place for place, yes in zip(present, chosen, strict=True) if yes]] = True
            yield root, child.view(2 * h, 2 * w)


def value(gains: Gains, root: torch.Tensor, child: torch.Tensor, price: float) -> float:
    saved = gains.saved[0][0][root].sum() + gains.saved[1][0][child].sum()
    bits = int(root.sum()) * 4 * (math.log2(16) + 1) + int(child.sum()) * 4 * math.log2(64)
    return float(saved) - price * bits


@pytest.mark.parametrize("price", [-0.1, 0.0, 0.01, 0.03, 0.08])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_splits_above_a_price_are_the_best_tree_at_that_price(seed, price):
    gains = gains_of(seed, batch=1, shapes=((1, 1), (2, 2)))
    order = SplitOrder(gains, codebook_sizes=SIZES, ratios=(2, 2))
    masks = order.masks(order.above_price(price))
    found = value(gains, masks[1][0, ::2, ::2], masks[2][0, ::2, ::2], price)
    best = max(value(gains, root, child, price) for root, child in trees(1, 1))
    assert found == pytest.approx(best, abs=1e-4)


@given(st.integers(0, 2**20), st.integers(0, 10))
def test_any_number_of_splits_is_a_pyramid_with_the_tokens_and_the_error_that_are_told(seed, count):
    gains = gains_of(seed)
    order = SplitOrder(gains, codebook_sizes=SIZES, ratios=(2, 2))
    assert bool((order.prices.diff(dim=1) <= 0).all())
    tokens = thinned(full(), order.masks(torch.tensor([count, 10 - count])))
    # from outside, everything is checked: siblings agree, nothing is present below an absent cell
    assert same(TokenPyramid(**{name: getattr(tokens, name) for name in FIELDS}), tokens)
    told = order.num_tokens[torch.arange(2), torch.tensor([count, 10 - count])]
    assert tokens.token_counts.tolist() == told.tolist()
    for image, own in enumerate((count, 10 - count)):
        saved = sum(
            float(
                level[image][
                    (ids[image, :: ids.shape[1] // level.shape[1], :: ids.shape[1] // level.shape[1]] >= 0)
                ].sum()
            )
            for level, ids in zip(gains.saved, tokens.ids[1:], strict=True)
        )
        assert float(order.error[image, own]) == pytest.approx(9 - saved, abs=1e-4)


FIELDS = ("ids", "codebook_sizes", "image_size", "fingerprint", "precision")


def full() -> TokenPyramid:
    ids = [torch.randint(k, (2, h, 2 * h)) for k, h in zip(SIZES, (1, 2, 4), strict=True)]
    return TokenPyramid(ids=ids, codebook_sizes=SIZES, image_size=(16, 32), fingerprint="0" * 64)


def test_more_tokens_hold_fewer():
    tokens, order = full(), split_order(tokens := full(), gains_of(3))
    counts = [order.within_tokens(most) for most in range(2, 43)]
    pyramids = [thinned(tokens, order.masks(count)) for count in counts]
    for most, (fewer, more) in zip(range(3, 43), itertools.pairwise(pyramids), strict=True):
        assert more.num_tokens <= most
        assert all(bool(((a < 0) | (a == b)).all()) for a, b in zip(fewer.ids, more.ids, strict=True))
    assert pyramids[-1] == tokens and not pyramids[-1].is_sparse


def test_an_error_that_no_tree_reaches_takes_all_splits():
    order = SplitOrder(gains_of(4), codebook_sizes=SIZES, ratios=(2, 2))
    assert order.within_error(torch.tensor([-100.0, 100.0])).tolist() == [10, 0]
    least = order.within_error(order.error.min(1).values)
    assert torch.equal(order.error.gather(1, least[:, None])[:, 0], order.error.min(1).values)


def test_quality_falls_with_the_price_from_everything_to_level_0():
    prices = [price_of(step / 20) for step in range(21)]
    assert prices == sorted(prices, reverse=True)
    assert (prices[0], prices[-1]) == (math.inf, -math.inf)


def test_the_price_of_a_split_does_not_depend_on_the_other_images_of_the_batch():
    gains = gains_of(6)
    steep = Gains(error=gains.error, saved=tuple(torch.cat([s[:1], 1e4 * s[1:]]) for s in gains.saved))
    alone = SplitOrder(gains.unbind()[0], codebook_sizes=SIZES, ratios=(2, 2))
    together = SplitOrder(steep, codebook_sizes=SIZES, ratios=(2, 2))
    assert torch.equal(together.prices[0], alone.prices[0])


def test_gains_of_other_tokens_are_refused():
    with pytest.raises(TokenError, match=r"expected gains of grids \[\(2, 1, 2\), \(2, 2, 4\)\], got \[\(1, 1, 2\)"):
        split_order(full(), gains_of(0, batch=1))
    with pytest.raises(TokenError, match="expected two levels or more to thin"):
        split_order(full()[:1], Gains(error=torch.zeros(2), saved=()))
    order = split_order(full(), gains_of(0))
    with pytest.raises(TokenError, match="expected full pyramids"):
        split_order(thinned(full(), order.masks(order.within_tokens(10))), gains_of(0))


def test_gains_of_single_images_are_those_of_the_batch():
    gains = gains_of(5)
    one = gains.unbind()[1]
    assert torch.equal(one.saved[1], gains.saved[1][1:]) and torch.equal(one.error, gains.error[1:])
