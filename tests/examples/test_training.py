"""Both trainings on a toy data pack: stopped and resumed, they end at the same weights."""

from __future__ import annotations

import csv
import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

STEPS = 3
NAMES = ("tench", "goldfish", "zebra", "person", "cat", *(f"name {i}" for i in range(20)))


class StoppedError(Exception):
    """The power went out."""


def write_image(path: Path, seed: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    shape = (40, 48, 3) if mode == "RGB" else (40, 48)
    Image.fromarray(rng.integers(0, 256 if mode == "RGB" else 3, shape, dtype=np.uint8)).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five images: labelled, not labelled, kept out, and one with dense labels and captions."""
    pack = tmp_path / "data"
    rows = [("train/1.png", "tench"), ("train/2.png", "goldfish"), ("train/3.png", ""), ("train/0.png", "zebra")]
    for index, (name, _) in enumerate(rows):
        write_image(pack / "recon" / name, index)
    with open(pack / "recon" / "train.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "source", "label", "w", "h"])
        table.writerows([name, "toys", label, 48, 40] for name, label in rows)
    write_image(pack / "seg" / "coco80" / "images" / "7.png", 7)
    write_image(pack / "seg" / "coco80" / "labels" / "7.png", 7, "L")
    (pack / "seg" / "coco80" / "classes.txt").write_text("background\nperson\nzebra\n")
    (pack / "seg" / "coco80" / "splits").mkdir()
    (pack / "seg" / "coco80" / "splits" / "train.txt").write_text("7\n")
    (pack / "captions").mkdir()
    row = {"id": 7, "image": "../seg/coco80/images/7.png", "split": "train", "captions": ["A person.", "A zebra."]}
    (pack / "captions" / "captions.jsonl").write_text(json.dumps(row) + "\n")
    with gzip.open(pack / "captions" / "coco_val2017_captions_text_only.tsv.gz", "wt") as file:
        file.write("1\tA cat sleeps.\n")
    (pack / "weights").mkdir()
    kinds = ["background", "tench, Tinca tinca", "goldfish", "zebra", *(f"thing {i}" for i in range(997))]
    (pack / "weights" / "imagenet_labels.txt").write_text("\n".join(kinds) + "\n")
    return pack


@pytest.fixture
def cache(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the teachers would say, made up; and a training that asks none of them."""
    import image_teachers
    import text_teachers
    import train_image
    import train_text
    from common import MODEL_CONFIG
    from images import CROPS, training_images

    folder = tmp_path / "cache"
    folder.mkdir()
    rng = np.random.default_rng(0)
    texts = {
        "name": list(NAMES),
        "word": ["cat", "dog"],
        "caption": ["A cat sleeps.", "A person."],
        "group": ["a cat, a dog"],
    }
    targets = {
        kind: text_teachers.unit(rng.normal(size=(len(found), MODEL_CONFIG["embed_dim"]))).astype(np.float16)
        for kind, found in texts.items()
    }
    (folder / "texts.json").write_text(json.dumps(texts))
    np.savez(folder / text_teachers.TARGETS, **targets)
    np.savez(folder / "sentences.npz", name=rng.normal(size=(len(NAMES), 384)))
    count = len(training_images(data))
    for name, shape in image_teachers.SHAPES.items():
        values = rng.normal(size=(count, CROPS, *shape)).astype(np.float16)
        np.save(folder / f"mobilenet_{name}.npy", values)
    shares = rng.dirichlet(np.ones(len(image_teachers.VOC_NAMES)), (count, 24, 24)).transpose(0, 3, 1, 2)
    np.save(folder / "voc.npy", shares.astype(np.float16))
    monkeypatch.setattr(train_image, "make_image_targets", lambda *_: folder)
    for module in (train_image, train_text):
        monkeypatch.setattr(module, "make_text_targets", lambda *_: None)
    monkeypatch.setattr(train_image, "classification_top1", lambda *_: 0.0)
    return folder


def run(
    module, monkeypatch: pytest.MonkeyPatch, *, out: Path, data: Path, cache: Path, stop: int | None = None
) -> dict:
    """The checkpoint at the end of the command, which an error ends after step `stop`."""
    arguments = ["--data", str(data), "--cache", str(cache), "--out", str(out), "--steps", str(STEPS), "--batch", "8"]
    save = module.save_checkpoint

    def save_and_stop(state: dict, path: Path) -> None:
        save(state, path)
        if state["step"] == stop:
            raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["train", *arguments, "--save-every", "2"])
        patch.setattr(module, "save_checkpoint", save_and_stop)
        if stop:
            with pytest.raises(StoppedError):
                module.main()
        else:
            module.main()
    return torch.load(out / "checkpoint.pt", weights_only=True)


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train_text", "train_image"])
def test_a_stopped_training_resumes_to_the_same_weights(
    name: str, data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = __import__(name)
    whole = run(module, monkeypatch, out=tmp_path / "whole", data=data, cache=cache)
    run(module, monkeypatch, out=tmp_path / "halves", data=data, cache=cache, stop=2)
    resumed = run(module, monkeypatch, out=tmp_path / "halves", data=data, cache=cache)
    assert whole["step"] == STEPS
    assert same(whole, resumed)


@pytest.mark.slow
def test_kept_out_images_and_dense_labels_never_reach_a_batch(data: Path, cache: Path) -> None:
    from image_batches import ImageBatches, Vocabulary
    from images import training_images

    images = training_images(data)
    assert [p.file.name for p in images] == ["1.png", "2.png", "3.png", "7.png"]
    vocabulary = Vocabulary(data, images)
    assert vocabulary.labels == ["goldfish", "tench"]
    assert "zebra" not in vocabulary.dense
    batches = ImageBatches(data, cache, images, vocabulary, batch=8)
    batch = batches(0)
    assert batch.kinds[:, vocabulary.kinds.index("zebra")].max() == 0
    assert set(batch.caption_ids.tolist()) <= {vocabulary.captions.index("A person.")}


def test_the_tokenizer_sees_what_the_backbone_may_see_and_the_same_crops_at_each_call(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import train_tokenizer

    assert [path.name for path in train_tokenizer.training_files(data)] == ["1.png", "2.png", "3.png"]  # 0 is kept out
    assert [path.name for path in train_tokenizer.large_files(data)] == ["7.png"]
    monkeypatch.setattr(train_tokenizer, "FIT_BATCH", 2)
    monkeypatch.setattr(train_tokenizer, "FIT_CROPS", (("all", 32, 0.5), ("large", 64, 0.5)))
    first, second = (list(train_tokenizer.fit_batches(data, 8)) for _ in range(2))
    assert [tuple(batch.shape) for batch in first] == [(2, 3, 32, 32)] * 2 + [(2, 3, 64, 64)] * 2
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_bundled_models_levels_cost_less_than_a_quarter_bit_per_pixel() -> None:
    import math

    import train_tokenizer

    levels = train_tokenizer.CONFIG.quantizer.levels
    assert sum(math.log2(level.codebook_size) / level.stride**2 for level in levels) == 0.24609375


@pytest.mark.slow
def test_a_backbone_starts_from_an_earlier_models_trunk_and_leaves_its_head(tmp_path: Path) -> None:
    from common import build_clip, export_clip
    from image_losses import Student
    from train_image import start_from

    torch.manual_seed(1)
    earlier = build_clip()
    export_clip(earlier, tmp_path)
    torch.manual_seed(2)
    student = Student(build_clip())
    head = student.visual.trunk.conv_head.weight.clone()
    start_from(student, tmp_path)
    stored = earlier.visual.trunk.state_dict()
    for name, value in student.visual.trunk.state_dict().items():
        if not name.startswith(("conv_head", "classifier")) and value.is_floating_point():
            assert torch.equal(value, stored[name].half().float()), name
    assert torch.equal(student.visual.trunk.conv_head.weight, head)
