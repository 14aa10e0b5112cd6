import pytest
import torch
import torch.nn.functional as F

from pyramid_tokenizer.decoder.pixels import PixelDecoder
from pyramid_tokenizer.errors import ConfigError

SHAPES = [(8, ()), (8, (4,)), (8, (6, 4)), (8, (6, 4, 2)), (14, (4,)), (1, ())]


def decoder_of(stride, widths, seed=None):
    decoder = PixelDecoder(in_channels=5, stride=stride, widths=widths, depth=1)
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in decoder.parameters():
            parameter.data.normal_(0, 0.2, generator=generator)
    return decoder


def inputs_of(stride, height=4, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    fused = torch.randn(2, 5, height, width, generator=generator)
    return fused, torch.rand(2, 3, height * stride, width * stride, generator=generator)


@pytest.mark.parametrize(("stride", "widths"), SHAPES)
def test_untrained_it_gives_the_linear_reconstruction_exactly(stride, widths):
    fused, linear_reconstruction = inputs_of(stride)
    assert torch.equal(decoder_of(stride, widths)(fused, linear_reconstruction), linear_reconstruction)


@pytest.mark.parametrize(("stride", "widths"), SHAPES)
def test_it_corrects_the_linear_reconstruction_by_what_it_sees_in_both_inputs(stride, widths):
    decoder, (fused, linear_reconstruction) = decoder_of(stride, widths, seed=0), inputs_of(stride)
    decoded = decoder(fused, linear_reconstruction)
    assert decoded.shape == linear_reconstruction.shape
    correction = decoded - linear_reconstruction
    assert not torch.allclose(
        correction, decoder(fused + 0.5, linear_reconstruction) - linear_reconstruction, atol=1e-3
    )
    sees_linear_reconstruction = not torch.allclose(
        correction, decoder(fused, 1 - linear_reconstruction) - (1 - linear_reconstruction), atol=1e-3
    )
    assert sees_linear_reconstruction == bool(widths)  # without a stage there is no place to see it


def test_at_the_start_gradients_reach_the_last_layer_and_after_a_step_all():
    decoder, (fused, linear_reconstruction) = decoder_of(8, (6, 4)), inputs_of(8)
    target = torch.rand(linear_reconstruction.shape, generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.SGD(decoder.parameters(), lr=1.0)
    before = F.mse_loss(decoder(fused, linear_reconstruction), target)
    before.backward()
    assert decoder.to_pixels.weight.grad.any()
    for _ in range(3):
        optimizer.step()
        optimizer.zero_grad()
        loss = F.mse_loss(decoder(fused, linear_reconstruction), target)
        loss.backward()
    assert float(loss.detach()) < float(before.detach())
    assert all(bool(p.grad.any()) for p in decoder.parameters())


@pytest.mark.parametrize(("stride", "widths"), [(8, (4, 4, 4, 4)), (14, (4, 4)), (1, (4,))])
def test_more_doublings_than_the_stride_has_are_an_error(stride, widths):
    with pytest.raises(ConfigError, match=f"{stride}, got {len(widths)}"):
        decoder_of(stride, widths)
