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


def write_picture(path: Path, seed: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    shape = (40, 48, 3) if mode == "RGB" else (40, 48)
    Image.fromarray(rng.integers(0, 256 if mode == "RGB" else 3, shape, dtype=np.uint8)).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five pictures: labelled, not labelled, kept out, and one with dense labels and captions."""
    pack = tmp_path / "data"
    rows = [("train/1.png", "tench"), ("train/2.png", "goldfish"), ("train/3.png", ""), ("train/0.png", "zebra")]
    for index, (name, _) in enumerate(rows):
        write_picture(pack / "recon" / name, index)
    with open(pack / "recon" / "train.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "source", "label", "w", "h"])
        table.writerows([name, "toys", label, 48, 40] for name, label in rows)
    write_picture(pack / "seg" / "coco80" / "images" / "7.png", 7)
    write_picture(pack / "seg" / "coco80" / "labels" / "7.png", 7, "L")
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
    from pictures import CROPS, training_pictures

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
    count = len(training_pictures(data))
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
def test_kept_out_pictures_and_dense_labels_never_reach_a_batch(data: Path, cache: Path) -> None:
    from image_batches import ImageBatches, Vocabulary
    from pictures import training_pictures

    pictures = training_pictures(data)
    assert [p.file.name for p in pictures] == ["1.png", "2.png", "3.png", "7.png"]
    vocabulary = Vocabulary(data, pictures)
    assert vocabulary.labels == ["goldfish", "tench"]
    assert "zebra" not in vocabulary.dense
    batches = ImageBatches(data, cache, pictures, vocabulary, batch=8)
    batch = batches(0)
    assert batch.kinds[:, vocabulary.kinds.index("zebra")].max() == 0
    assert set(batch.caption_ids.tolist()) <= {vocabulary.captions.index("A person.")}
