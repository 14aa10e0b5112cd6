"""Methods of a tokenizer under `torch.compile`: one graph each, few compilations, and the results of plain torch."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import compiled
from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.backbones import ToyBackbone
from pyramid_tokenizer.config.models import BackboneConfig, DecoderConfig, LevelConfig, QuantizerConfig, TokenizerConfig
from pyramid_tokenizer.errors import NotFittedError
from pyramid_tokenizer.export.checking import MOST_EMBEDDING, MOST_IDS, MOST_PIXELS

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch's compiler

needs_cpp = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="inductor needs a C++ compiler"
)


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything is compiled anew, by this process alone."""
    import torch._inductor.config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with inductor.patch(compile_threads=1):
        yield


@pytest.fixture
def one_level(smooth: Callable[..., Tensor]) -> PyramidTokenizer:
    """As little as has every stage: each more of them is more C++ to compile."""
    quantizer = QuantizerConfig(levels=(LevelConfig(stride=8, maps=(2, 3), codebook_size=32, dim=4),))
    decoder = DecoderConfig(widths=(8,), depths=(1,), pixel_widths=(8,), pixel_depth=1)
    config = TokenizerConfig(backbone=BackboneConfig(kind="toy"), quantizer=quantizer, decoder=decoder)
    tok = PyramidTokenizer.from_config(config)
    tok.fit([smooth(16)])
    generator = torch.Generator().manual_seed(5)
    for parameter in tok.pixel_decoder.parameters():  # untrained, it adds nothing
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return tok


def require_same(part: str, found: dict[str, Any]) -> None:
    """What an exported model must keep too."""
    limit = {"decode": MOST_PIXELS, "embedding": MOST_EMBEDDING}.get(part, 0.0)
    assert found["compared"] > 0
    assert found["ids_that_differ"] <= MOST_IDS * found["compared"], found
    assert found["largest"] <= limit, found


@pytest.mark.slow
@pytest.mark.parametrize("part", compiled.PARTS)
def test_a_method_is_one_graph_and_batches_of_all_sizes_share_two(
    toy_tokenizer: PyramidTokenizer, smooth: Callable[..., Tensor], part: str
) -> None:
    graphs = []

    def count(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    images, plain = smooth(8, 40, 56), getattr(toy_tokenizer, part)
    compiled_part = torch.compile(plain, fullgraph=True, backend=count)  # any graph break is an error
    for batch in (1, 8, 3, 5):
        given = images[:batch] if part == "encode" else toy_tokenizer.encode(images[:batch])
        require_same(part, compiled.compare(plain, compiled_part, [given]))
    assert len(graphs) == 2  # torch's own choice: one for a single image, one for any other batch
    if part != "encode":
        require_same(part, compiled.compare(plain, compiled_part, [toy_tokenizer.encode(images)[:1]]))
        assert len(graphs) == 3


@pytest.mark.slow
def test_a_compiled_method_refuses_empty_codebooks(toy_config: TokenizerConfig) -> None:
    tok = PyramidTokenizer.from_config(toy_config, backbone=ToyBackbone())
    with pytest.raises(NotFittedError, match="fit"):
        torch.compile(tok.encode, backend="eager")(torch.rand(1, 3, 64, 64))


@needs_cpp
@pytest.mark.slow
@pytest.mark.usefixtures("_own_cache")
def test_inductor_gives_what_plain_torch_gives(one_level: PyramidTokenizer, smooth: Callable[..., Tensor]) -> None:
    for part in compiled.PARTS:
        for found in compiled.measure_part(one_level, part, smooth(9), [1, 8], 1):
            require_same(part, found)


@needs_cpp
@pytest.mark.long
@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize("part", compiled.PARTS)
def test_inductor_gives_what_plain_torch_gives_for_the_bundled_model(part: str) -> None:
    tok = PyramidTokenizer.from_pretrained("tiny")
    for found in compiled.measure_part(tok, part, compiled.crops(50, 256), [1, 8], 1):
        require_same(part, found)
