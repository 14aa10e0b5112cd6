"""Ids + words -> scores: indexing tables is the linear map that it stands for, and the head starts from it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyramid_tokenizer.quantizer.nearest import gather_rows
from pyramid_tokenizer.segmentation.head import START_BIAS, START_SCALE, SegmentationHead

DIM = 6
LAYOUTS = [(1,), (2,), (1, 1), (2, 2), (4, 1), (4, 2), (2, 1, 2)]
"""How many times finer each further grid is; 1 is a residual stage."""


def pyramid(ratios, *, sizes=7, batch=2, height=2, width=3):
    """Addresses (K_l, D) and ids of a coarsest level of 2 x 3 cells and of one level a ratio."""
    rows, ids = [], []
    for level, ratio in enumerate((1, *ratios)):
        height, width = height * ratio, width * ratio
        rows.append(torch.randn(sizes + level, DIM))
        ids.append(torch.randint(sizes + level, (batch, height, width)))
    return rows, ids


def weights(position, length):
    """Bilinear shares of the cells along one axis at a position in cells, 0 = the first one's left edge."""
    place = min(max(position - 0.5, 0.0), length - 1.0)
    low = min(int(place), length - 1)
    shares = [0.0] * length
    shares[low] += 1 - (place - low)
    shares[min(low + 1, length - 1)] += place - low
    return shares


def enlarged_slowly(x, ratio):
    """(B, C, h, w) float64, pixel by pixel."""
    batch, channels, height, width = x.shape
    result = torch.zeros(batch, channels, height * ratio, width * ratio, dtype=torch.float64)
    for row in range(height * ratio):
        for column in range(width * ratio):
            down, right = weights((row + 0.5) / ratio, height), weights((column + 0.5) / ratio, width)
            share = torch.tensor(down, dtype=torch.float64)[:, None] * torch.tensor(right, dtype=torch.float64)
            result[:, :, row, column] = (x * share).sum((2, 3))
    return result


