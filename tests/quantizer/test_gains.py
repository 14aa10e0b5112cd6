"""What tokens save, against decoding with and without them."""

import pytest
import torch

from pyramid_tokenizer.quantizer.gains import estimate_gains, measure_gains


@torch.no_grad()
def linear(tok, tokens):
    height, width = tokens.image_size
    return tok.quantizer.linear_reconstruction(tok.codes(tokens), tok.present(tokens))[..., :height, :width]


@pytest.mark.parametrize("size", [(64, 64), (40, 56)], ids=["whole cells", "padded"])
def test_gains_add_up_to_what_levels_save(toy_tokenizer, smooth, size):
    images = smooth(2, *size, seed=4)
    tokens = toy_tokenizer.encode(images)
    gains = measure_gains(toy_tokenizer.quantizer, tokens.ids, images)
    errors = [(linear(toy_tokenizer, tokens[:n]) - images).square().flatten(1).sum(1) for n in (1, 2, 3)]
    torch.testing.assert_close(gains.error, errors[0])
    for level in (0, 1):
        torch.testing.assert_close(gains.saved[level].flatten(1).sum(1), errors[level] - errors[level + 1])
        assert gains.saved[level].shape == tokens.ids[level].shape


def test_a_gain_belongs_to_the_place_where_the_tokens_are(toy_tokenizer, smooth):
    images = smooth(1, 64, 64, seed=5)
    tokens = toy_tokenizer.encode(images)
    changed = images.clone()
    changed[..., 48:, 32:48] += 0.1  # below cell (3, 2) of level 1
    before, after = (measure_gains(toy_tokenizer.quantizer, tokens.ids, x).saved[1] for x in (images, changed))
    assert (before != after).nonzero().tolist() == [[0, 3, 2]]


def test_estimates_need_no_image_and_order_the_splits_much_alike(toy_tokenizer, smooth):
    images = smooth(8, 64, 64, seed=6)
    tokens = toy_tokenizer.encode(images)
    measured = measure_gains(toy_tokenizer.quantizer, tokens.ids, images)
    estimated = estimate_gains(toy_tokenizer.quantizer, tokens.ids, tokens.image_size)
    for one, other in zip(measured.saved, estimated.saved, strict=True):
        assert bool((other >= 0).all())
        assert float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) > 0.5
