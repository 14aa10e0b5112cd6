"""Large maps in bands: the same values as the whole."""

import pytest
import torch

from pyramid_tokenizer import tokenizer
from pyramid_tokenizer.decoder import bands
from pyramid_tokenizer.decoder.pixels import PixelDecoder


@pytest.fixture
def decodes(toy_tokenizer, monkeypatch):
    """Decodes as a whole and in bands of one row of level 0; the decoder does something everywhere."""
    generator = torch.Generator().manual_seed(0)
    for part in (toy_tokenizer.trunk, toy_tokenizer.pixel_decoder):
        for parameter in part.parameters():
            parameter.data.normal_(0, 0.1, generator=generator)

    def both(tokens):
        whole = toy_tokenizer.decode(tokens)
        with monkeypatch.context() as small:
            small.setattr(bands, "BAND_FLOATS", 500)
            small.setattr(tokenizer, "BAND_PIXELS", 1)
            small.setattr(tokenizer, "HALOS_PER_BAND", 1)
            return whole, toy_tokenizer.decode(tokens)

    return both


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_images_decoded_in_bands_are_those_decoded_whole(decodes, toy_tokenizer, levels):
    tokens = toy_tokenizer.encode(torch.rand(2, 3, 250, 70))[:levels]
    whole, banded = decodes(tokens)
    assert banded.shape == (2, 3, 250, 70)
    assert torch.allclose(banded, whole, atol=1e-6)
    assert whole.std() > 0.05


def test_sparse_pyramids_too(decodes, toy_tokenizer):
    tokens = toy_tokenizer.encode(torch.rand(1, 3, 160, 64), max_tokens=60)
    assert tokens.is_sparse
    whole, banded = decodes(tokens)
    assert torch.allclose(banded, whole, atol=1e-6)


@pytest.mark.parametrize(("stride", "widths", "depth"), [(8, (4,), 2), (8, (4, 4), 1), (4, (), 1)])
def test_the_halo_of_the_pixel_decoder_is_enough(stride, widths, depth):
    decoder = PixelDecoder(in_channels=3, stride=stride, widths=widths, depth=depth).requires_grad_(False)
    for parameter in decoder.parameters():
        parameter.normal_(0, 0.5)
    fused, linear = torch.rand(1, 3, 16, 4), torch.rand(1, 3, 16 * stride, 4 * stride)
    before, fused = decoder(fused, linear), fused.clone()
    fused[:, :, 0] += 1  # the first row of cells
    changed = (decoder(fused, linear) != before).any(1).any(2)[0].nonzero()[-1]
    assert stride <= changed < stride + decoder.halo_px


def test_small_maps_and_maps_with_a_gradient_are_whole():
    seen = []
    x = torch.rand(1, 2, 5, 3)
    with torch.no_grad():
        bands.by_rows(lambda part: seen.append(part.shape) or part, x, halo=2)
    with pytest.MonkeyPatch.context() as small:
        small.setattr(bands, "BAND_FLOATS", 4)
        bands.by_rows(lambda part: seen.append(part.shape) or part, x, halo=2)
    assert seen == [(1, 2, 5, 3), (1, 2, 5, 3)]


def test_a_band_of_a_wide_image_has_more_rows_than_its_halo(toy_tokenizer, monkeypatch):
    seen = []

    def in_bands(run, *, rows, band, halo):
        seen.append((band, halo))
        return run(slice(0, rows))

    monkeypatch.setattr(tokenizer, "in_bands", in_bands)
    monkeypatch.setattr(tokenizer, "BAND_PIXELS", 1)
    toy_tokenizer.decode(toy_tokenizer.encode(torch.rand(1, 3, 32, 64)))
    ((band, halo),) = seen
    assert band == bands.HALOS_PER_BAND * halo >= 8
