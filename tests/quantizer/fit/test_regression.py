import pytest
import torch

from pyramid_tokenizer.quantizer.fit.regression import explained, reduced_rank, ridge, whitening


def sample(rows=400, channels=6, targets=4, seed=0):
    """x of unit scale and y that x predicts in part."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, channels, generator=generator) + torch.arange(float(channels))
    y = x @ torch.randn(channels, targets, generator=generator) + 0.5 * torch.randn(rows, targets, generator=generator)
    return x, y + 3


def predict(x, fit):
    return x @ fit.weight + fit.bias


@pytest.mark.parametrize("rows", [400, 20_000])  # one slice and several
def test_whitening_gives_zero_mean_and_unit_deviation(rows):
    x, _ = sample(rows)
    mean, std = whitening(x * 7 - 100)
    white = (x * 7 - 100 - mean) / std
    torch.testing.assert_close(white.mean(0), torch.zeros(6), rtol=0, atol=1e-4)
    torch.testing.assert_close(white.std(0, unbiased=False), torch.ones(6), rtol=0, atol=1e-4)


def test_whitening_of_a_channel_far_from_zero_keeps_its_small_deviation():
    x = torch.tensor([[1000.0], [1000.25]]).repeat(5000, 1)
    mean, std = whitening(x)
    assert (mean.item(), std.item()) == (1000.125, 0.125)


def test_a_constant_channel_whitens_to_zero():
    x, _ = sample()
    x[:, 2] = 0.3
    mean, std = whitening(x)
    assert std[2] == 1
    torch.testing.assert_close((x[:, 2] - mean[2]) / std[2], torch.zeros(len(x)))


@pytest.mark.parametrize("rows", [400, 20_000])
def test_without_a_ridge_it_is_least_squares(rows):
    x, y = sample(rows)
    ones = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    solution = torch.linalg.lstsq(ones, y.double()).solution.float()
    fit = ridge(x, y, share=0.0)
    torch.testing.assert_close(fit.weight, solution[:-1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(fit.bias, solution[-1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("block", [1, 4, 5, 6])
def test_blocks_that_are_mirrored_give_the_same_as_products_of_all_channels(monkeypatch, block):
    x, y = sample()
    expected = reduced_rank(x, y, 3)
    monkeypatch.setattr("pyramid_tokenizer.quantizer.fit.regression._BLOCK", block)
    found = reduced_rank(x, y, 3)
    torch.testing.assert_close(found.weight, expected.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.bias, expected.bias, rtol=1e-4, atol=1e-5)


def test_a_ridge_equals_its_formula():
    x, y = sample()
    centred = (x - x.mean(0)).double()
    gram = centred.T @ centred
    system = gram + 0.1 * gram.diagonal().mean() * torch.eye(6, dtype=torch.float64)
    weight = torch.linalg.solve(system, centred.T @ (y - y.mean(0)).double()).float()
    torch.testing.assert_close(ridge(x, y, share=0.1).weight, weight, rtol=1e-3, atol=1e-3)


def test_a_ridge_predicts_the_mean_at_the_mean_and_shrinks_weights():
    x, y = sample()
    norms = []
    for share in (0.0, 0.1, 1.0, 100.0):
        fit = ridge(x, y, share=share)
        torch.testing.assert_close(predict(x.mean(0), fit), y.mean(0), rtol=1e-3, atol=1e-3)
        norms.append(float(fit.weight.norm()))
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < 0.05 * norms[0]


def test_a_ridge_is_relative_to_the_scale_of_x():
    x, y = sample()
    large, small = ridge(x * 1000, y), ridge(x / 1000, y)
    torch.testing.assert_close(predict(x * 1000, large), predict(x / 1000, small), rtol=1e-3, atol=1e-3)


def test_constant_and_repeated_channels_are_no_trouble():
    x, y = sample()
    x = torch.cat([x, x[:, :2], torch.full((len(x), 1), 4.0)], 1)
    for fit in (ridge(x, y), ridge(x, y, share=0.0)):
        assert torch.isfinite(fit.weight).all()
        assert explained(x, y, fit) > 0.8
    down = reduced_rank(x - x.mean(0), y, 3)
    assert torch.isfinite(down.weight).all()
    assert abs(float(down.weight[-1].norm())) < 1e-6  # a constant says nothing


def test_full_rank_predicts_as_well_as_the_ridge():
    x, y = sample()
    down, fit = reduced_rank(x, y, 4), ridge(x, y)
    z = predict(x, down)
    back = ridge(z, predict(x, fit), share=0.0)
    torch.testing.assert_close(predict(z, back), predict(x, fit), rtol=1e-3, atol=1e-3)


def test_distances_between_projections_are_distances_between_predictions():
    x, y = sample()
    z, predicted = predict(x, reduced_rank(x, y, 4)), predict(x, ridge(x, y))
    torch.testing.assert_close(torch.cdist(z, z), torch.cdist(predicted, predicted), rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(z.mean(0), torch.zeros(4), rtol=0, atol=1e-4)


def test_a_low_rank_keeps_the_directions_of_largest_predicted_variance():
    x, y = sample()
    z = predict(x, reduced_rank(x, y, 2))
    predicted = predict(x, ridge(x, y))
    values = torch.linalg.svdvals(predicted - predicted.mean(0))
    torch.testing.assert_close(z.square().sum(0), values[:2].square(), rtol=1e-3, atol=1e-3)
    assert float((z[:, 0] * z[:, 1]).sum()) == pytest.approx(0, abs=1e-2)
    assert torch.equal(reduced_rank(x, y, 2).weight, reduced_rank(x, y, 4).weight[:, :2])


def test_of_x_itself_it_is_pca():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 5, generator=generator) @ torch.randn(5, 5, generator=generator)
    z = predict(x, reduced_rank(x, x, 3, share=0.0))
    _, values, rows = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    expected = (x - x.mean(0)) @ rows[:3].T
    torch.testing.assert_close(z.abs(), expected.abs(), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(z.norm(dim=0), values[:3], rtol=1e-3, atol=1e-3)


def test_directions_have_a_fixed_sign():
    x, y = sample()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    first, second = reduced_rank(x, y, 4), reduced_rank(x[order], y[order], 4)
    torch.testing.assert_close(first.weight, second.weight, rtol=1e-3, atol=1e-3)


def test_directions_beyond_the_targets_are_zero():
    x, y = sample(targets=2)
    down = reduced_rank(x, y, 5)
    assert down.weight.shape == (6, 5)
    assert down.bias.shape == (5,)
    assert not down.weight[:, 2:].any()
    assert not down.bias[2:].any()


def test_the_explained_share_is_r_squared():
    x, y = sample(20_000)
    fit = ridge(x, y, share=0.0)
    slow = 1 - (y - predict(x, fit)).double().var(0, unbiased=False).sum() / y.double().var(0, unbiased=False).sum()
    assert explained(x, y, fit) == pytest.approx(float(slow), abs=1e-5)
    mean_only = ridge(x, y, share=1e9)
    assert explained(x, y, mean_only) == pytest.approx(0, abs=1e-5)
    assert explained(x, 2 * x - 1, ridge(x, 2 * x - 1, share=0.0)) == pytest.approx(1, abs=1e-6)


def test_targets_that_never_vary_are_explained_in_full():
    x, _ = sample()
    y = torch.full((len(x), 2), 0.5)
    assert explained(x, y, ridge(x, y)) == 1
