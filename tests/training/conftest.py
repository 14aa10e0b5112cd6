"""Photos on disk and a tiny run, for the tests of training."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from pyramid_tokenizer.config import BackboneConfig, DecoderConfig, LevelConfig, QuantizerConfig, TokenizerConfig
from pyramid_tokenizer.evaluation import open_segmentation_set
from pyramid_tokenizer.images import to_pil
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.training import TrainConfig


@pytest.fixture(scope="session")
def photos(tmp_path_factory, smooth):
    """Twelve pictures, just larger than a crop."""
    folder = tmp_path_factory.mktemp("photos")
    for i, image in enumerate(to_pil(smooth(12, 48, 40, seed=4))):
        image.save(folder / f"{i:02}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def unfitted():
    """Two levels on the toy tower, codebooks empty."""
    levels = (
        LevelConfig(stride=16, maps=(1,), codebook_size=8, dim=4, distance="cosine", semantic_weight=0.5),
        LevelConfig(stride=8, maps=(2, 3), codebook_size=16, dim=4),
    )
    return PyramidTokenizer.from_config(
        TokenizerConfig(
            backbone=BackboneConfig(kind="toy"),
            quantizer=QuantizerConfig(levels=levels),
            decoder=DecoderConfig(widths=(8, 8), depths=(1, 1), pixel_widths=(8,), pixel_depth=1),
        )
    )


@pytest.fixture
def settings():
    """settings(**changes) -> a run of a few steps."""

    def make(**changes):
        few = {
            "codebook_steps": 4,
            "decoder_steps": 4,
            "batch_size": 4,
            "crop_px": 32,
            "warmup_steps": 1,
            "fit_images": 12,
        }
        return TrainConfig(**few | {"log_every": 1, "save_every": 2, "ema_decay": 0.5} | changes)

    return make


COLOURS = torch.tensor(
    [[230, 30, 30], [30, 200, 40], [40, 60, 230], [230, 210, 40], [20, 20, 20], [240, 240, 240]], dtype=torch.uint8
)
"""Of classes 0 to 4, and of ignored pixels."""
IGNORED_VALUE = 255


def save_labelled(folder, name, values):
    """A label picture of these values (H, W), and a photo in which each pixel's colour is its class."""
    for kind, pixels in (("labels", values), ("images", COLOURS[values.clamp(max=len(COLOURS) - 1)])):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.numpy().astype("uint8")).save(folder / kind / f"{name}.png")


def patchwork(height, width, classes, generator, *, cells=3):
    """(H, W) of rectangles of random classes: nothing of it is its own mirror image."""
    coarse = torch.tensor(classes)[torch.randint(len(classes), (cells, cells), generator=generator)]
    return coarse[torch.arange(height) * cells // height][:, torch.arange(width) * cells // width]


@pytest.fixture(scope="session")
def labelled(tmp_path_factory):
    """labelled(names, count, classes=..., size=..., seed=...) -> a set whose pictures' colours are their classes."""

    def make(names, count, *, classes=None, size=(72, 60), seed=0):
        folder = tmp_path_factory.mktemp("labelled")
        generator = torch.Generator().manual_seed(seed)
        for i in range(count):
            values = patchwork(*size, classes or list(range(len(names))), generator)
            save_labelled(folder, f"{i:02}", values)
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names))
        return open_segmentation_set(folder)

    return make
