"""Labelled images on disk, for the tests of crops, of training and of evaluation."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from pyramid_tokenizer.images.labelled import open_segmentation_set

COLOURS = torch.tensor(
    [[230, 30, 30], [30, 200, 40], [40, 60, 230], [230, 210, 40], [20, 20, 20], [240, 240, 240]], dtype=torch.uint8
)
"""Of classes 0 to 4, and of ignored pixels."""
IGNORED_VALUE = 255


def save_labelled(folder, name, values):
    """A label image of these values (H, W), and a photo in which each pixel's colour is its class."""
    for kind, pixels in (("labels", values), ("images", COLOURS[values.clamp(max=len(COLOURS) - 1)])):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.numpy().astype("uint8")).save(folder / kind / f"{name}.png")


def patchwork(height, width, classes, generator, *, cells=3):
    """(H, W) of rectangles of random classes: nothing of it is its own mirror image."""
    coarse = torch.tensor(classes)[torch.randint(len(classes), (cells, cells), generator=generator)]
    return coarse[torch.arange(height) * cells // height][:, torch.arange(width) * cells // width]


@pytest.fixture(scope="session")
def labelled(tmp_path_factory):
    """labelled(names, count, classes=..., size=..., seed=...) -> a set whose images' colours are their classes."""

    def make(names, count, *, classes=None, size=(72, 60), seed=0):
        folder = tmp_path_factory.mktemp("labelled")
        generator = torch.Generator().manual_seed(seed)
        for i in range(count):
            values = patchwork(*size, classes or list(range(len(names))), generator)
            save_labelled(folder, f"{i:02}", values)
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names))
        return open_segmentation_set(folder)

    return make
