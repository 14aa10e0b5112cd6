import itertools

import pytest
import torch
import torch.nn.functional as F

from pyramid_tokenizer.errors import DataError
from pyramid_tokenizer.quantizer.fit.kmeans import kmeans
from pyramid_tokenizer.quantizer.nearest import CELLS_PER_PRODUCT, affine_cells, by_cells, nearest


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def mean_error(vectors, centres):
    return float((vectors - centres[nearest(vectors, centres)]).square().sum(1).mean())


@pytest.mark.parametrize(("dim", "num_codes"), [(1, 2), (3, 7), (6, 8), (24, 513)])
def test_nearest_equals_a_slow_search(dim, num_codes):
    vectors, codebook = torch.randn(1500, dim, generator=seeded()), torch.randn(num_codes, dim, generator=seeded(1))
    distances = (vectors[:, None].double() - codebook[None].double()).square().sum(2)
    ids = nearest(vectors, codebook)
    chosen = distances.gather(1, ids[:, None])[:, 0]
    assert (chosen <= distances.min(1).values + 1e-5).all()  # float32 may take the other of two that are this near
    assert (ids == distances.argmin(1)).float().mean() > 0.998


def test_nearest_of_unit_vectors_is_the_largest_cosine():
    vectors = F.normalize(torch.randn(300, 5, generator=seeded()), dim=1)
    codebook = F.normalize(torch.randn(20, 5, generator=seeded(1)), dim=1)
    assert torch.equal(nearest(vectors, codebook), (vectors @ codebook.T).argmax(1))


@pytest.mark.parametrize("num_codes", [3, 16, 40, 200])
def test_the_lowest_index_wins_a_tie(num_codes):
    codebook = torch.ones(num_codes, 4)
    codebook[0] = 5
    assert nearest(torch.ones(10, 4), codebook).tolist() == [1] * 10
    halfway = torch.tensor([[0.5, 0.0]])
    assert nearest(halfway, torch.tensor([[1.0, 0.0], [0.0, 0.0]])).tolist() == [0]
    assert nearest(halfway, torch.tensor([[0.0, 0.0], [1.0, 0.0]])).tolist() == [0]


@pytest.mark.parametrize(("first", "second"), [(0, 15), (15, 16), (70, 150), (127, 128), (190, 199)])
def test_the_lower_of_two_equal_entries_wins_wherever_they_stand(first, second):
    codebook = torch.randn(200, 4, generator=seeded())
    codebook[second] = codebook[first]
    assert nearest(codebook[[second, first]], codebook).tolist() == [first, first]


def test_nearest_takes_half_precision_vectors_and_entries_far_away():
    codebook = torch.tensor([[1e6], [-1e6], [0.0]])
    assert nearest(torch.tensor([[9e3], [-3.0]]).half(), codebook).tolist() == [2, 2]
    assert nearest(torch.tensor([[9e5], [-9e5]]), codebook).tolist() == [0, 1]


@pytest.mark.parametrize(("channels", "width"), [(1, 1), (7, 3), (64, 5), (257, 7), (320, 10), (777, 24)])
def test_a_cells_result_is_bit_exact_whatever_its_neighbours_and_place(channels, width):
    count = CELLS_PER_PRODUCT + 300
    cells = torch.randn(1, channels, 1, count, generator=seeded())
    weight, bias = torch.randn(width, channels, generator=seeded(1)), torch.randn(width, generator=seeded(2))
    together = affine_cells(cells, weight, bias)
    expected = torch.einsum("bchw,tc->bthw", cells, weight) + bias.view(1, -1, 1, 1)
    torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-4)
    for start, end in ((0, 1), (5, 6), (200, CELLS_PER_PRODUCT + 100), (count - 1, count)):
        assert torch.equal(affine_cells(cells[..., start:end], weight, bias), together[..., start:end])
    for shift in (1, 3, 501):
        assert torch.equal(affine_cells(cells.roll(shift, 3), weight, bias), together.roll(shift, 3))


def test_a_cells_result_depends_neither_on_its_image_nor_on_the_order_in_memory():
    maps, weight = torch.randn(3, 20, 9, 13, generator=seeded()), torch.randn(5, 20, generator=seeded(1))
    together = affine_cells(maps, weight)
    assert together.shape == (3, 5, 9, 13)
    for index in range(3):
        assert torch.equal(affine_cells(maps[index : index + 1], weight), together[index : index + 1])
    assert torch.equal(affine_cells(maps.contiguous(memory_format=torch.channels_last), weight), together)
    assert torch.equal(affine_cells(maps.transpose(0, 1).contiguous().transpose(0, 1), weight), together)


@pytest.mark.parametrize(("dim", "num_codes"), [(7, 5), (8, 13), (24, 100)])
def test_an_id_does_not_depend_on_the_other_vectors(dim, num_codes):
    vectors, codebook = torch.randn(1100, dim, generator=seeded()), torch.randn(num_codes, dim, generator=seeded(1))
    together = nearest(vectors, codebook)
    alone = torch.cat([nearest(vectors[i : i + 1], codebook) for i in range(0, 1100, 50)])
    assert torch.equal(alone, together[::50])
    assert torch.equal(nearest(vectors.flip(0), codebook), together.flip(0))


