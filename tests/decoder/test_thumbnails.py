import pytest
import torch
import torch.nn.functional as F

from pyramid_tokenizer.decoder.thumbnails import reduce_image, reduction_of
from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.tokenizer import PyramidTokenizer


@pytest.mark.parametrize("scale", [0, 2, 1 / 3, 1 / 16, -1, "1/2", None, True, float("nan")])
def test_other_scales_are_refused_and_named(scale):
    with pytest.raises(ConfigError, match="1/8"):
        reduction_of(scale)


@pytest.mark.parametrize(("scale", "reduction"), [(1, 4), (2, 4), (2, 2), (4, 2), (3, 2), (2, 8)])
def test_a_constant_image_stays_one_at_any_scale(scale, reduction):
    found = reduce_image(torch.full((1, 3, 5, 7), 0.25), scale=scale, reduction=reduction)
    assert found.shape == (1, 3, -(-5 * scale // reduction), -(-7 * scale // reduction))
    assert torch.allclose(found, torch.tensor(0.25))


@pytest.mark.parametrize("scale", [1 / 2, 1 / 4, 1 / 8])
@pytest.mark.parametrize("levels", [1, 2])
def test_thumbnails_are_close_to_a_reduced_linear_reconstruction_and_run_no_block(
    toy_tokenizer, scale, levels, monkeypatch
):
    tokens, reduction = toy_tokenizer.encode(torch.rand(2, 3, 40, 56))[:levels], round(1 / scale)
    linear = toy_tokenizer.quantizer.linear_reconstruction(toy_tokenizer.codes(tokens))
    reduced = F.avg_pool2d(linear.clamp(0, 1), reduction)[..., : 40 // reduction, : 56 // reduction]
    monkeypatch.setattr(toy_tokenizer.trunk, "forward", None)
    found = toy_tokenizer.decode(tokens, scale=scale)
    assert found.shape == (2, 3, 40 // reduction, 56 // reduction)
    assert F.mse_loss(found, reduced) < 10**-3  # 30 dB


@pytest.mark.slow
def test_thumbnails_of_the_bundled_model_are_close_to_a_reduced_full_decode():
    data = pytest.importorskip("skimage.data")
    tok = PyramidTokenizer.from_pretrained("tiny")
    for name in ("astronaut", "coffee"):
        tokens = tok.encode(getattr(data, name)(), size=256)
        full = tok.decode(tokens)
        for reduction in (2, 4, 8):
            found = tok.decode(tokens, scale=1 / reduction)
            assert F.mse_loss(found, F.avg_pool2d(full, reduction)) < 10**-3, (name, reduction)
