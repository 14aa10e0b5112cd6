import itertools

import pytest
import torch
from vector_quantize_pytorch import FSQ

from pyramid_tokenizer.quantizer.codebooks import bound, grid
from pyramid_tokenizer.quantizer.nearest import nearest

ENTRIES = [(2,), (3,), (8, 8, 4), (8, 5, 5, 5), (7, 4, 3, 2, 2)]


@pytest.mark.parametrize("entries", ENTRIES)
def test_the_grid_holds_every_combination_once_with_the_first_dimension_fastest(entries):
    axes = [torch.linspace(-1, 1, count) for count in entries]
    combinations = [point[::-1] for point in itertools.product(*reversed(axes))]
    torch.testing.assert_close(grid(entries), torch.tensor(combinations))


@pytest.mark.parametrize("entries", ENTRIES)
def test_the_nearest_point_to_the_bounded_vector_is_the_librarys_quantisation(entries):
    library = FSQ(list(entries), preserve_symmetry=True)
    vectors = torch.randn(4000, len(entries), generator=torch.Generator().manual_seed(0)) * 2
    codes, ids = library(vectors[None])
    points = grid(entries)
    ours = nearest(bound(vectors), points)
    # float32 may take the other of two neighbours for a coordinate that lies between them
    same = ours == ids[0]
    assert same.float().mean() > 0.999
    torch.testing.assert_close(points[ours][same], codes[0][same])
    distances = (bound(vectors)[:, None] - points).square().sum(2)
    chosen = distances.gather(1, ours[:, None])[:, 0]
    torch.testing.assert_close(chosen, distances.min(1).values, rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 17, 1000])
def test_a_value_is_bounded_the_same_bit_for_bit_wherever_it_stands(count):
    values = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0)) * 2
    together = bound(values)
    for start in (0, 1, 7, 30, 4000):
        assert torch.equal(bound(values[start : start + count]), together[start : start + count])
        assert torch.equal(bound(values[start : start + count].clone()), together[start : start + count])
    assert torch.equal(bound(values[:, 1:]), together[:, 1:])
    assert torch.equal(bound(values.T), together.T)


@pytest.mark.parametrize("count", [2, 5, 16])
def test_a_normal_coordinate_of_unit_deviation_uses_every_entry_about_equally(count):
    values = torch.randn(50_000, 1, generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(nearest(bound(values), grid((count,))), minlength=count) / len(values)
    entropy = -float((shares * shares.log()).sum())
    assert entropy > 0.96 * float(torch.tensor(count).log())
    assert shares.min() > 0.35 / count
