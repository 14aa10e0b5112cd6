"""A toy model on disk, pictures to feed it, and a way to call the commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner, Result

from pyramid_tokenizer.cli import app
from pyramid_tokenizer.config import BackboneConfig, DecoderConfig, LevelConfig, QuantizerConfig, TokenizerConfig
from pyramid_tokenizer.images import to_pil
from pyramid_tokenizer.tokenizer import PyramidTokenizer

CONFIG = TokenizerConfig(
    backbone=BackboneConfig(kind="toy"),
    quantizer=QuantizerConfig(
        levels=(
            LevelConfig(stride=32, maps=(0, 1), codebook_size=4, dim=4, semantic_weight=0.5),
            LevelConfig(stride=8, maps=(2, 3), codebook_size=16, dim=6),
        )
    ),
    decoder=DecoderConfig(widths=(8, 8), depths=(1, 1), pixel_widths=(8,), pixel_depth=1),
)


def smooth_images(count: int, height: int, width: int, *, seed: int) -> torch.Tensor:
    """(count, 3, height, width) in [0, 1], exact in 8 bits."""
    noise = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    large = F.interpolate(noise, (height, width), mode="bicubic", align_corners=True).clamp(0, 1)
    return (large * 255).round() / 255


def save_model(directory: Path, *, seed: int) -> Path:
    tok = PyramidTokenizer.from_config(CONFIG)
    tok.fit([smooth_images(16, 64, 64, seed=seed)])
    return tok.save_pretrained(directory)


@pytest.fixture(scope="session")
def toy_config() -> TokenizerConfig:
    return CONFIG


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "toy", seed=0)


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "other", seed=1)


@pytest.fixture(scope="session")
def tok(model: Path) -> PyramidTokenizer:
    return PyramidTokenizer.from_pretrained(model)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def photos(here: Path) -> Path:
    """photos/a.png of 40x32 px, photos/b.png and photos/trip/a.png of 48x48 px."""
    folder = here / "photos"
    (folder / "trip").mkdir(parents=True)
    for seed, (name, height, width) in enumerate([("a.png", 32, 40), ("b.png", 48, 48), ("trip/a.png", 48, 48)]):
        picture(height, width, seed=seed).save(folder / name)
    return folder


def picture(height: int, width: int, *, seed: int) -> Image.Image:
    return to_pil(smooth_images(1, height, width, seed=seed))[0]


@pytest.fixture(scope="session")
def run() -> Callable[..., Result]:
    """Runs a command line in this process; an error that is not told in a line fails the test."""

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)

    return call