def gathered_slowly(rows, ids):
    total = None
    for table, level in zip(rows, ids, strict=False):
        batch, height, width = level.shape
        found = torch.zeros(batch, table.shape[1], height, width, dtype=torch.float64)
        for place in range(batch * height * width):
            image, row, column = place // (height * width), place // width % height, place % width
            found[image, :, row, column] = table[level[image, row, column]].double()
        total = found if total is None else found + enlarged_slowly(total, height // total.shape[2])
    return total


@pytest.mark.parametrize("ratios", LAYOUTS)
def test_cells_gather_the_rows_of_their_ids_over_all_levels(ratios):
    rows, ids = pyramid(ratios)
    for n in range(1, len(ids) + 1):
        found = gather_rows(rows, ids[:n])
        assert found.shape == (2, DIM, *ids[n - 1].shape[1:])
        torch.testing.assert_close(found.double(), gathered_slowly(rows, ids[:n]), rtol=1e-5, atol=1e-6)


@given(ratios=st.lists(st.sampled_from([1, 2, 4]), max_size=3), words=st.integers(1, 9), seed=st.integers(0, 99))
def test_indexed_scores_are_the_scores_of_indexed_embeddings(ratios, words, seed):
    torch.manual_seed(seed)
    rows, ids = pyramid(ratios[:2], batch=1)
    text = torch.randn(words, DIM)
    for n in range(1, len(ids) + 1):
        dense = torch.einsum("bdhw,nd->bnhw", gather_rows(rows, ids[:n]), text)
        tables = [level @ text.T for level in rows]
        torch.testing.assert_close(gather_rows(tables, ids[:n]), dense, rtol=1e-4, atol=1e-5)


def test_a_shared_address_gives_that_address_everywhere():
    same = torch.randn(DIM)
    rows, ids = pyramid((2, 1, 4))
    found = gather_rows([same.expand(len(table), DIM) for table in rows], ids)
    torch.testing.assert_close(found, (4 * same)[None, :, None, None].expand_as(found))


def test_no_level_is_an_error():
    with pytest.raises(ValueError, match="one level or more, got none"):
        gather_rows([torch.ones(2, 3)], [])


def head_of(**changes):
    shape = {"embedding_dim": DIM, "fused_channels": (5, 4, 3), "ratios": (4, 2, 1), "width": 8, "depth": 2}
    return SegmentationHead(**shape | changes)


def inputs(batch=2, side=8):
    lookup = torch.randn(batch, DIM, side, side)
    fused = [torch.randn(batch, c, side // r, side // r) for c, r in zip((5, 4, 3), (4, 2, 1), strict=True)]
    return lookup, fused, torch.randn(batch, DIM)


def trained(head):
    """As a head is after training: nothing is zero."""
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return head


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_a_fresh_head_gives_the_look_up_bit_for_bit(depth):
    lookup, fused, image = inputs()
    head = head_of(depth=depth)
    assert torch.equal(head(lookup, fused, image), lookup)
    assert not torch.equal(trained(head)(lookup, fused, image), lookup)


def test_a_fresh_head_learns_at_once():
    lookup, fused, image = inputs()
    head = head_of()
    head.logits(head(lookup, fused, image), torch.randn(3, DIM)).square().sum().backward()
    for parameter in (head.to_embedding.weight, head.to_embedding.bias, head.log_scale, head.bias):
        assert parameter.grad.abs().max() > 0


def test_every_input_counts():
    lookup, fused, image = inputs()
    head = trained(head_of())
    before = head(lookup, fused, image) - lookup
    assert not torch.allclose(head(lookup + 1, fused, image) - (lookup + 1), before)
    assert not torch.allclose(head(lookup, fused, image + 1) - lookup, before)
    for index in range(3):
        changed = [level + (i == index) for i, level in enumerate(fused)]
        assert not torch.allclose(head(lookup, changed, image) - lookup, before)


def test_fused_maps_are_seen_where_they_lie():
    lookup, fused, image = inputs()
    head = trained(head_of(depth=0))  # no block: a cell sees its own fused cells, and the coarser ones' neighbours
    before = head(lookup, fused, image)
    for index, ratio in enumerate((4, 2, 1)):
        moved = [level.clone() for level in fused]
        moved[index][:, :, 0, 0] += 1
        changed = (head(lookup, moved, image) != before).any(1)  # (B, h, w)
        reach = ratio + ratio // 2  # bilinear: half a cell beyond its own
        assert changed[:, :ratio, :ratio].all()
        assert not changed[:, reach:].any() and not changed[:, :, reach:].any()


def test_a_number_of_levels_that_differs_is_an_error():
    lookup, fused, image = inputs()
    with pytest.raises(ValueError, match="shorter"):
        head_of()(lookup, fused[:2], image)


def test_logits_keep_the_order_of_scores_and_start_at_mostly_absent():
    head, embeddings, text = head_of(), torch.randn(2, DIM, 4, 4), torch.randn(9, DIM)
    scores = torch.einsum("bdhw,nd->bnhw", embeddings, text)
    torch.testing.assert_close(head.logits(embeddings, text), START_SCALE * scores + START_BIAS)
    with torch.no_grad():
        head.log_scale.fill_(-3.0)
        head.bias.fill_(2.0)
    logits = head.logits(embeddings, text)
    assert logits.shape == (2, 9, 4, 4)
    assert torch.equal(logits.argsort(dim=1, stable=True), scores.argsort(dim=1, stable=True))
    torch.testing.assert_close(head.to_logits(scores[0, 0]), math.exp(-3) * scores[0, 0] + 2)


def test_a_bfloat16_head_corrects_a_float32_look_up():
    lookup, fused, image = inputs()
    exact = trained(head_of())
    with torch.no_grad():
        wanted = exact(lookup, fused, image)
    coarse = exact.to(torch.bfloat16)
    with torch.no_grad():
        found = coarse(lookup, [level.bfloat16() for level in fused], image)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.02 * float((wanted - lookup).abs().max()))
    assert coarse.logits(found, torch.randn(3, DIM)).dtype == torch.float32
    with torch.no_grad():
        coarse.to_embedding.weight.zero_()
        coarse.to_embedding.bias.zero_()
    assert torch.equal(coarse(lookup, [level.bfloat16() for level in fused], image), lookup)
