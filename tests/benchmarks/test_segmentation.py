"""The benchmark of PASCAL VOC: each protocol on a folder that is laid out like the devkit's or like one's own."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import segmentation as benchmark
from pyramid_tokenizer.images import to_pil
from pyramid_tokenizer.segmentation.segmenter import Segmenter


@pytest.fixture
def voc(smooth, tmp_path):
    """Three images; of each the upper half is background (0), the lower left a bird (3), the rest a train (19) or a border."""
    for folder in ("images", "labels", "splits"):
        (tmp_path / "voc" / folder).mkdir(parents=True)
    for i, image in enumerate(smooth(3, 64, 64, seed=5)):
        to_pil(image)[0].save(tmp_path / "voc" / "images" / f"{i}.webp")
        labels = np.zeros((64, 64), np.uint8)
        labels[32:, :32], labels[32:, 32:], labels[-1] = 3, 19, 255
        Image.fromarray(labels).save(tmp_path / "voc" / "labels" / f"{i}.png")
    (tmp_path / "voc" / "splits" / "few.txt").write_text("0\n2\n")
    return tmp_path / "voc"


def test_labels_are_read_as_each_protocol_says(voc):
    for name, upper, bird in (("voc-20", -1, 2), ("voc-20b", 20, 2), ("voc-21", 0, 3)):
        samples = benchmark.open_voc(voc, name, "few")
        assert [sample.name for sample in samples] == ["0", "2"]
        labels = samples[0].labels
        assert (int(labels[0, 0]), int(labels[40, 0]), int(labels[63, 0])) == (upper, bird, -1)


@pytest.mark.filterwarnings("ignore:expected every listed class in the labels")
def test_every_protocol_is_measured_by_every_mode_that_the_model_has(voc, toy_tokenizer, monkeypatch, tmp_path):
    monkeypatch.setattr(Segmenter, "from_pretrained", classmethod(lambda cls, name: Segmenter(toy_tokenizer)))
    assert benchmark.main(["--data", str(voc), "--split", "few", "--json", str(tmp_path / "x.json")]) == 0
    found = json.loads((tmp_path / "x.json").read_text())
    assert [(row["protocol"], row["mode"]) for row in found["rows"]] == [
        (protocol, mode) for protocol in ("voc-20", "voc-20b", "voc-21") for mode in ("lookup", "dense")
    ]
    assert found["images"] == ["0", "2"] and benchmark.digest(["0", "2"])[:16] in found["data"]
    assert all(row["num_images"] == 2 for row in found["rows"])
