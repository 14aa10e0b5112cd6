"""The names that the README promises, one by one: images to tokens and back. Words and fits are in files of their own."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image

from pyramid_tokenizer.backbones import ToyBackbone
from pyramid_tokenizer.errors import (
    ImageValueError,
    MixedSizesError,
    TokenError,
    TokenMismatchError,
    TokenRangeError,
    TokenSequenceError,
)
from pyramid_tokenizer.images.pixels import to_pil, to_uint8
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from tests.operations import WAITS, operations


def test_an_image_has_the_same_tokens_in_every_form(toy_tokenizer, photo, tmp_path):
    tokens = toy_tokenizer.encode(photo)
    pil = to_pil(photo)[0]
    pil.save(tmp_path / "photo.png")
    forms = [pil, tmp_path / "photo.png", str(tmp_path / "photo.png"), np.asarray(pil), photo[None], [photo], (pil,)]
    for form in forms:
        assert toy_tokenizer.encode(form) == tokens


def test_tokens_tell_their_grids_sizes_and_maker(toy_tokenizer, photo):
    tokens = toy_tokenizer.encode(photo)
    assert len(tokens) == 3
    assert tokens.grids == ((2, 2), (4, 4), (8, 8))  # 40 x 56 px padded to 64 x 64
    assert tokens.image_size == (40, 56)
    assert tokens.codebook_sizes == (8, 16, 64)
    assert tokens.fingerprint == toy_tokenizer.fingerprint
    assert tokens.bits_per_pixel == pytest.approx((4 * 3 + 16 * 4 + 64 * 6 + math.log2(5 * 3)) / (40 * 56))


def test_a_batch_has_the_tokens_of_its_images(toy_tokenizer, smooth):
    images = smooth(5, 40, 56)
    tokens = toy_tokenizer.encode(images)
    assert TokenPyramid.cat(toy_tokenizer.encode(image) for image in images) == tokens
    assert toy_tokenizer.encode(list(images)) == tokens


def test_size_resizes_the_short_side_first(toy_tokenizer, photo):
    tokens = toy_tokenizer.encode(photo, size=80)
    assert tokens.image_size == (80, 112)
    assert toy_tokenizer.decode(tokens).shape == (1, 3, 80, 112)


def test_images_of_several_sizes_are_refused_with_a_cure(toy_tokenizer, smooth):
    with pytest.raises(MixedSizesError, match="use encode_many"):
        toy_tokenizer.encode([smooth(1)[0], smooth(1, 40, 56)[0]])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.full((3, 8, 8), float("nan")), "expected finite pixels"),
        (torch.full((3, 8, 8), 200.0), r"in \[0, 1\], got values from 200"),
        (torch.zeros(3, 8, 8, dtype=torch.int32), "int32"),
        (torch.zeros(8, 8, 3), "channels come last"),
        ([], "at least one image"),
    ],
)
def test_what_is_no_image_is_refused(toy_tokenizer, image, message):
    with pytest.raises(ImageValueError, match=message):
        toy_tokenizer.encode(image)


def test_8_bit_tensors_and_arrays_have_the_same_tokens(toy_tokenizer, smooth):
    tensors = to_uint8(smooth(2, 40, 56))
    arrays = [tensor.permute(1, 2, 0).numpy() for tensor in tensors]
    expected = toy_tokenizer.encode(arrays)
    assert toy_tokenizer.encode(tensors) == expected
    assert TokenPyramid.cat(toy_tokenizer.encode_many(tensors)) == expected
    assert torch.equal(toy_tokenizer.reconstruct(tensors), toy_tokenizer.reconstruct(arrays))


@pytest.mark.parametrize("batch_size", [2, *(pytest.param(size, marks=pytest.mark.slow) for size in (1, 7))])
def test_encode_many_keeps_the_order_of_images_of_mixed_sizes(toy_tokenizer, smooth, batch_size):
    sizes = [(40, 56), (32, 32), (40, 56), (9, 70), (32, 32), (40, 56), (56, 40), (32, 32)]
    images = [smooth(1, *size, seed=i)[0] for i, size in enumerate(sizes)]
    expected = [toy_tokenizer.encode(image) for image in images]
    assert toy_tokenizer.encode_many(images, batch_size=batch_size) == expected
    assert toy_tokenizer.encode_many((image for image in images), batch_size=batch_size) == expected


def test_encode_many_takes_batches_and_resizes(toy_tokenizer, smooth):
    batch = smooth(3)
    assert toy_tokenizer.encode_many(batch) == toy_tokenizer.encode(batch).unbind()
    assert [t.image_size for t in toy_tokenizer.encode_many(list(batch), size=32)] == [(32, 32)] * 3
    assert toy_tokenizer.encode_many([]) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 32), (47, 101), (64, 96)])
def test_every_prefix_decodes_at_the_original_size(toy_tokenizer, smooth, size):
    images = smooth(2, *size)
    tokens = toy_tokenizer.encode(images)
    for n in (1, 2, 3):
        decoded = toy_tokenizer.decode(tokens[:n])
        assert decoded.shape == images.shape
        assert decoded.dtype == torch.float32
        assert decoded.min() >= 0
        assert decoded.max() <= 1
        assert not decoded.requires_grad


def test_an_untrained_decoder_shows_the_linear_reconstruction(toy_config, smooth):
    tok = PyramidTokenizer.from_config(toy_config)
    tok.fit([smooth(16)])
    tokens = tok.encode(smooth(2, seed=3))
    for n in (1, 2, 3):
        assert torch.equal(
            tok.decode(tokens[:n]), tok.quantizer.linear_reconstruction(tok.codes(tokens[:n])).clamp(0, 1)
        )


def test_a_reconstruction_is_the_decoded_encoding(toy_tokenizer, photo):
    assert torch.equal(toy_tokenizer.reconstruct(photo), toy_tokenizer.decode(toy_tokenizer.encode(photo)))
    assert toy_tokenizer.reconstruct_continuous(photo).shape == (1, 3, 40, 56)


def test_an_image_decodes_the_same_in_a_batch(toy_tokenizer, smooth):
    tokens = toy_tokenizer.encode(smooth(3))
    together = toy_tokenizer.decode(tokens)
    for one, image in zip(tokens.unbind(), together, strict=True):
        torch.testing.assert_close(toy_tokenizer.decode(one)[0], image, rtol=0, atol=1e-5)


def test_codes_are_codebook_vectors_per_level(toy_tokenizer, photo):
    tokens = toy_tokenizer.encode(photo)
    codes = toy_tokenizer.codes(tokens)
    assert [tuple(c.shape) for c in codes] == [(1, 6, 2, 2), (1, 6, 4, 4), (1, 6, 8, 8)]
    for level in range(3):
        codebook = toy_tokenizer.quantizer.level(level).codebook
        assert torch.equal(codes[level][0, :, 1, 0], codebook[tokens.ids[level][0, 1, 0]])
    assert len(toy_tokenizer.codes(tokens[:2])) == 2


def test_health_counts_the_tokens_of_this_tokenizer(toy_tokenizer, other_tokenizer, smooth):
    tokens = [toy_tokenizer.encode(smooth(2)), toy_tokenizer.encode(smooth(1, 40, 56))]
    health = toy_tokenizer.health(tokens)
    assert health.num_images == 3
    assert [level.num_tokens for level in health.levels] == [12, 48, 192]
    assert toy_tokenizer.health(iter(tokens)).num_images == 3
    assert toy_tokenizer.health(tokens[0]).num_images == 2
    with pytest.raises(TokenMismatchError, match="expected tokens of tokenizer"):
        other_tokenizer.health(tokens)
    for nothing in ([], [1]):
        with pytest.raises(TokenError):
            toy_tokenizer.health(nothing)


def test_tokens_survive_the_vocabulary_at_odd_sizes(toy_tokenizer, smooth):
    vocabulary = toy_tokenizer.vocabulary
    for size in ((1, 1), (40, 56), (64, 64)):
        tokens = toy_tokenizer.encode(smooth(2, *size))
        for n in (1, 2, 3):
            sequence = vocabulary.flatten(tokens[:n])
            assert sequence.shape == (2, vocabulary.sequence_length(size, n))
            assert vocabulary.unflatten(sequence) == tokens[:n]
            assert torch.equal(toy_tokenizer.decode(vocabulary.unflatten(sequence)), toy_tokenizer.decode(tokens[:n]))
    with pytest.raises(TokenSequenceError):
        vocabulary.unflatten(sequence[:, :-1])


def test_tokens_survive_bytes(toy_tokenizer, photo):
    tokens = toy_tokenizer.encode(photo)
    assert torch.equal(toy_tokenizer.decode(TokenPyramid.from_bytes(tokens.to_bytes())), toy_tokenizer.decode(tokens))


def test_tokens_of_another_tokenizer_are_refused(toy_tokenizer, other_tokenizer, photo):
    tokens = other_tokenizer.encode(photo)
    for call in (toy_tokenizer.decode, toy_tokenizer.codes, toy_tokenizer.embedding, toy_tokenizer.health):
        with pytest.raises(TokenMismatchError, match=f"got tokens of {tokens.fingerprint[:12]}: load the tokenizer"):
            call(tokens)


def test_decoding_never_waits_for_the_values_of_ids(toy_tokenizer, photo):
    tokens = toy_tokenizer.encode(photo)
    once = (toy_tokenizer.decode, toy_tokenizer.embedding, toy_tokenizer.codes)
    for call in (
        *once,
        toy_tokenizer.fused,
    ):  # what they return is checked for NaN, and so are the codes that are fused
        for part in (tokens, tokens[:1]):
            with operations() as counts:
                call(part)
            assert counts["embedding"] + counts["scatter_add_"] >= len(part)
            assert (counts[WAITS], counts["aminmax"]) == (1 if call in once else 2, 0)


def test_tokens_that_no_encoder_made_are_refused(toy_tokenizer, photo):
    tokens = toy_tokenizer.encode(photo)
    larger = dataclasses.replace(tokens, image_size=(80, 80))
    with pytest.raises(TokenRangeError, match=r"for images of \(80, 80\) px"):
        toy_tokenizer.decode(larger)
    skipped = dataclasses.replace(
        tokens, ids=(tokens.ids[0], tokens.ids[2]), codebook_sizes=(8, 64), image_size=(64, 64)
    )
    with pytest.raises(TokenRangeError, match="give the tokens of one encode"):
        toy_tokenizer.decode(skipped)
    high = dataclasses.replace(tokens, ids=(tokens.ids[0] * 0 + 20, *tokens.ids[1:]), codebook_sizes=(99, 16, 64))
    with pytest.raises(TokenRangeError, match=r"\(8, 16, 64\).* got \(99, 16, 64\)"):
        toy_tokenizer.decode(high)


def test_the_fingerprint_does_not_depend_on_the_decoder_or_dtype(toy_tokenizer):
    tok = copy.deepcopy(toy_tokenizer)
    for part in (tok.trunk, tok.pixel_decoder):
        for parameter in part.parameters():
            parameter.add_(1)
    tok.quantizer.level(2).text_readout.weight.add_(1)
    tok.quantizer.level(2).pixel_readout.weight.add_(1)  # the finest level's: no level sees it
    assert tok.update_fingerprint() == toy_tokenizer.fingerprint
    assert tok.to(torch.bfloat16).update_fingerprint() == toy_tokenizer.fingerprint
    tok.quantizer.level(0).codebook[0, 0] += 1e-3
    assert tok.update_fingerprint() == tok.fingerprint != toy_tokenizer.fingerprint


def test_the_fingerprint_depends_on_how_the_nearest_entry_is_found(toy_tokenizer, toy_config):
    levels = (
        dataclasses.replace(toy_config.quantizer.levels[0], distance="euclidean"),
        *toy_config.quantizer.levels[1:],
    )
    config = dataclasses.replace(toy_config, quantizer=dataclasses.replace(toy_config.quantizer, levels=levels))
    tok = PyramidTokenizer.from_config(config)
    tok.load_own(toy_tokenizer.own_tensors())
    assert tok.fingerprint != toy_tokenizer.fingerprint


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)])
def test_a_cast_changes_backbone_and_decoder_alone(toy_tokenizer, dtype, smooth):
    tok = copy.deepcopy(toy_tokenizer).to(dtype)
    assert tok.dtype == dtype
    name = str(dtype).removeprefix("torch.")
    assert {t.dtype for t in tok.quantizer.state_dict().values()} == {torch.float32}
    images = smooth(4, seed=1)
    exact, cast = toy_tokenizer.encode(images), tok.encode(images)
    assert (exact.precision, cast.precision) == ("float32", name)
    with pytest.raises(TokenMismatchError, match=f"float32.*{name}"):
        TokenPyramid.cat([exact, cast])
    same = sum(int((a == b).sum()) for a, b in zip(exact.ids, cast.ids, strict=True))
    assert same / (4 * exact.num_tokens) > 0.97
    decoded = tok.decode(exact)
    unknown = tok.vocabulary.unflatten(tok.vocabulary.flatten(exact))
    assert unknown.precision is None
    assert torch.equal(tok.decode(unknown), decoded)
    assert decoded.dtype == torch.float32
    torch.testing.assert_close(decoded, toy_tokenizer.decode(exact), rtol=0, atol=0.02)


def test_nothing_trains_and_nothing_records_gradients(toy_tokenizer, photo):
    assert not toy_tokenizer.training
    assert not any(p.requires_grad for p in toy_tokenizer.parameters())
    tokens = toy_tokenizer.encode(photo.clone().requires_grad_(True))
    assert not toy_tokenizer.decode(tokens).requires_grad
    assert not toy_tokenizer.embedding(tokens).requires_grad


def test_the_backbone_is_callable_on_a_batch(toy_tokenizer, smooth):
    features = toy_tokenizer.backbone(smooth(2))
    assert [tuple(m.shape) for m in features.maps] == [(2, 32, 2, 2), (2, 24, 4, 4), (2, 16, 8, 8), (2, 8, 16, 16)]


def test_a_ready_backbone_can_be_given(toy_config, toy_tokenizer):
    tower = ToyBackbone()
    tok = PyramidTokenizer.from_config(toy_config, backbone=tower)
    assert tok.backbone is tower
    assert sorted(tok.own_tensors()) == sorted(toy_tokenizer.own_tensors())


def test_images_with_alpha_grey_and_palette_have_tokens(toy_tokenizer, photo):
    pil = to_pil(photo)[0]
    for mode in ("L", "LA", "RGBA", "P", "CMYK", "1", "I;16"):
        image = pil.convert("L").convert(mode) if mode == "I;16" else pil.convert(mode)
        assert toy_tokenizer.encode(image).image_size == (40, 56)
    opaque = Image.merge("RGBA", (*pil.split(), Image.new("L", pil.size, 255)))
    assert toy_tokenizer.encode(opaque) == toy_tokenizer.encode(photo)


def test_forward_is_reconstruction(toy_tokenizer, photo):
    assert torch.equal(toy_tokenizer(photo), toy_tokenizer.reconstruct(photo))


def test_the_repr_fits_a_screen_and_tells_levels_rate_fingerprint_device_and_dtype(toy_tokenizer):
    shown = repr(toy_tokenizer)
    assert len(shown.splitlines()) <= 8
    facts = ("toy", "32", "16", "64", "bits per pixel", toy_tokenizer.fingerprint[:12], "cpu", "float32")
    assert [fact for fact in facts if fact not in shown] == []


def test_the_repr_marks_detail_levels_and_tells_the_rate_without_them(detailed_tokenizer, smooth):
    rows = repr(detailed_tokenizer).splitlines()
    assert ["detail" in row for row in rows[2:5]] == [False, False, True]
    assert rows[5].split()[0] == f"{detailed_tokenizer.encode(smooth(1)).bits_per_pixel:.3g}"