def test_a_large_codebook_is_compared_with_fewer_cells_at_a_time_and_gives_the_same(monkeypatch):
    vectors, codebook = torch.randn(500, 6, generator=seeded()), torch.randn(1000, 6, generator=seeded(1))
    expected, used, product = nearest(vectors, codebook), [], torch.addmm
    monkeypatch.setattr("pyramid_tokenizer.quantizer.nearest.SCORES_PER_PRODUCT", 2**15)
    monkeypatch.setattr(torch, "addmm", lambda *args, out: used.append(out.shape) or product(*args, out=out))
    assert torch.equal(nearest(vectors, codebook), expected)
    assert set(used) == {(1024, 32)}


@pytest.mark.parametrize("count", [1, CELLS_PER_PRODUCT - 1, CELLS_PER_PRODUCT, CELLS_PER_PRODUCT + 1])
def test_by_cells_calls_with_one_shape_and_returns_as_many_columns_as_it_got(count):
    shapes = []

    def double(part):
        shapes.append((tuple(part.shape), part.is_contiguous()))
        return part * 2

    columns = torch.arange(float(count * 2)).reshape(2, count)
    assert torch.equal(by_cells(double, columns), columns * 2)
    assert torch.equal(by_cells(double, columns.T.contiguous().T), columns * 2)
    assert set(shapes) == {((2, CELLS_PER_PRODUCT), True)}


def test_kmeans_depends_on_its_generator_alone():
    vectors = torch.randn(400, 3, generator=seeded())
    first = kmeans(vectors, 16, generator=seeded(1))
    torch.rand(5)
    assert torch.equal(kmeans(vectors, 16, generator=seeded(1)), first)
    assert not torch.equal(kmeans(vectors, 16, generator=seeded(2)), first)


@pytest.mark.parametrize("seed", range(5))
def test_kmeans_uses_every_centre_on_well_separated_data(seed):
    true = torch.randn(12, 4, generator=seeded(seed)) * 50
    vectors = (true[:, None] + torch.randn(12, 30, 4, generator=seeded(seed + 10)) * 0.1).flatten(0, 1)
    centres = kmeans(vectors, 24, iterations=30, generator=seeded(seed))
    assert (torch.bincount(nearest(vectors, centres), minlength=24) > 0).all()


def test_kmeans_fills_clusters_that_a_start_of_equal_vectors_leaves_empty():
    vectors = torch.cat([torch.zeros(500, 2), torch.tensor([[9.0, 0.0], [0.0, 9.0], [-9.0, 0.0]])])
    centres = kmeans(vectors, 4, generator=seeded())
    assert mean_error(vectors, centres) == 0


def test_with_as_many_codes_as_vectors_kmeans_keeps_them_all():
    vectors = torch.randn(9, 3, generator=seeded())
    centres = kmeans(vectors, 9, generator=seeded())
    assert torch.equal(centres[nearest(vectors, centres)], vectors)


def test_kmeans_begins_with_the_centres_it_is_given():
    vectors, start = torch.randn(300, 3, generator=seeded()), torch.randn(10, 3, generator=seeded(1)).double()
    assert torch.equal(kmeans(vectors, 10, iterations=0, start=start), start.float())
    one_step = kmeans(vectors, 10, iterations=1, start=start)
    ids = nearest(vectors, start)
    for code in range(10):
        torch.testing.assert_close(one_step[code], vectors[ids == code].mean(0))
    settled = kmeans(vectors, 10, iterations=60, start=start)
    torch.testing.assert_close(kmeans(vectors, 10, iterations=3, start=settled), settled, rtol=0, atol=1e-5)


@pytest.mark.parametrize("spherical", [False, True])
def test_given_centres_that_serve_no_vector_restart_at_some(spherical):
    vectors = F.normalize(torch.randn(400, 3, generator=seeded()).abs(), dim=1)
    start = torch.cat([vectors[:4], -vectors[:12]])  # twelve on the other side of the sphere
    centres = kmeans(vectors, 16, spherical=spherical, start=start, generator=seeded())
    assert (torch.bincount(nearest(vectors, centres), minlength=16) > 0).all()
    assert mean_error(vectors, centres) < 0.5 * mean_error(vectors, start)


def test_fewer_vectors_than_codes_is_an_error():
    with pytest.raises(DataError, match="expected at least 5 vectors for 5 codes, got 4: give more images"):
        kmeans(torch.rand(4, 2), 5)


@pytest.mark.parametrize("iterations", [1, 2, 7])
def test_spherical_centres_have_unit_norm_even_where_clusters_stay_empty(iterations):
    distinct = F.normalize(torch.randn(6, 3, generator=seeded()), dim=1)
    vectors = distinct.repeat(20, 1)
    centres = kmeans(vectors, 32, iterations=iterations, spherical=True, generator=seeded())
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(32))


def test_a_spherical_centre_stays_where_its_vectors_have_no_direction_in_common():
    vectors = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    centres = kmeans(vectors.repeat(8, 1), 1, spherical=True, generator=seeded())
    assert centres.tolist() in ([[1.0, 0.0]], [[-1.0, 0.0]])


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_more_steps_never_raise_the_error_above_the_random_starts(spherical, seed):
    vectors = torch.randn(300, 4, generator=seeded(seed)) ** 3  # heavy tails: some clusters run empty
    vectors = F.normalize(vectors, dim=1) if spherical else vectors
    errors = [
        mean_error(vectors, kmeans(vectors, 40, iterations=n, spherical=spherical, generator=seeded(seed)))
        for n in (0, 1, 2, 5, 20)
    ]
    assert all(later <= earlier * 1.0001 for earlier, later in itertools.pairwise(errors))
    assert errors[-1] < 0.95 * errors[0]
