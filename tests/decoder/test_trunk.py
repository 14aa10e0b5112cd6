import pytest
import torch

from pyramid_tokenizer.backbones.features import enlarge
from pyramid_tokenizer.decoder.blocks import ResidualBlock
from pyramid_tokenizer.decoder.trunk import TopDownTrunk

STRIDES = {"halving": (32, 16, 8), "residual stage": (16, 16, 8), "ratio 4": (32, 8, 8), "one level": (8,)}


def trunk_of(strides, seed=0):
    """A trunk whose every parameter does something."""
    count = len(strides)
    trunk = TopDownTrunk(dims=(3, 4, 5)[:count], strides=strides, widths=(6, 7, 8)[:count], depths=(1, 2, 1)[:count])
    generator = torch.Generator().manual_seed(seed)
    for parameter in trunk.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    return trunk


def codes_of(strides, height=64, width=96, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, dim, height // s, width // s, generator=generator)
        for dim, s in zip((3, 4, 5), strides, strict=False)
    ]


@pytest.mark.parametrize("strides", STRIDES.values(), ids=STRIDES)
def test_every_prefix_has_fused_maps_on_every_grid(strides):
    trunk, codes = trunk_of(strides), codes_of(strides)
    for n in range(1, len(strides) + 1):
        fused = trunk(codes[:n])
        assert [tuple(f.shape) for f in fused] == [
            (2, w, 64 // s, 96 // s) for w, s in zip((6, 7, 8), strides, strict=False)
        ]


def test_finer_codes_change_finer_maps_only():
    trunk, codes = trunk_of((32, 16, 8)), codes_of((32, 16, 8))
    full = trunk(codes)
    for n in (1, 2):
        prefix = trunk(codes[:n])
        for level in range(3):
            assert torch.equal(prefix[level], full[level]) == (level < n)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_gradients_reach_all_that_a_prefix_uses_and_nothing_else(n):
    trunk = trunk_of((32, 16, 8))
    trunk(codes_of((32, 16, 8))[:n])[-1].square().sum().backward()
    for name, parameter in trunk.named_parameters():
        kind, index = name.split(".")[:2]
        unused = (kind == "embed" and int(index) >= n) or (kind == "absent" and int(index) + 1 < n)
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached != unused, name


def test_a_tile_with_a_halo_equals_the_whole_inside():
    trunk, codes = trunk_of((32, 16, 8)), codes_of((32, 16, 8), height=32, width=32 * 20)
    whole = trunk(codes)[-1]
    # 16 of 20 cells of level 0, 6 of them halo on either side: the reach of four blocks and two enlargements
    tile = trunk([c[..., 2 * r : 18 * r] for c, r in zip(codes, (1, 2, 4), strict=True)])[-1]
    torch.testing.assert_close(tile[..., 6 * 4 : -6 * 4], whole[..., 8 * 4 : 12 * 4], rtol=1e-4, atol=1e-3)
    assert not torch.allclose(tile[..., 0], whole[..., 2 * 4], rtol=1e-4, atol=1e-3)  # a halo is needed


def test_a_residual_block_starts_as_the_identity_and_learns():
    block, x = ResidualBlock(4), torch.randn(1, 4, 5, 6)
    assert torch.equal(block(x), x)
    block(x).square().sum().backward()
    assert block.second.weight.grad.any()


def test_enlarging_keeps_a_slope_between_cell_centres():
    x = torch.arange(4.0).expand(1, 1, 4, 4)
    large = enlarge(x, 2)
    torch.testing.assert_close(large[0, 0, 0], torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]))
    assert enlarge(x, 1) is x
