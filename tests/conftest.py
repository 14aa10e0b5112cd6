"""What holds for every test: the same seed, one thread, and no network unless it is marked `network`."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

# Processes that tests start inherit it; it must be set before torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from hypothesis import settings

if TYPE_CHECKING:
    from pyramid_tokenizer.config.models import TokenizerConfig
    from pyramid_tokenizer.tokenizer import PyramidTokenizer

pytest_plugins = ["tests.counting_backbone", "tests.labelled", "tests.image_files", "tests.command_line"]

# Tiny tensors: a second thread only costs, and beside another busy process its barriers spin (5 to 10 times slower).
torch.set_num_threads(1)
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # `make test-network` sets 0; the Hub's client reads it at its import

# The same examples in every run; no deadline, since a busy machine is no bug.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None, max_examples=12)
settings.load_profile("repeatable")


def pytest_collection_finish() -> None:
    # Modules and tests stay to the end: without them in it, each collection of garbage is short.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _same_seed() -> None:
    # torch.manual_seed also seeds accelerators that fast tests do not use: 0.5 to 0.9 ms a test.
    torch.default_generator.manual_seed(0)


HERE = ("127.0.0.1", "::1", "localhost")


class _Network:
    """Whether the present test is marked `network`."""

    allowed = False


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    _Network.allowed = item.get_closest_marker("network") is not None


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: object) -> None:
        elsewhere = self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in HERE
        if elsewhere and not _Network.allowed:
            raise AssertionError(f"expected no network in a test, got a connection to {address}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_here)
        yield


@pytest.fixture(scope="session")
def smooth() -> Callable[..., torch.Tensor]:
    """smooth(count, height, width, seed) -> (count, 3, height, width) in [0, 1]: images with something to predict."""

    def images(count: int, height: int = 64, width: int = 64, seed: int = 0) -> torch.Tensor:
        generator, image = torch.Generator().manual_seed(seed), torch.full((count, 3, height, width), 0.5)
        for side, amplitude in ((2, 0.2), (4, 0.12), (8, 0.08)):  # as in photos, coarse structure is the strongest
            noise = torch.randn(count, 3, side, side, generator=generator) * amplitude
            image += torch.nn.functional.interpolate(noise, (height, width), mode="bicubic", align_corners=False)
        return image.clamp(0, 1)

    return images


@pytest.fixture(scope="session")
def toy_config() -> TokenizerConfig:
    """Three levels on the toy backbone: a cosine one, and two Euclidean ones."""
    from pyramid_tokenizer.config.models import (
        BackboneConfig,
        DecoderConfig,
        LevelConfig,
        QuantizerConfig,
        TokenizerConfig,
    )

    return TokenizerConfig(
        backbone=BackboneConfig(kind="toy"),
        quantizer=QuantizerConfig(
            levels=(
                LevelConfig(stride=32, maps=(0, 1), codebook_size=8, dim=6, distance="cosine", semantic_weight=0.5),
                LevelConfig(stride=16, maps=(1, 2), codebook_size=16, dim=6),
                LevelConfig(stride=8, maps=(2, 3), codebook_size=64, dim=6),
            ),
            image_codebooks=(5, 3),
        ),
        decoder=DecoderConfig(widths=(8, 8, 8), depths=(1, 1, 1), pixel_widths=(8,), pixel_depth=1),
    )


def _with_decoder(tok: PyramidTokenizer) -> PyramidTokenizer:
    """The tokenizer, whose trunk and pixel decoder now do something."""
    generator = torch.Generator().manual_seed(1)
    for part in (tok.trunk, tok.pixel_decoder):
        for parameter in part.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return tok


@pytest.fixture(scope="session")
def toy_tokenizer(toy_config: TokenizerConfig, smooth: Callable[..., torch.Tensor]) -> PyramidTokenizer:
    """A fitted tokenizer with a decoder that does something. Shared by all tests: never change it."""
    from pyramid_tokenizer.tokenizer import PyramidTokenizer

    tok = PyramidTokenizer.from_config(toy_config)
    tok.fit([smooth(16)])
    return _with_decoder(tok)


@pytest.fixture(scope="session")
def detailed_tokenizer(smooth: Callable[..., torch.Tensor]) -> PyramidTokenizer:
    """Two levels and a detail level, fitted, with a decoder that does something. Shared by all tests: never change it."""
    from pyramid_tokenizer.config.models import (
        BackboneConfig,
        DecoderConfig,
        LevelConfig,
        QuantizerConfig,
        TokenizerConfig,
    )
    from pyramid_tokenizer.tokenizer import PyramidTokenizer

    levels = [LevelConfig(stride=s, maps=(3,), codebook_size=k, dim=6) for s, k in ((16, 8), (8, 32), (4, 16))]
    config = TokenizerConfig(
        backbone=BackboneConfig(kind="toy"),
        quantizer=QuantizerConfig(levels=tuple(levels), detail_levels=1),
        decoder=DecoderConfig(widths=(8, 8), depths=(1, 1), pixel_widths=(8,), pixel_depth=1),
    )
    tok = PyramidTokenizer.from_config(config)
    tok.fit([smooth(16)])
    return _with_decoder(tok)


@pytest.fixture(scope="session")
def other_tokenizer(toy_config: TokenizerConfig, smooth: Callable[..., torch.Tensor]) -> PyramidTokenizer:
    """Of the same config as `toy_tokenizer`, fitted on other images. Never change it."""
    from pyramid_tokenizer.tokenizer import PyramidTokenizer

    tok = PyramidTokenizer.from_config(toy_config)
    tok.fit([smooth(16, seed=33)])
    return tok


@pytest.fixture(scope="session")
def photo(smooth: Callable[..., torch.Tensor]) -> torch.Tensor:
    """(3, 40, 56), of 8-bit values: the same pixels in every form an image can have."""
    from pyramid_tokenizer.images.pixels import to_uint8

    return to_uint8(smooth(1, 40, 56, seed=9)[0]).float() / 255
