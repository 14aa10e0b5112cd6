import itertools

import pytest
import torch
import torch.nn.functional as F

from pyramid_tokenizer.quantizer.regrid import (
    EnlargedImage,
    InputPart,
    depth_to_space,
    join_parts,
    regrid,
    regridded_channels,
    space_to_depth,
    times_parts,
)


def test_a_coarser_grid_lays_the_four_pooled_neighbours_side_by_side():
    x = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    for ratio in (2, 4):
        adapted = regrid(x, 4, 4 * ratio)
        assert adapted.shape == (2, 12, 8 // ratio, 12 // ratio)
        half = ratio // 2
        for c, i, j, row, column in itertools.product(
            range(3), range(2), range(2), range(8 // ratio), range(12 // ratio)
        ):
            top, left = row * ratio + i * half, column * ratio + j * half
            expected = x[:, c, top : top + half, left : left + half].mean((1, 2))
            torch.testing.assert_close(adapted[:, c * 4 + i * 2 + j, row, column], expected)


def test_an_odd_ratio_averages_whole_cells():
    x = torch.randn(1, 2, 6, 9, generator=torch.Generator().manual_seed(0))
    adapted = regrid(x, 8, 24)
    assert adapted.shape == (1, 2, 2, 3)
    for row, column in itertools.product(range(2), range(3)):
        expected = x[0, :, row * 3 : row * 3 + 3, column * 3 : column * 3 + 3].mean((1, 2))
        torch.testing.assert_close(adapted[0, :, row, column], expected)


def test_a_finer_grid_gives_each_place_of_a_cell_channels_of_its_own():
    x = torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    adapted = regrid(x, 16, 4)
    assert adapted.shape == (2, 48, 8, 16)
    for i, j, row, column in itertools.product(range(4), range(4), range(2), range(4)):
        cell = adapted[:, :, row * 4 + i, column * 4 + j].view(2, 16, 3)
        expected = torch.zeros(2, 16, 3)
        expected[:, i * 4 + j] = x[:, :, row, column]
        assert torch.equal(cell, expected)


@pytest.mark.parametrize("ratio", [2, 4])
def test_a_linear_map_on_the_finer_grid_is_a_linear_map_then_pixel_shuffle(ratio):
    generator = torch.Generator().manual_seed(0)
    x, dim = torch.randn(1, 3, 4, 2, generator=generator), 5
    weight = torch.randn(ratio**2, dim, 3, generator=generator)  # a matrix for each place of a cell
    spread = torch.einsum("bchw,dc->bdhw", regrid(x, 8 * ratio, 8), weight.permute(1, 0, 2).reshape(dim, -1))
    shuffled = F.pixel_shuffle(torch.einsum("bchw,pdc->bdphw", x, weight).flatten(1, 2), ratio)
    torch.testing.assert_close(spread, shuffled)


def test_the_same_grid_is_left_alone():
    x = torch.rand(1, 2, 3, 4)
    assert regrid(x, 8, 8) is x


@pytest.mark.parametrize(("own", "wanted"), [(8, 8), (4, 8), (4, 16), (8, 24), (16, 8), (16, 4)])
def test_the_number_of_channels_is_told_before_the_map_is_there(own, wanted):
    x = torch.rand(1, 5, 12, 12)
    assert regridded_channels(5, own, wanted) == regrid(x, own, wanted).shape[1]


@pytest.mark.parametrize(
    "part",
    [
        InputPart(torch.rand(2, 5, 4, 6), 8, 8),
        InputPart(torch.rand(2, 5, 4, 6), 4, 8),
        InputPart(torch.rand(2, 5, 6, 6), 4, 12),
        InputPart(torch.rand(2, 5, 4, 6), 16, 8),
        InputPart(torch.rand(2, 5, 4, 6), 32, 8, repeat=True),
    ],
    ids=["its own grid", "averaged and unshuffled", "averaged", "shuffled", "repeated"],
)
@pytest.mark.parametrize("with_gradient", [False, True])
def test_the_product_of_a_part_is_that_of_its_cells_on_the_grid(part, with_gradient):
    weight = torch.randn(3, part.channels, requires_grad=with_gradient)
    expected = torch.einsum("bchw,tc->bthw", part.on_grid(), weight)
    torch.testing.assert_close(part.times(weight), expected, rtol=1e-5, atol=1e-5)


def test_the_product_of_parts_is_that_of_all_their_channels_side_by_side():
    parts = [InputPart(torch.rand(1, 4, 3, 3), 8, 4), InputPart(torch.rand(1, 2, 6, 6), 4, 4)]
    weight, bias = torch.randn(7, 18), torch.randn(7)
    expected = torch.einsum("bchw,tc->bthw", join_parts(parts), weight) + bias.view(1, -1, 1, 1)
    torch.testing.assert_close(times_parts(parts, weight, bias), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("ratio", [1, 2, 3, 8])
def test_space_to_depth_and_back_equal_those_of_torch(ratio, memory_format):
    images = torch.rand(2, 3, 5 * ratio, 4 * ratio).contiguous(memory_format=memory_format)
    cells = space_to_depth(images, ratio)
    assert torch.equal(cells, F.pixel_unshuffle(images, ratio))
    assert torch.equal(depth_to_space(cells, ratio), images)
    assert torch.equal(depth_to_space(cells.contiguous(memory_format=memory_format), ratio), images)


@pytest.mark.parametrize(("ratio", "patch_px"), [(1, 4), (2, 2), (2, 8), (4, 8), (2, 7), (3, 9)])
def test_an_enlarged_image_is_multiplied_as_if_it_had_been_enlarged(ratio, patch_px):
    image, weight = torch.rand(2, 3, 2 * patch_px, 3 * patch_px), torch.rand(5, 3 * patch_px**2)
    part = EnlargedImage(image, ratio=ratio, patch_px=patch_px)
    cells = F.pixel_unshuffle(F.interpolate(image, scale_factor=ratio, mode="bilinear"), patch_px)
    torch.testing.assert_close(part.on_grid(), cells)
    assert part.channels == cells.shape[1]
    product = part.times(weight)
    torch.testing.assert_close(product, torch.einsum("bchw,tc->bthw", cells, weight))
    alone = EnlargedImage(image[1:], ratio=ratio, patch_px=patch_px).times(weight)
    assert torch.equal(alone, product[1:])
