"""As many tokens as an image needs: budgets of tokens, quality and error, and what reads the sparse pyramids."""

import warnings

import pytest
import torch

from pyramid_tokenizer.backbones.features import enlarge
from pyramid_tokenizer.errors import ConfigError, ImageValueError, TokenError, TokenRangeError
from pyramid_tokenizer.quantizer.nearest import gather_rows
from pyramid_tokenizer.segmentation.segmenter import Segmenter
from pyramid_tokenizer.tokens.pyramid import TokenPyramid


def psnr(images, others):
    return -10 * torch.log10((images - others).square().flatten(1).mean(1))


@pytest.fixture(scope="module")
def images(smooth):
    """Three images of 40 x 56 px, the first of which is flat."""
    found = smooth(3, 40, 56, seed=8)
    found[0] = 0.5
    return found


@pytest.mark.parametrize("most", [6, 9, 22, 57, 86, 1000])
def test_max_tokens_is_never_exceeded_and_used_up(toy_tokenizer, images, most):
    tokens = toy_tokenizer.encode(images, max_tokens=most)
    counts = tokens.token_counts
    assert int(counts.max()) <= most
    assert int(counts.min()) > min(most, 86) - 4
    assert len(tokens) == 3
    assert tokens.ids[0].min() >= 0


def test_everything_is_the_full_pyramid_and_nothing_is_level_0(toy_tokenizer, images):
    full = toy_tokenizer.encode(images)
    assert toy_tokenizer.encode(images, quality=1.0) == full
    none = toy_tokenizer.encode(images, quality=0.0)
    assert none.token_counts.tolist() == [6, 6, 6]  # four cells of level 0, two image tokens
    torch.testing.assert_close(toy_tokenizer.decode(none), toy_tokenizer.decode(full[:1]))


def test_one_quality_gives_complex_images_more_tokens_whatever_batch_they_are_in(toy_tokenizer, images):
    tokens = toy_tokenizer.encode(images, quality=0.2)
    flat, one, other = tokens.token_counts.tolist()
    assert flat < min(one, other)
    assert TokenPyramid.cat([toy_tokenizer.encode(image, quality=0.2) for image in images]) == tokens
    assert [t.num_tokens for t in toy_tokenizer.encode_many(images, quality=0.2)] == [flat, one, other]


def test_a_target_is_reached_with_fewer_tokens_or_told(toy_tokenizer, smooth):
    images = smooth(2, 64, 64, seed=9)
    most, least = (psnr(toy_tokenizer.decode(toy_tokenizer.encode(images, quality=q)), images) for q in (1.0, 0.0))
    target = float((most + least).min() / 2)
    tokens = toy_tokenizer.encode(images, target_psnr=target)
    reached = psnr(toy_tokenizer.decode(tokens), images)
    assert bool((reached > target - 0.5).all())
    assert tokens.num_tokens < 86
    with pytest.warns(UserWarning, match="all its 86 tokens, not 45 dB") as told:
        unreached = toy_tokenizer.encode(images, target_psnr=45)
    assert [str(warning.message)[:8] for warning in told] == ["image 0 ", "image 1 "]
    assert unreached == toy_tokenizer.encode(images)


def test_stored_pyramids_are_thinned_without_their_images(toy_tokenizer, images):
    full = toy_tokenizer.encode(images)
    gains = toy_tokenizer.gains(full, images)
    assert toy_tokenizer.thin(full, gains, max_tokens=30) == toy_tokenizer.encode(images, max_tokens=30)
    assert toy_tokenizer.thin(full, gains, quality=0.4) == toy_tokenizer.encode(images, quality=0.4)
    each = [toy_tokenizer.thin(t, g, max_tokens=30) for t, g in zip(full.unbind(), gains.unbind(), strict=True)]
    assert TokenPyramid.cat(each) == toy_tokenizer.thin(full, gains, max_tokens=30)
    assert toy_tokenizer.thin(full, max_tokens=30).num_tokens <= 30


