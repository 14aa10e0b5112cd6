"""The figures of segmentation.py on masks made by hand, and the script end to end on a made-up data pack."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks import segmentation, segmentation_tables
from benchmarks import segmentation_kept_out as kept_out
from benchmarks import segmentation_rows as rows
from benchmarks.segmentation_rows import Names
from pyramid_tokenizer.evaluation import TokenSemantics
from pyramid_tokenizer.images.labelled import open_segmentation_set
from pyramid_tokenizer.segmentation.segmenter import Segmenter, build_head
from pyramid_tokenizer.tokenizer import PyramidTokenizer

NAMES = ("background", "sky", "zebra", "grass", "boat", "car")


def one_hot(labels: torch.Tensor, num_classes: int = len(NAMES)) -> torch.Tensor:
    """(H, W) -> scores (N, H, W) that say exactly this."""
    return F.one_hot(labels.clamp(min=0), num_classes).permute(2, 0, 1).float()


def empty_counts() -> rows.Counts:
    return rows.Counts(semantics=TokenSemantics((4,), strides=(1,), num_classes=len(NAMES)))


@pytest.fixture(scope="module")
def model(toy_tokenizer: PyramidTokenizer) -> Segmenter:
    """The shared toy tokenizer with a head that does something; the tokenizer itself is not changed."""
    config = toy_tokenizer.config
    head = build_head(config, embedding_dim=toy_tokenizer.backbone.embedding_dim)
    generator = torch.Generator().manual_seed(2)
    for parameter in head.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return Segmenter(toy_tokenizer, head)


def test_names_are_sorted_into_those_that_training_shows_and_those_it_does_not():
    names = Names.of(NAMES)
    assert [names.named.tolist(), names.learned.tolist(), names.kept_out.tolist()] == [
        [1, 2, 3, 4, 5],
        [1, 3, 5],
        [2, 4],
    ]
    assert names.has_background
    assert not Names.of(NAMES[1:]).has_background


def test_pixels_of_kept_out_names_and_background_do_not_count_and_cannot_be_predicted():
    names, counts = Names.of(NAMES), empty_counts()
    labels = torch.tensor([[0, 1, 1, 2], [-1, 3, 3, 2]])
    scores = one_hot(labels) * 2
    scores[4] = 3  # "boat" is the likeliest everywhere, and is no learned name
    rows.add_image(counts, "x", scores, labels, names)
    (found,) = counts.learned["x"]
    assert found.wanted.tolist() == found.correct.tolist() == found.predicted.tolist() == [0, 2, 0, 2, 0, 0]
    row = segmentation.learned_row("x", counts.learned["x"])
    assert [row[name] for name in segmentation_tables.SINGLE] == [1, 1, 1, 1]
    assert (row["classes_present"], row["interval"]) == (2, [1, 1])
    (every,) = counts.images_of_kept_out["x"]
    assert every[:, 4].tolist() == [
        0,
        2,
        2,
        2,
        0,
        0,
    ]  # among all names "boat" wins, on all pixels but background and void


def test_a_image_without_kept_out_names_is_left_out_of_their_table():
    counts = empty_counts()
    rows.add_image(counts, "x", one_hot(torch.tensor([[1, 3]])), torch.tensor([[1, 3]]), Names.of(NAMES))
    assert not counts.images_of_kept_out


def test_half_wrong_masks_give_the_ious_worked_out_by_hand():
    counts, labels = empty_counts(), torch.tensor([[1, 1, 3, 3]])
    rows.add_image(counts, "x", one_hot(torch.tensor([[1, 1, 1, 5]])), labels, Names.of(NAMES))
    row = segmentation.learned_row("x", counts.learned["x"])
    assert row["miou_present"] == pytest.approx((2 / 3 + 0) / 2)
    assert row["miou_union"] == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert row["pixel_accuracy"] == pytest.approx(0.5)
    assert row["fwiou"] == pytest.approx(2 / 3 / 2)


def test_iou_by_name_is_that_of_masks_with_their_names_dealt_out_anew():
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 9, (4, 5), generator=generator)
    deal = torch.tensor([2, 0, 3, 1])  # class i is called deal[i]
    renamed = torch.cat([counts[:, deal], counts[:, 4:]], 1)
    wanted, found, hits = renamed.sum(1), renamed[:, :4].sum(0), renamed[:, :4].diagonal()
    expected = hits.double() / (wanted + found - hits)
    assert torch.equal(kept_out.iou_by_name(counts)[torch.arange(4), deal], expected)


def right_masks(images: int) -> list[torch.Tensor]:
    """Counts of images in which every class is there and right."""
    return [
        torch.eye(6, 7, dtype=torch.int64) * (10 + i) * torch.tensor([[0], [1], [1], [1], [1], [1]])
        for i in range(images)
    ]


def test_shuffled_names_score_below_the_true_ones_and_as_every_name_in_turn_on_average():
    names = Names.of(NAMES)
    scores = kept_out.kept_out_scores([(names, right_masks(4))])
    assert (scores.images, scores.classes, scores.miou, scores.interval) == (4, 2, 1, (1, 1))
    assert scores.every_name == pytest.approx(1 / 5)  # right by chance: one of five names
    assert scores.shuffled == pytest.approx(1 / 5, abs=0.15)
    assert scores.ratio == pytest.approx(1 / scores.shuffled)
    assert scores.ratio_interval == pytest.approx((scores.ratio, scores.ratio))
    assert kept_out.kept_out_scores([(names, right_masks(4))]) == scores


def test_shuffling_deals_out_each_name_once_and_never_the_background():
    names = Names.of(NAMES)
    dealt = kept_out.shuffled_names(names)
    assert dealt.shape == (kept_out.SHUFFLES, 2)
    assert set(dealt.flatten().tolist()) <= {1, 2, 3, 4, 5}
    assert bool((dealt[:, 0] != dealt[:, 1]).all())


def test_two_sets_are_averaged_over_their_classes_and_absent_classes_are_not_counted():
    names = Names.of(NAMES)
    wrong = torch.zeros(6, 7, dtype=torch.int64)
    wrong[2, 4] = 10  # a zebra taken for a boat; no boat is there
    both = kept_out.kept_out_scores([(names, right_masks(2)), (names, [wrong])])
    assert (both.images, both.classes) == (3, 3)
    assert both.miou == pytest.approx((1 + 1 + 0) / 3)


@pytest.mark.parametrize("mode", ["lookup", "decoder", "dense"])
def test_labels_are_those_of_the_segmenter_at_the_size_that_was_seen(model, smooth, mode):
    image = smooth(1, 40, 72)[0]  # no multiple of the coarsest stride
    words = ["sky", "grass|meadow", "car"]
    expected = model.segment(image, words, mode=mode).labels[0]
    source = {"lookup": rows.LOOKUP, "decoder": rows.DECODER, "dense": rows.DENSE}[mode]
    cells = rows.cell_maps(model, image, model.tok.encode(image))[source]
    scores = rows.pixel_scores(cells, model.text.encode_names(words), seen=(40, 72), size=(40, 72))
    assert torch.equal(rows.best_of(scores, torch.arange(3)), expected)


def test_scores_come_back_to_the_size_of_the_labels(model, smooth):
    image = smooth(1, 32, 48)[0]
    cells = rows.cell_maps(model, image, model.tok.encode(image))[rows.LOOKUP]
    scores = rows.pixel_scores(cells, model.text.encode_names(["a", "b"]), seen=(32, 48), size=(50, 75))
    assert scores.shape == (2, 50, 75)


def test_a_head_on_features_sees_what_codes_were_made_from(model, smooth):
    image = smooth(1, 40, 72)[0]
    tokens = model.tok.encode(image)
    found = rows.cell_maps(model, image, tokens, continuous=model)
    assert list(found) == [
        rows.DECODER,
        rows.LOOKUP,
        rows.DENSE,
        rows.DECODER_ON_FEATURES,
        rows.TRAINED_ON_FEATURES,
    ]
    shape = (1, model.tok.backbone.embedding_dim, *tokens.grids[-1])
    assert all(cells.cells.shape == shape for source, cells in found.items() if source != rows.DENSE)
    assert torch.equal(found[rows.DECODER_ON_FEATURES].cells, found[rows.TRAINED_ON_FEATURES].cells)
    assert not torch.equal(found[rows.DECODER_ON_FEATURES].cells, found[rows.DECODER].cells)


def write_set(folder: Path, names: list[str], *, count: int) -> None:
    rng = np.random.default_rng(len(names))
    for part in ("images", "labels", "splits"):
        (folder / part).mkdir(parents=True)
    (folder / "classes.txt").write_text("\n".join(names) + "\n")
    for split in ("train", "test"):
        stems = [f"{split}{i}" for i in range(count)]
        (folder / "splits" / f"{split}.txt").write_text("\n".join(stems) + "\n")
        for i, stem in enumerate(stems):
            size = (40 + 8 * i, 36)  # images differ in size
            labels = rng.integers(0, len(names), (3, 4), dtype=np.uint8)
            labels[0, 0] = 255
            Image.fromarray(labels).resize(size, Image.Resampling.NEAREST).save(folder / "labels" / f"{stem}.png")
            pixels = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(folder / "images" / f"{stem}.png")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_set(tmp_path / "data" / "seg" / "msrc", ["sky", "sheep", "grass", "boat"], count=3)
    write_set(tmp_path / "data" / "seg" / "coco80", list(NAMES), count=3)
    write_set(tmp_path / "data" / "seg" / "ccp", ["background", "hat", "shoes"], count=3)
    return tmp_path / "data"


def run(data: Path, tmp_path: Path, model: Path, *options: str) -> dict:
    files = ["--json", str(tmp_path / "found.json"), "--markdown", str(tmp_path / "found.md")]
    base = ["--data", str(data), "--model", str(model), "--px", "32", "--sets", "msrc,coco80,ccp"]
    assert segmentation.main([*base, *files, *options]) == 0
    assert not list(tmp_path.glob("*.part"))
    return json.loads((tmp_path / "found.json").read_text())


def test_the_script_measures_a_model_with_a_head(data, tmp_path, model, monkeypatch, capsys):
    monkeypatch.setattr(kept_out, "SAMPLES", 20)
    folder = model.save_pretrained(tmp_path / "model")
    found = run(data, tmp_path, folder, "--limit", "2", "--continuous-head", str(folder))
    assert [(entry["set"], entry["images"], entry["names"], entry["learned_names"]) for entry in found["sets"]] == [
        ("msrc", 2, 4, 2),
        ("coco80", 2, 5, 3),
        ("ccp", 2, 2, 2),
    ]
    assert [entry["background_ignored"] for entry in found["sets"]] == [False, True, True]
    assert [len(entry["rows"]) for entry in found["sets"]] == [5, 5, 5]
    assert [[level["codes"] for level in entry["levels"]] for entry in found["sets"]] == [[8, 16, 64]] * 3
    assert [row["set"] for row in found["kept_out"][::5]] == ["msrc", "coco80", "msrc + coco80"]
    assert found["notes"] == []
    assert capsys.readouterr().out.strip() == (tmp_path / "found.md").read_text().strip()
    assert "coco80: 3 of 5 names, 2 images, background ignored" in (tmp_path / "found.md").read_text()


def test_the_script_measures_a_model_without_a_head_twice_alike(data, tmp_path, toy_tokenizer, monkeypatch):
    monkeypatch.setattr(kept_out, "SAMPLES", 20)
    folder = toy_tokenizer.save_pretrained(tmp_path / "model")
    found = run(data, tmp_path, folder)
    assert [row["from"] for row in found["sets"][0]["rows"]] == [rows.LOOKUP, rows.DENSE]
    assert "no segmentation head" in found["notes"][0]
    assert "note: the model has no segmentation head" in (tmp_path / "found.md").read_text()
    assert run(data, tmp_path, folder) == found


def test_a_continuous_head_must_be_there_and_of_the_same_tokenizer(data, tmp_path, toy_tokenizer, capsys):
    folder = toy_tokenizer.save_pretrained(tmp_path / "model")
    options = ["--data", str(data), "--model", str(folder), "--continuous-head", str(folder)]
    assert segmentation.main(options) == 1
    assert "expected a model with a head" in capsys.readouterr().err


def test_codes_are_named_on_one_split_and_measured_on_the_other(model, data):
    test = open_segmentation_set(data / "seg" / "coco80", split="test")
    levels = rows.name_codes(model, test, Names.of(test.names), px=32, limit=None, say=lambda _: None)
    counts = rows.count(model, test, Names.of(test.names), px=32, limit=None, say=lambda _: None)
    for found, again in zip(levels, counts.semantics.levels, strict=True):
        assert torch.equal(found.counts, again.counts)
        assert found.counts[:, [0, 2, 4]].sum() == 0  # background and kept-out names
        assert found.counts.sum() > 0
