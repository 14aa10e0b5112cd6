"""Large images encoded in overlapping windows, on a backbone each of whose cells sees the whole image, as a ViT's do."""

from __future__ import annotations

import copy
import dataclasses
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from pyramid_tokenizer.backbones import ToyBackbone
from pyramid_tokenizer.encoding import by_rows, by_windows
from pyramid_tokenizer.errors import ConfigError, ImageValueError
from pyramid_tokenizer.images import pad_to_multiple


class GlobalBackbone(ToyBackbone):
    """The toy backbone with the mean of a map added to it. It notes the shapes of the batches that it reads."""

    runs_by_rows = False

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images, *, with_dense=False):
        self.seen.append(tuple(images.shape))
        found = super().forward(images, with_dense=with_dense)
        dense = None if found.dense is None else found.dense + 2 * found.dense.mean((2, 3), keepdim=True)
        return dataclasses.replace(found, maps=tuple(m + m.mean((2, 3), keepdim=True) for m in found.maps), dense=dense)


@pytest.fixture
def tok(toy_tokenizer):
    """The toy tokenizer on a `GlobalBackbone`."""
    own = copy.deepcopy(toy_tokenizer)
    own.backbone = GlobalBackbone()
    return own


def test_an_image_within_a_window_has_the_ids_of_the_whole(tok, smooth):
    images = smooth(2, 120, 128)
    whole = tok.encode(images)
    assert tok.encode(images, window_px=128) == whole
    assert tok.backbone.seen == [(2, 3, 128, 128)] * 2


def test_a_larger_one_has_others_in_grids_of_the_same_size_and_each_image_its_own(tok, smooth):
    images = smooth(2, 150, 200)
    whole, found = tok.encode(images), tok.encode(images, window_px=128)
    assert [ids.shape for ids in found.ids] == [ids.shape for ids in whole.ids]
    assert (found.image_size, found.fingerprint) == (whole.image_size, whole.fingerprint)
    shares = [float((own != other).float().mean()) for own, other in zip(found.ids, whole.ids, strict=True)]
    assert all(0.02 < share < 0.9 for share in shares), shares
    assert tok.encode(images[1:], window_px=128) == list(found.unbind())[1]
    assert tok.encode_many(list(images), window_px=128) == list(found.unbind())
    assert tok.encode(images, window_px=128, levels=2) == found[:2]


def test_a_backbone_that_sees_no_further_than_a_cell_has_the_ids_of_the_whole(toy_tokenizer, smooth):
    image = smooth(1, 150, 200)
    for own, other in zip(toy_tokenizer.encode(image, window_px=128).ids, toy_tokenizer.encode(image).ids, strict=True):
        assert torch.equal(own, other)


def test_the_backbone_never_reads_more_than_a_few_windows_at_a_time(tok, smooth, monkeypatch):
    monkeypatch.setattr(by_windows, "WINDOW_PIXELS", 2 * 128**2)
    tok.encode(smooth(1, 128 + 5 * 96, 128), window_px=128)
    assert tok.backbone.seen == [(2, 3, 128, 128)] * 3
    tok.backbone.seen.clear()
    tok.encode(smooth(1, 40, 300), window_px=128)  # a side shorter than a window is read whole
    assert tok.backbone.seen == [(3, 3, 64, 128)]


def test_image_tokens_are_of_the_mean_of_the_windows_embeddings(tok, smooth):
    image = smooth(1, 128, 200, seed=4)
    padded = pad_to_multiple(image, multiple=32)
    parts = [tok.features(padded[..., left : left + 128], with_dense=True).embedding for left in (0, 96)]
    mean = torch.stack([part / part.norm() for part in parts]).mean(0)
    assert torch.equal(tok.encode(image, window_px=128).image_ids, tok.quantizer.image.encode(mean))


def test_a_limit_keeps_the_best_tokens_of_windows(tok, smooth):
    image = smooth(1, 128, 300)
    found = tok.encode(image, window_px=128, max_tokens=150)
    assert 140 <= found.num_tokens <= 150
    full = tok.encode(image, window_px=128, levels=3)
    assert torch.equal(found.ids[2][found.present[2]], full.ids[2][found.present[2]])


@pytest.mark.parametrize("window_px", [0, -128, 96, 130, 128.0, True, "128"])
def test_sides_that_windows_cannot_have_are_refused_before_an_image_is_read(tok, window_px):
    with pytest.raises(ConfigError, match="128 or more.* 32,.*got"):
        tok.encode(torch.rand(1, 3, 64, 64), window_px=window_px)
    with pytest.raises(ConfigError, match="window_px"):
        tok.encode_many(["no-such-file.png"], window_px=window_px)


def test_pixels_out_of_range_in_any_window_are_refused(tok, smooth):
    image = smooth(1, 128, 300)
    image[..., 299] = 2.0
    with pytest.raises(ImageValueError):
        tok.encode(image, window_px=128)


def test_a_large_image_that_is_read_whole_is_told_once_with_what_would_help(tok, toy_tokenizer, smooth, monkeypatch):
    monkeypatch.setattr(by_rows, "LARGE_PIXELS", 64 * 64)
    image = smooth(1, 64, 96)
    toy_tokenizer.encode(image)  # in bands
    tok.encode(image[..., :64])
    tok.encode(image, window_px=128)
    with pytest.warns(UserWarning, match="64 x 96 px.*window_px=512") as told:
        tok.encode(image)
    assert [warning.filename for warning in told] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tok.encode(image)


RUN = """
import pathlib, re, sys
import torch
from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.config import LevelConfig
from tests.backbones.conftest import MODEL_CONFIGS, make_model, write_directory

def peak():
    return int(re.findall(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[0]) * 1024

config = MODEL_CONFIGS["vit"]
folder = write_directory(pathlib.Path(sys.argv[1]), config, make_model(config).state_dict())
levels = [LevelConfig(stride=s, maps=(m,), codebook_size=32, dim=4, reads_dense=m == 0) for s, m in ((32, 0), (8, 1))]
tok = PyramidTokenizer.from_backbone(f"local-dir:{folder}", levels=levels)
tok.fit([torch.rand(16, 3, 96, 96)])
image = torch.rand(1, 3, 1536, 1536)
tok.encode(image[..., :384, :256], window_px=256)
before = peak()
tok.encode(image, window_px=256)
print((peak() - before) / (1536 * 1536))
"""


@pytest.mark.slow
def test_memory_grows_by_the_bytes_that_are_kept_of_a_pixel(tmp_path):
    """Most of the 42 bytes a pixel are the windows of one batch. Whole, an image of 768 x 768 px takes 1,172 bytes a pixel."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", RUN, str(tmp_path / "vit")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 60