def test_without_images_a_target_is_that_of_the_linear_reconstruction(toy_tokenizer, smooth):
    images = smooth(2, 64, 64, seed=10)
    full = toy_tokenizer.encode(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokens = toy_tokenizer.thin(full, toy_tokenizer.gains(full, images), target_psnr=16)
    linear = toy_tokenizer.quantizer.linear_reconstruction(toy_tokenizer.codes(tokens), toy_tokenizer.present(tokens))
    assert bool((psnr(linear, images) > 15.5).all())


def test_an_absent_token_adds_nothing_to_pixels_and_words(toy_tokenizer, images):
    full = toy_tokenizer.encode(images)
    root = toy_tokenizer.encode(images, quality=0.0)
    quantizer = toy_tokenizer.quantizer
    linear = quantizer.linear_reconstruction(toy_tokenizer.codes(root), toy_tokenizer.present(root))
    torch.testing.assert_close(linear, quantizer.linear_reconstruction(toy_tokenizer.codes(full[:1])))
    torch.testing.assert_close(toy_tokenizer.embedding(root), toy_tokenizer.embedding(full[:1]))


def test_tokens_that_are_there_are_read_as_in_the_full_pyramid(toy_tokenizer, images):
    """Half of an image keeps its tokens: far from the border between the halves, nothing changes."""
    images = torch.nn.functional.interpolate(images, (64, 512))
    full = toy_tokenizer.encode(images)
    ids = [level.clone() for level in full.ids]
    for level in ids[1:]:
        level[..., level.shape[-1] // 2 :] = -1
    half = toy_tokenizer.tokens(ids, image_size=full.image_size)
    torch.testing.assert_close(toy_tokenizer.decode(half)[..., :128], toy_tokenizer.decode(full)[..., :128])
    torch.testing.assert_close(toy_tokenizer.decode(half)[..., -128:], toy_tokenizer.decode(full[:1])[..., -128:])
    for n in (1, 2):
        assert toy_tokenizer.decode(half[:n]).shape == images.shape


@pytest.mark.parametrize("mode", ["lookup", "decoder"])
def test_masks_are_those_of_the_levels_that_are_there(toy_tokenizer, images, mode):
    from pyramid_tokenizer.config.models import SegmentationConfig
    from pyramid_tokenizer.training.segmentation import new_segmenter

    seg = (
        new_segmenter(toy_tokenizer, SegmentationConfig(width=8, depth=1))
        if mode == "decoder"
        else Segmenter(toy_tokenizer)
    )
    names = ["sky", "tree", "water"]
    root = toy_tokenizer.encode(images, quality=0.0)
    found, coarse = seg.guidance(root), gather_rows(toy_tokenizer.quantizer.weighted_text_embeddings(), root.ids[:1])
    torch.testing.assert_close(found.lookup, enlarge(enlarge(coarse, 2), 2))  # level by level
    for sparse, prefix in zip(found.fused, seg.guidance(root[:1]).fused, strict=True):
        torch.testing.assert_close(sparse, prefix)
    assert seg.segment(toy_tokenizer.encode(images, max_tokens=40), names, mode=mode).labels.shape == (3, 40, 56)


def test_a_detail_level_opens_where_it_is_asked_for(detailed_tokenizer, images):
    tok = detailed_tokenizer
    full = tok.encode(images)
    assert len(full) == 2
    deep = tok.encode(images, levels=3)
    assert deep[:2] == full and deep.grids[2] == (12, 16)
    assert len(tok.encode(images, max_tokens=100)) == 3
    assert len(tok.encode(images, max_tokens=20, levels=2)) == 2
    assert psnr(tok.decode(deep), images)[1] != psnr(tok.decode(full), images)[1]
    torch.testing.assert_close(tok.embedding(deep), tok.embedding(full))
    labels = Segmenter(tok).segment(deep, ["sky", "tree"], resolution="cells").labels
    assert torch.equal(labels, Segmenter(tok).segment(full, ["sky", "tree"], resolution="cells").labels)
    assert [f.shape[-1] for f in tok.fused(deep)] == [4, 8]
    assert TokenPyramid.from_bytes(tok.encode(images, quality=0.5).to_bytes()) == tok.encode(images, quality=0.5)


def test_a_detailed_model_is_saved_whole(detailed_tokenizer, images, tmp_path):
    detailed_tokenizer.save_pretrained(tmp_path)
    loaded = type(detailed_tokenizer).from_pretrained(tmp_path)
    assert loaded.quantizer.base_levels == 2
    assert loaded.encode(images, levels=3) == detailed_tokenizer.encode(images, levels=3)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_tokens": 5, "quality": 0.5}, "expected one of max_tokens, target_psnr and quality"),
        ({"max_tokens": 5, "target_psnr": 20}, "leave out the others"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2.5}, "max_tokens"),
        ({"target_psnr": 5}, "expected target_psnr from 10 to 60, got 5"),
        ({"target_psnr": float("nan")}, "expected target_psnr from 10 to 60"),
        ({"quality": 1.5}, r"expected quality from 0 to 1, got 1\.5"),
        ({"quality": "high"}, "quality"),
        ({"levels": 4}, "expected levels from 1 to 3, got 4"),
        ({"levels": 0, "quality": 0.5}, "expected levels from 1 to 3, got 0"),
    ],
)
def test_limits_that_none_can_mean_are_refused(toy_tokenizer, images, limits, message):
    with pytest.raises(ConfigError, match=message):
        toy_tokenizer.encode(images, **limits)


def test_a_budget_below_level_0_is_refused(toy_tokenizer, images):
    with pytest.raises(TokenRangeError, match=r"expected max_tokens of 6 or more, .* got 5"):
        toy_tokenizer.encode(images, max_tokens=5)


def test_what_cannot_be_thinned_is_told(toy_tokenizer, images):
    full = toy_tokenizer.encode(images)
    sparse = toy_tokenizer.encode(images, max_tokens=20)
    with pytest.raises(ConfigError, match="expected one of max_tokens and quality"):
        toy_tokenizer.thin(full)
    with pytest.raises(ConfigError, match="give one, with gains for target_psnr"):
        toy_tokenizer.thin(full, target_psnr=20)
    with pytest.raises(TokenError, match="expected full pyramids"):
        toy_tokenizer.thin(sparse, max_tokens=10)
    with pytest.raises(
        ImageValueError, match=r"expected the images of the tokens, \(3, 3, 40, 56\), got \(2, 3, 40, 56\)"
    ):
        toy_tokenizer.gains(full, images[:2])
