"""The tokenizer before, during and after a fit."""

import pytest
import torch

from pyramid_tokenizer.config.models import BackboneConfig, DecoderConfig, LevelConfig, QuantizerConfig, TokenizerConfig
from pyramid_tokenizer.config.training import TrainConfig
from pyramid_tokenizer.errors import (
    ConfigError,
    DataError,
    ImageError,
    NotFittedError,
)
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.training import train


def test_longer_prefixes_are_nearer_to_the_image(toy_config, smooth):
    tok = PyramidTokenizer.from_config(toy_config)
    tok.fit([smooth(24)])
    images = smooth(4, seed=3)
    tokens = tok.encode(images)
    errors = [float((tok.decode(tokens[:n]) - images).square().mean()) for n in (1, 2, 3)]
    assert errors[2] < 0.7 * errors[1] < 0.5 * errors[0]
    assert float((tok.reconstruct_continuous(images) - images).square().mean()) < 0.9 * errors[2]


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


def small_config(*levels, composition="residual"):
    decoder = DecoderConfig(widths=(4,) * len(levels), depths=(1,) * len(levels), pixel_widths=(4,), pixel_depth=0)
    quantizer = QuantizerConfig(levels=levels, composition=composition)
    return TokenizerConfig(backbone=BackboneConfig(kind="toy"), quantizer=quantizer, decoder=decoder)


@pytest.mark.parametrize(
    ("size", "composition"),
    [
        ((17, 40), "bottom_up"),
        pytest.param((1, 1), "residual", marks=pytest.mark.slow),
        pytest.param((64, 64), "none", marks=pytest.mark.slow),
    ],
)
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
    with pytest.raises(DataError, match="empty list"):
        tok.fit([])
    with pytest.raises(DataError, match="level 0, got none"):
        tok.fit(list)
    with pytest.raises(ImageError):
        tok.fit([torch.zeros(1, 2, 8, 8)])


def test_a_backbone_that_does_not_fit_the_levels_is_an_error():
    with pytest.raises(ConfigError, match=r"expected maps in \[0, 4\), got 4"):
        PyramidTokenizer.from_config(small_config(LevelConfig(stride=8, maps=(4,), codebook_size=8, dim=4)))


def test_fitting_on_identical_images_fails_at_the_first_level_after_one_run_of_the_backbone(toy_config, monkeypatch):
    tok, runs = PyramidTokenizer.from_config(toy_config), []
    forward = tok.backbone.forward
    monkeypatch.setattr(tok.backbone, "forward", lambda *a, **k: runs.append(1) or forward(*a, **k))
    with pytest.raises(DataError, match=r"different cells .* level 0, got 1 in"):
        tok.fit([torch.full((3, 64, 64), 0.5)] * 3, num_crops=64, crop_px=64)
    assert len(runs) == 1


@pytest.mark.parametrize("counted", [True, False])
def test_a_fit_tells_its_stages_and_a_share_that_never_falls_and_ends_at_one(toy_config, smooth, counted):
    batches, told = smooth(4).split(1), []
    source = list(batches) if counted else lambda: iter(batches)
    tok = PyramidTokenizer.from_config(toy_config)
    tok.fit(source, progress=lambda stage, share: told.append((stage, share)))
    stages = ["backbone", "level 0: k-means", *(f"level {i}: {part}" for i in (1, 2) for part in ("cells", "k-means"))]
    assert list(dict(told)) == [*stages, "image embeddings"]
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    of_backbone = [share for stage, share in told if stage == "backbone"]
    assert of_backbone == pytest.approx([0, 0.125, 0.25, 0.375, 0.5] if counted else [0] * 5)
    assert len({share for stage, share in told if stage == "level 2: cells"}) == 5  # the batches are counted by now


def test_a_training_shows_how_far_the_fit_is_where_its_log_can(toy_config, smooth):
    class Log(list):
        def __call__(self, figures):
            pass

        def show_fit(self, stage, share):
            self.append(share)

    log = Log()
    few = TrainConfig(codebook_steps=0, decoder_steps=0, fit_images=16, batch_size=4, crop_px=64)
    train(PyramidTokenizer.from_config(toy_config), list(smooth(2, 70, 80)), config=few, log=log)
    assert log[:5] == pytest.approx([0, 0.125, 0.25, 0.375, 0.5])
    assert log[-1] == 1
