import pytest
import torch

from pyramid_tokenizer.config.training import TrainConfig
from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.training.stages import DecoderStage
from pyramid_tokenizer.training.thinning import draw_masks


def test_masks_are_trees_whose_share_is_drawn_for_a_step(toy_tokenizer, smooth):
    images = smooth(6)
    ids = toy_tokenizer.encode(images).ids
    draws = [draw_masks(toy_tokenizer.quantizer, ids, images) for _ in range(30)]
    for masks in draws:
        kept = [torch.where(mask, own, -1) for own, mask in zip(ids[1:], masks[1:], strict=True)]
        toy_tokenizer.tokens([ids[0], *kept], image_size=(64, 64))  # checks that it is a tree
    shares = torch.stack([torch.cat([mask.flatten(1) for mask in masks[1:]], 1).float().mean(1) for masks in draws])
    assert shares.min() < 0.2 and shares.max() > 0.8 and len(shares.unique()) > 10
    assert bool((shares == shares[:, :1]).all())


def test_masks_do_not_depend_on_how_a_batch_is_split(toy_tokenizer, smooth):
    images = smooth(6)
    ids = toy_tokenizer.encode(images).ids
    for seed in range(6):
        torch.manual_seed(seed)
        together = draw_masks(toy_tokenizer.quantizer, ids, images)
        parts = []
        for half in (slice(3), slice(3, 6)):
            torch.manual_seed(seed)
            parts.append(draw_masks(toy_tokenizer.quantizer, [level[half] for level in ids], images[half]))
        for whole, *split in zip(together[1:], *(part[1:] for part in parts), strict=True):
            assert torch.equal(whole, torch.cat(split))


@pytest.mark.parametrize(
    ("dropout", "thinning", "names"),
    [
        (0.0, 0.0, {"psnr"}),
        (0.99, 0.0, {"psnr", "psnr@1", "psnr@3"}),
        (0.0, 0.99, {"psnr", "psnr@sparse"}),
    ],
)
def test_a_decoder_learns_prefixes_and_sparse_pyramids(detailed_tokenizer, smooth, dropout, thinning, names):
    stage = DecoderStage(detailed_tokenizer, TrainConfig(level_dropout=dropout, thinning=thinning))
    found = set()
    for step in range(12):
        loss, figures = stage(smooth(2), step)
        assert torch.isfinite(loss)
        found |= {name for name in figures if name.startswith("psnr")}
    assert found - {"psnr"} == names - {"psnr"}


def test_shares_above_one_are_refused():
    with pytest.raises(ConfigError, match=r"level_dropout and thinning of 1 at most together, got 0\.7 and 0\.4"):
        TrainConfig(level_dropout=0.7)
