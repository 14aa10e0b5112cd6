from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pyramid_tokenizer.backbones import ToyBackbone
from pyramid_tokenizer.quantizer.fit.kept import KeptSamples


class Source:
    """Samples that count how often the backbone ran."""

    def __init__(self, count: int = 3) -> None:
        self.images = torch.rand(count, 2, 3, 32, 64, generator=torch.Generator().manual_seed(0))
        self.backbone, self.runs = ToyBackbone(), 0

    def __call__(self):
        for images in self.images:
            self.runs += 1
            yield self.backbone(images, with_dense=True), images


@pytest.fixture(autouse=True)
def own_temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.parametrize("budget", [0, 60_000, 10**9], ids=["on disk", "both", "in memory"])
def test_every_call_gives_the_same_and_the_backbone_runs_once(budget: int, tmp_path: Path) -> None:
    source = Source()
    expected = list(source())
    with KeptSamples(source, maps=(0, 3), budget=budget) as kept:
        for _ in range(3):
            for (features, images), (whole, own) in zip(kept(), expected, strict=True):
                assert torch.equal(images, own)
                assert features.strides == whole.strides
                assert features.image_size == whole.image_size
                assert torch.equal(features.dense, whole.dense)
                assert torch.equal(features.embedding, whole.embedding)
                assert all(torch.equal(features.maps[i], whole.maps[i]) for i in (0, 3))
                assert [m.shape[1] for m in features.maps] == [32, 0, 0, 8]
        files = list(tmp_path.rglob("*.pt"))
        assert len(files) == {0: 3, 10**9: 0}.get(budget, len(files))
        assert budget != 60_000 or 0 < len(files) < 3
    assert source.runs == 6  # three for `expected`
    assert not list(tmp_path.iterdir())


def test_a_first_call_that_was_left_early_is_made_anew(tmp_path: Path) -> None:
    source = Source()
    with KeptSamples(source, maps=(0,), budget=0) as kept:
        next(kept())
        assert len(list(kept())) == len(list(kept())) == 3
    assert source.runs == 4


def test_the_temporary_files_go_when_the_fit_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), KeptSamples(Source(), maps=(0,), budget=0) as kept:
        list(kept())
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
