"""The names that the README promises, one by one. Saving and loading is in test_saving.py."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from pyramid_tokenizer.backbones import ToyBackbone
from pyramid_tokenizer.config.models import BackboneConfig, DecoderConfig, LevelConfig, QuantizerConfig, TokenizerConfig
from pyramid_tokenizer.errors import (
    ConfigError,
    DataError,
    ImageError,
    ImageValueError,
    MixedSizesError,
    NotFittedError,
    TokenError,
    TokenMismatchError,
    TokenRangeError,
    TokenSequenceError,
)
from pyramid_tokenizer.images.pixels import to_pil, to_uint8
from pyramid_tokenizer.text import TextEncoder
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from tests.operations import WAITS, operations


@pytest.fixture(scope="module")
def photo(smooth):
    """(3, 40, 56), of 8-bit values: the same pixels in every form an image can have."""
    return to_uint8(smooth(1, 40, 56, seed=9)[0]).float() / 255


@pytest.fixture(scope="module")
def other_tokenizer(toy_config, smooth):
    """Of the same config, fitted on other images."""
    tok = PyramidTokenizer.from_config(toy_config)
    tok.fit([smooth(16, seed=33)])
    return tok


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
    assert tokens.bits_per_pixel == pytest.approx((4 * 3 + 16 * 4 + 64 * 6) / (40 * 56))


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


@pytest.mark.parametrize("batch_size", [1, 2, 7])
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


def test_longer_prefixes_are_nearer_to_the_image(toy_config, smooth):
    tok = PyramidTokenizer.from_config(toy_config)
    tok.fit([smooth(24)])
    images = smooth(4, seed=3)
    tokens = tok.encode(images)
    errors = [float((tok.decode(tokens[:n]) - images).square().mean()) for n in (1, 2, 3)]
    assert errors[2] < 0.7 * errors[1] < 0.5 * errors[0]
    assert float((tok.reconstruct_continuous(images) - images).square().mean()) < 0.9 * errors[2]


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


def test_embeddings_have_unit_norm_for_every_prefix_and_differ_between_images(toy_tokenizer, smooth):
    tokens = toy_tokenizer.encode(smooth(4, seed=2))
    for n in (1, 2, 3):
        embedding = toy_tokenizer.embedding(tokens[:n])
        assert embedding.shape == (4, 16)
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(4))
        assert len(embedding.round(decimals=4).unique(dim=0)) == 4


def test_embeddings_of_tokens_lie_near_the_backbones_own(toy_config, smooth):
    tok = PyramidTokenizer.from_config(toy_config)
    tok.fit([smooth(32)])
    images = smooth(8, seed=4)
    embedding = tok.embedding(tok.encode(images))
    own = torch.nn.functional.normalize(tok.features(images, with_dense=True).embedding, dim=1)
    similarity = embedding @ own.T  # (8, 8)
    assert similarity.diagonal().mean() > similarity.mean() + 0.1


def test_similarities_are_cosines_of_the_embedding_with_the_texts_as_they_stand(toy_tokenizer, smooth):
    tokens, texts = toy_tokenizer.encode(smooth(4, seed=2)), ["a dog", "dog|cat", "a photo of the sea"]
    words = toy_tokenizer.backbone.encode_text(texts)
    for n in (1, 2, 3):
        found = toy_tokenizer.similarity(tokens[:n], texts)
        assert found.shape == (4, 3)
        torch.testing.assert_close(found, toy_tokenizer.embedding(tokens[:n]) @ words.T)
        assert found.abs().max() <= 1 + 1e-6


def test_an_image_is_of_the_class_whose_best_synonym_is_nearest(toy_tokenizer, smooth):
    tokens, names = toy_tokenizer.encode(smooth(6, seed=2)), ["car|automobile|bus", "dog", "sea|lake"]
    encoder = TextEncoder(toy_tokenizer.backbone)
    for n in (1, 2, 3):
        embedding = toy_tokenizer.embedding(tokens[:n])
        columns = [(embedding @ encoder.encode(name.split("|")).T).amax(1) for name in names]
        found = toy_tokenizer.classify(tokens[:n], names)
        torch.testing.assert_close(found.scores, torch.stack(columns, 1))
        assert torch.equal(found.labels, found.scores.argmax(1))
        assert found.names == ("car", "dog", "sea")
        order = [2, 0, 1]
        other = toy_tokenizer.classify(tokens[:n], [names[i] for i in order])
        assert torch.equal(torch.tensor(order)[other.labels], found.labels)


def test_plain_names_are_classified_as_their_similarities_say(toy_tokenizer, smooth):
    tokens, names = toy_tokenizer.encode(smooth(4, seed=2)), ["dog", "cat", "sea"]
    found = toy_tokenizer.classify(tokens, names, templates="plain")
    torch.testing.assert_close(found.scores, toy_tokenizer.similarity(tokens, names))
    assert not torch.allclose(found.scores, toy_tokenizer.classify(tokens, names).scores)


def test_words_that_cannot_be_asked_and_foreign_tokens_are_refused(toy_tokenizer, other_tokenizer, photo):
    tokens = toy_tokenizer.encode(photo)
    for call in (toy_tokenizer.classify, toy_tokenizer.similarity):
        with pytest.raises(ConfigError, match="as a list of texts, got the single one 'dog'"):
            call(tokens, "dog")
        with pytest.raises(ConfigError, match="a word in .*, got an empty one"):
            call(tokens, ["dog", ""])
        with pytest.raises(TokenMismatchError, match="expected tokens of tokenizer"):
            call(other_tokenizer.encode(photo), ["dog"])
    for names in ([], ["dog", "Dog"]):
        with pytest.raises(ConfigError):
            toy_tokenizer.classify(tokens, names)


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
    checked = (toy_tokenizer.decode, toy_tokenizer.embedding)  # for NaN, once, in what they return
    for call in (*checked, toy_tokenizer.codes, toy_tokenizer.fused):
        for part in (tokens, tokens[:1]):
            with operations() as counts:
                call(part)
            assert counts["embedding"] + counts["scatter_add_"] >= len(part)
            assert (counts[WAITS], counts["aminmax"]) == (int(call in checked), 0)


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


def test_an_unfitted_tokenizer_says_so(toy_config, photo, tmp_path):
    tok = PyramidTokenizer.from_config(toy_config)
    for call in (tok.encode, tok.reconstruct, tok.reconstruct_continuous, lambda image: tok.encode_many([image])):
        with pytest.raises(NotFittedError, match="call fit"):
            call(photo)
    ids = tuple(torch.zeros(1, 2**n, 2**n, dtype=torch.int64) for n in range(3))
    tokens = TokenPyramid(ids=ids, codebook_sizes=(8, 16, 64), image_size=(32, 32), fingerprint=tok.fingerprint)
    for call in (tok.decode, tok.codes, tok.embedding):
        with pytest.raises(NotFittedError, match="call fit"):
            call(tokens)
    with pytest.raises(NotFittedError, match="expected fitted codebooks to save"):
        tok.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_fingerprint_depends_on_the_seed_and_images_of_a_fit(toy_config, toy_tokenizer, other_tokenizer, smooth):
    again = PyramidTokenizer.from_config(toy_config)
    again.fit([smooth(16)])
    assert again.fingerprint == toy_tokenizer.fingerprint
    assert other_tokenizer.fingerprint != toy_tokenizer.fingerprint
    again.fit([smooth(16)], seed=1)
    assert again.fingerprint != toy_tokenizer.fingerprint


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
    config = dataclasses.replace(toy_config, quantizer=QuantizerConfig(levels=levels))
    tok = PyramidTokenizer.from_config(config)
    tok.load_own(toy_tokenizer.own_tensors())
    assert tok.fingerprint != toy_tokenizer.fingerprint


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
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


def small_config(*levels, composition="residual"):
    decoder = DecoderConfig(widths=(4,) * len(levels), depths=(1,) * len(levels), pixel_widths=(4,), pixel_depth=0)
    quantizer = QuantizerConfig(levels=levels, composition=composition)
    return TokenizerConfig(backbone=BackboneConfig(kind="toy"), quantizer=quantizer, decoder=decoder)


@pytest.mark.parametrize(("size", "composition"), [((1, 1), "residual"), ((17, 40), "bottom_up"), ((64, 64), "none")])
def test_levels_finer_than_the_backbones_coarsest_map_cover_the_image_and_no_more(smooth, size, composition):
    # the toy backbone asks for multiples of 32 px, these levels for multiples of 16
    levels = (
        LevelConfig(stride=16, maps=(1,), codebook_size=8, dim=4),
        LevelConfig(stride=8, maps=(2,), codebook_size=16, dim=4),
    )
    tok = PyramidTokenizer.from_config(small_config(*levels, composition=composition))
    assert tok.multiple_px == 32
    tok.fit([smooth(8)])
    images = smooth(2, *size)
    tokens = tok.encode(images)
    cells = tuple(-(-side // 16) for side in size)
    assert tokens.grids == (cells, (cells[0] * 2, cells[1] * 2))
    assert tok.vocabulary.unflatten(tok.vocabulary.flatten(tokens)) == tokens
    assert tok.decode(tokens).shape == images.shape
    assert tok.reconstruct_continuous(images).shape == images.shape


def test_levels_coarser_than_the_backbone_pad_to_their_own_stride(smooth):
    tok = PyramidTokenizer.from_config(
        small_config(
            LevelConfig(stride=64, maps=(0,), codebook_size=4, dim=4),
            LevelConfig(stride=16, maps=(1,), codebook_size=8, dim=4),
        )
    )
    tok.fit([smooth(8)])
    assert tok.encode(smooth(1, 40, 70)).grids == ((1, 2), (4, 8))


def test_fit_takes_lists_and_functions_and_gives_reports(toy_config, toy_tokenizer, smooth):
    images = smooth(16)
    tok = PyramidTokenizer.from_config(toy_config)
    reports = tok.fit(lambda: iter(images.split(16)))
    assert [report.level for report in reports] == [0, 1, 2]
    assert tok.fingerprint == toy_tokenizer.fingerprint
    assert tok.fit([list(images)]) == reports  # a batch may be a list of images, as for encode


def test_fit_pads_odd_sizes(toy_config, smooth):
    tok = PyramidTokenizer.from_config(toy_config)
    tok.fit([smooth(8, 33, 70), smooth(4, 64, 50)])
    assert tok.quantizer.is_fitted


def test_fit_refuses_what_can_be_read_only_once(toy_config, smooth):
    tok = PyramidTokenizer.from_config(toy_config)
    generator = iter(smooth(16).split(4))
    with pytest.raises(DataError, match="got an iterator"):
        tok.fit(generator)
    with pytest.raises(DataError, match="got an iterator"):
        tok.fit(batch for batch in smooth(16).split(4))
    assert len(list(generator)) == 4  # nothing was read
    once = iter(smooth(16).split(4))
    with pytest.raises(DataError, match="level 1, got none: .* read once per level"):
        tok.fit(lambda: once)
    with pytest.raises(DataError, match="empty list"):
        tok.fit([])
    with pytest.raises(DataError, match="level 0, got none"):
        tok.fit(list)
    with pytest.raises(ImageError):
        tok.fit([torch.zeros(1, 2, 8, 8)])


def test_a_backbone_that_does_not_fit_the_levels_is_an_error():
    with pytest.raises(ConfigError, match=r"expected maps in \[0, 4\), got 4"):
        PyramidTokenizer.from_config(small_config(LevelConfig(stride=8, maps=(4,), codebook_size=8, dim=4)))


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


def test_size_for_tokens_is_ignored_with_a_warning_at_the_callers_line(toy_tokenizer, photo):
    tokens = toy_tokenizer.encode(photo)
    for call in (toy_tokenizer.classify, toy_tokenizer.similarity):
        with pytest.warns(UserWarning, match="size=64 is ignored") as caught:
            call(tokens, ["dog"], size=64)
        assert caught[0].filename == __file__


def test_fitting_on_identical_images_fails_at_the_first_level_after_one_run_of_the_backbone(toy_config, monkeypatch):
    tok, runs = PyramidTokenizer.from_config(toy_config), []
    forward = tok.backbone.forward
    monkeypatch.setattr(tok.backbone, "forward", lambda *a, **k: runs.append(1) or forward(*a, **k))
    with pytest.raises(DataError, match=r"different cells .* level 0, got 1 in"):
        tok.fit([torch.full((3, 64, 64), 0.5)] * 3, num_crops=64, crop_px=64)
    assert len(runs) == 1
