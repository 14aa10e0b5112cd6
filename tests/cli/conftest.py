"""A toy model on disk, images to feed it, and a way to call the commands."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pyramid_tokenizer.config.models import BackboneConfig, DecoderConfig, LevelConfig, QuantizerConfig, TokenizerConfig
from pyramid_tokenizer.images.pixels import to_pil
from pyramid_tokenizer.segmentation import Segmenter, build_head
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
def head_model(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model` with a segmentation head that changes what look-up finds."""
    tok = PyramidTokenizer.from_pretrained(model)
    head = build_head(tok.trunk, embedding_dim=16, width=128, depth=2, shared_decoder=True)
    for parameter in head.parameters():
        parameter.data += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.2
    return Segmenter(tok, head).save_pretrained(tmp_path_factory.mktemp("models") / "head")


@pytest.fixture(scope="session")
def detailed_model(detailed_tokenizer: PyramidTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two levels and a detail level."""
    return detailed_tokenizer.save_pretrained(tmp_path_factory.mktemp("models") / "detailed")


@pytest.fixture(scope="session")
def tok(model: Path) -> PyramidTokenizer:
    return PyramidTokenizer.from_pretrained(model)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory; the user's cache folder is beside it."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def photos(here: Path) -> Path:
    """photos/a.png of 40x32 px, photos/b.png and photos/trip/a.png of 48x48 px."""
    folder = here / "photos"
    (folder / "trip").mkdir(parents=True)
    for seed, (name, height, width) in enumerate([("a.png", 32, 40), ("b.png", 48, 48), ("trip/a.png", 48, 48)]):
        image(height, width, seed=seed).save(folder / name)
    return folder


@pytest.fixture
def tokens(tok: PyramidTokenizer, photos: Path, here: Path) -> Path:
    """tokens/a.tokens and tokens/trip/a.tokens, as `encode photos` writes them."""
    (here / "tokens" / "trip").mkdir(parents=True)
    for name in ("a", "trip/a"):
        tok.encode(photos / f"{name}.png").save(here / "tokens" / f"{name}.tokens")
    return here / "tokens"


def image(height: int, width: int, *, seed: int) -> Image.Image:
    return to_pil(smooth_images(1, height, width, seed=seed))[0]


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """Every bar that commands show: its name -> the steps that it made, and all of its steps."""
    found: dict[str, tuple[int, int]] = {}

    @contextlib.contextmanager
    def show(console: object, what: str, total: int) -> Iterator[Callable[..., None]]:
        found[what] = (0, total)

        def advance(steps: int = 1) -> None:
            found[what] = (found[what][0] + steps, total)

        yield advance

    for module in ("terminal", "evaluate", "evaluate_images", "search"):
        monkeypatch.setattr(f"pyramid_tokenizer.cli.{module}.show_progress", show)
    return found
