"""The research scripts run: each on a made-up data folder of a few small images. Their figures mean nothing here."""

from __future__ import annotations

import csv
import gzip
import importlib
import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples.research import ablations, segmentation, segmentation_kept_out, zero_shot
from examples.research.train_tiny.texts import kept_out_name
from pyramid_tokenizer.backbones import load_backbone
from pyramid_tokenizer.config.models import BackboneConfig

RESEARCH = Path(ablations.__file__).parent
SCRIPTS = sorted(path for path in RESEARCH.rglob("*.py") if "__main__" in path.read_text(encoding="utf-8"))
THINGS = ("background", "person", "zebra", *(f"thing {i}" for i in range(21)))
SETS = {"msrc": ("sky", "sheep", "grass"), "camvid": ("road", "car"), "coco80": THINGS, "ccp": ("background", "hat")}
LABELS = {  # files of recon/train: 4 and 51 are test rows by the hash of their names
    "train/4.jpg": ("caltech101", "ketch"),
    "train/51.jpg": ("imagenet", "tench"),
    "train/1.jpg": ("imagenet", "goldfish"),
    "train/2.jpg": ("caltech101", "cup"),
    "train/3.jpg": ("coco", ""),
}


@pytest.fixture(autouse=True)
def train_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts of train_tiny/ import each other as siblings, as they do when they are run."""
    monkeypatch.syspath_prepend(str(RESEARCH / "train_tiny"))


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_wide(folder: Path, photo: np.ndarray) -> None:
    """The photos of wide/: a name with three test photos, names that are passed over, a kept-out name with fifteen."""
    save(folder / "photo.png", photo)
    lions = [("wide/photo.png", "animals", "lion;cat", 128, 96, 0, "test")] * 3
    small = [("none.png", "animals", "lion", 128, 95, 0, "test")] * 3
    pies = [("none.png", "food", "pie", 128, 96, 0, "test")] * 3
    acorns = [("wide/photo.png", "miniimagenet", "acorn", 84, 84, 1, "test")] * 15
    altars = [("none.png", "animals", "altar", 99, 99, 1, "train")] * 14
    with (folder / "photos.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "source", "labels", "width", "height", "kept_out", "split"])
        rows.writerows([*lions, *small, *pies, *acorns, *altars])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in the layout of examples/research/README.md."""
    pack = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)

    def photo() -> np.ndarray:
        small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        return np.asarray(small.resize((72, 64), Image.Resampling.BICUBIC))

    for name in LABELS:
        save(pack / "recon" / name, photo())
    for split in ("val", "heldout"):
        for i in range(2):
            save(pack / "recon" / split / f"{i}.png", photo())
    with (pack / "recon" / "train.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "source", "label", "w", "h"])
        rows.writerows([name, source, label, 72, 64] for name, (source, label) in LABELS.items())
    for name, classes in SETS.items():
        folder = pack / "seg" / name
        (folder / "splits").mkdir(parents=True)
        (folder / "classes.txt").write_text("\n".join(classes) + "\n")
        for split in ("train", "val", "test"):
            (folder / "splits" / f"{split}.txt").write_text(f"{split}\n")
            save(folder / "images" / f"{split}.png", photo())
            values = np.arange(64 * 72, dtype=np.int64).reshape(64, 72) * min(len(classes), 4) // (64 * 72)
            values[:30, :40] = min(2, len(classes) - 1)  # a zebra is the largest thing of coco80
            save(folder / "labels" / f"{split}.png", values.astype(np.uint8))
    captions = [
        {
            "id": i,
            "image": f"../seg/coco80/images/{split}.png",
            "split": split,
            "captions": [f"{split} a", f"{split} b"],
        }
        for i, split in enumerate(("train", *["test"] * 10))
    ]
    save_wide(pack / "wide", photo())
    (pack / "captions").mkdir()
    (pack / "captions" / "captions.jsonl").write_text("\n".join(map(json.dumps, captions)) + "\n")
    with gzip.open(pack / "captions" / "coco_val2017_captions_text_only.tsv.gz", "wt") as file:
        file.write("1\tA cat sleeps.\n")
    (pack / "weights").mkdir()
    kinds = ["background", "tench, Tinca tinca", "goldfish", "zebra", *(f"kind {i}" for i in range(997))]
    (pack / "weights" / "imagenet_labels.txt").write_text("\n".join(kinds) + "\n")
    return pack


@pytest.fixture(scope="module")
def model(toy_tokenizer, tmp_path_factory) -> Path:
    return toy_tokenizer.save_pretrained(tmp_path_factory.mktemp("models") / "toy")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_shows_its_help(script: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", [script.name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    assert "--" in capsys.readouterr().out


def test_the_scripts_that_a_docstring_names_exist() -> None:
    root = RESEARCH.parents[1]
    texts = [
        path.read_text(encoding="utf-8")
        for folder in ("examples", "benchmarks")
        for path in (root / folder).rglob("*.py")
    ]
    named = {name for text in texts for name in re.findall(r"((?:examples|benchmarks)/[\w/]+\.py)", text)}
    assert len(named) >= 20
    assert not [name for name in named if not (root / name).exists()]


@pytest.mark.parametrize(
    ("text", "name"),
    [("Three ZEBRAS graze.", "zebra"), ("mountain_bike", "bicycle"), ("shetland sheepdog", None), ("Motorbikes", None)],
)
def test_names_that_are_kept_out_of_the_training_are_found_in_a_text(text: str, name: str | None) -> None:
    assert kept_out_name(text) == name


def test_segmentation_measures_learned_and_kept_out_names(data, model, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(segmentation_kept_out, "SAMPLES", 10)
    options = ["--data", str(data), "--model", str(model), "--px", "32", "--sets", "msrc,coco80"]
    assert segmentation.main([*options, "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert [(entry["set"], entry["learned_names"]) for entry in found["sets"]] == [("msrc", 2), ("coco80", 22)]
    assert "coco80: 22 of 23 names" in capsys.readouterr().out


def test_zero_shot_measures_images_and_captions(data, model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(zero_shot, "text_rows", lambda *_: [])  # needs the stored embeddings of a large CLIP
    options = ["--data", str(data), "--model", str(model), "--px", "32", "--json", str(tmp_path / "rows.json")]
    zero_shot.main(options)
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [source for _, source, _ in rows] == 6 * ["backbone", "dense features", "tokens"]
    assert rows[0][0] == "zero-shot, Caltech-101 and flowers (1 images, 2 names)"
    assert rows[6][0] == "zero-shot, wide (3 images, 1 names)"
    assert rows[9][0] == "names kept out, among 20 others (2 images, 26 names)"  # a ketch, and a zebra of coco80
    assert rows[12][0] == "names of wide kept out (15 images, 1 names)"


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [["--variants", "base,last-layer"], ["--segmentation", "--variants", "look-up,shared"]]
)
def test_ablations_print_their_rows_and_keep_them(options, data, model, tmp_path, monkeypatch, capsys) -> None:
    where = [
        "--data",
        str(data),
        "--out",
        str(tmp_path),
        "--model",
        str(model),
        "--quick",
        "--batch",
        "2",
        "--crop",
        "32",
    ]
    monkeypatch.setattr(sys, "argv", ["ablations.py", *where, *options])
    ablations.main()
    shown = capsys.readouterr().out
    assert len(shown.strip().splitlines()) == 4
    ablations.main()  # reads the rows that it kept
    assert capsys.readouterr().out == shown


def made_up_texts(folder: Path) -> None:
    """Writes random targets of train_text.py."""
    text_teachers = importlib.import_module("text_teachers")
    width = importlib.import_module("common").MODEL_CONFIG["embed_dim"]
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = ["tench", "goldfish", "cup", "zebra", *{name for classes in SETS.values() for name in classes}]
    texts = {"name": names, "word": ["cat", "dog"], "caption": ["A cat sleeps."], "group": ["a cat, a dog"]}
    (folder / "texts.json").write_text(json.dumps(texts))
    rows = {kind: text_teachers.unit(rng.normal(size=(len(found), width))) for kind, found in texts.items()}
    np.savez(folder / text_teachers.TARGETS, **{kind: values.astype(np.float16) for kind, values in rows.items()})
    np.savez(folder / "sentences.npz", name=rng.normal(size=(len(names), 384)))


class RandomTeacher(torch.nn.Module):
    """Maps and logits of the shapes of both graphs, from chance."""

    def forward(self, images: torch.Tensor, stop_at: int, keep: tuple[int, ...]) -> dict[int, torch.Tensor]:
        teachers, side = importlib.import_module("image_teachers"), images.shape[-1] // 32
        shapes = {
            teachers.LOGITS_NODE: (1001,),
            teachers.LAST_NODE: (1280, side, side),
            teachers.VOC_NODE: (len(teachers.VOC_NAMES), side, side),
        }
        return {node: torch.randn(len(images), *shapes[node]) for node in keep}


@pytest.mark.slow
def test_the_trainings_of_the_bundled_clip_write_a_clip(data, tmp_path, monkeypatch) -> None:
    made_up_texts(tmp_path / "cache")
    for name, module in ((name, importlib.import_module(name)) for name in ("train_text", "train_image")):
        out = tmp_path / name
        if name == "train_text":
            monkeypatch.setattr(module, "make_text_targets", lambda *_: None)
            where = ["--cache", str(tmp_path / "cache")]
        else:
            teachers = importlib.import_module("image_teachers")
            monkeypatch.setattr(teachers, "load_graph", lambda *_: RandomTeacher())
            where = ["--clip", str(tmp_path / "train_text" / "clip")]
        for steps in ("1", "2"):  # the second goes on
            options = ["--data", str(data), "--out", str(out), "--steps", steps, "--batch", "8", "--save-every", "1"]
            monkeypatch.setattr(sys, "argv", [name, *where, *options])
            module.main()
        assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] == 2
    backbone = load_backbone(BackboneConfig(stem=True), directory=tmp_path / "train_image" / "clip")
    assert backbone.strides == (32, 16, 8, 4, 4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vit", "convnext"])
def test_a_distillation_writes_a_backbone_and_goes_on(kind, data, tmp_path, monkeypatch, capsys) -> None:
    module = importlib.import_module("examples.research.distil.distil_backbone")
    images = importlib.import_module("examples.research.distil.distil_images")
    monkeypatch.setattr(images, "SIZES", ((64, 1.0),))
    (data / "wide").mkdir(exist_ok=True)
    (data / "wide" / "recon_train_rows_with_kept_out_names.txt").write_text("train/1.jpg\n")
    header = "file,source,labels,width,height,kept_out,split"
    rows = ["recon/train/2.jpg,a,cup;mug,200,160,0,train", "recon/train/3.jpg,a,cup,200,160,0,test"]
    (data / "wide" / "photos.csv").write_text("\n".join([header, *rows]) + "\n")
    options = ["--kind", kind, "--data", str(data), "--out", str(tmp_path), "--batch", "1", "--save-every", "1"]
    for steps in ("1", "2"):
        monkeypatch.setattr(sys, "argv", ["distil_backbone.py", *options, "--steps", steps])
        module.main()
    assert "resumed at step 1" in capsys.readouterr().out
    backbone = load_backbone(BackboneConfig(stem=True), directory=tmp_path / "clip")
    assert backbone.embedding_dim == 128
    assert backbone.has_dense
    assert backbone.strides[-1] == {"vit": 16, "convnext": 4}[kind]
