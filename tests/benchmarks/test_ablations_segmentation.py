"""The table of the semantic branch: what each row moves and leaves, how masks are counted, and how the table looks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import ablations
from benchmarks import ablations_segmentation as heads
from benchmarks import segmentation_rows as rows
from benchmarks.segmentation import learned_row
from pyramid_tokenizer.segmentation.segmenter import Segmenter, build_head

NAMES = ("sky", "sheep", "grass", "boat", "car")  # two of which are kept out of training
SMALL = heads.HeadSettings(head_steps=2, batch_size=2, crop_px=32, short_side_px=32, val_images=2, side_px=64)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data folder whose sets have train and val splits, and nothing to test on."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name in heads.SETS:
        for part in ("images", "labels", "splits"):
            (folder / "seg" / name / part).mkdir(parents=True)
        (folder / "seg" / name / "classes.txt").write_text("\n".join(NAMES) + "\n")
        for split, count in (("train", 3), ("val", 2)):
            stems = [f"{split}{i}" for i in range(count)]
            (folder / "seg" / name / "splits" / f"{split}.txt").write_text("\n".join(stems) + "\n")
            for stem in stems:
                for part, shape, top in (("labels", (3, 4), len(NAMES)), ("images", (5, 6, 3), 256)):
                    image = Image.fromarray(rng.integers(0, top, shape, dtype=np.uint8))
                    how = Image.Resampling.NEAREST if part == "labels" else Image.Resampling.BICUBIC
                    image.resize((48, 40), how).save(folder / "seg" / name / part / f"{stem}.png")
    return folder


@pytest.fixture
def images(smooth):
    return smooth(2, seed=7).mul(255).byte()


@pytest.fixture
def row(data, tmp_path, toy_tokenizer, images):
    """row(name) -> that row on the toy tokenizer; kept in a folder of this test."""

    def make(name, base=toy_tokenizer, settings=SMALL):
        return heads.row_of(name, base, images, data=data, out=tmp_path / "out", settings=settings)

    return make


def size_of(*modules):
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_decoupled_rows_leave_every_decoded_image_and_joint_learning_does_not(row, toy_tokenizer):
    before = {name: tensor.clone() for name, tensor in toy_tokenizer.own_tensors().items()}
    found = {name: row(name) for name in heads.VARIANTS}
    assert all(torch.equal(tensor, before[name]) for name, tensor in toy_tokenizer.own_tensors().items())
    assert toy_tokenizer.config.segmentation is None  # the base itself stays as it was
    psnr = {name: figures["psnr"] for name, figures in found.items()}
    assert psnr["look-up"] == psnr["shared"] == psnr["own-trunk"] != psnr["joint"]
    assert [len(values) for values in psnr.values()] == [3] * 4
    sizes = {name: figures["trained_parameters"] for name, figures in found.items()}
    trunk, decoder = size_of(toy_tokenizer.trunk), size_of(toy_tokenizer.pixel_decoder)
    head = size_of(build_head(toy_tokenizer.config, embedding_dim=16))
    assert sizes == {"look-up": 0, "shared": head, "own-trunk": head + trunk, "joint": head + trunk + decoder}
    assert found["look-up"]["minutes"] == 0 < found["shared"]["minutes"]


def test_heads_never_see_kept_out_names_and_train_alike_but_for_the_switches(data, toy_tokenizer, monkeypatch):
    calls = []
    monkeypatch.setattr(heads, "train_segmentation", lambda tok, sets, **options: calls.append(options))
    train = list(heads.open_sets(data, "train").values())
    for variant in list(heads.VARIANTS.values())[1:]:
        heads.trained(variant, toy_tokenizer, train, SMALL)
    assert [call["left_out"] for call in calls] == [{"sheep", "boat"}] * 3
    assert [call["segmentation"].shared_decoder for call in calls] == [True, False, True]
    assert [call["config"].decoupled for call in calls] == [True, True, False]
    same = {dataclasses.replace(call["config"], decoupled=True) for call in calls}
    assert {(plan.head_steps, plan.batch_size, plan.crop_px) for plan in same} == {(2, 2, 32)}
    assert len(same) == len({dataclasses.replace(call["segmentation"], shared_decoder=True) for call in calls}) == 1


@pytest.mark.parametrize("source", [rows.DECODER, rows.LOOKUP])
def test_masks_score_as_in_the_benchmark_of_segmentation(data, toy_tokenizer, source):
    head = build_head(toy_tokenizer.config, embedding_dim=16)
    for parameter in head.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.05)
    both, labelled = Segmenter(toy_tokenizer, head), heads.open_sets(data, "val")["msrc"]
    names = rows.Names.of(labelled.names)
    counts = rows.count(both, labelled, names, px=32, limit=None, say=lambda _: None)
    seg = both if source == rows.DECODER else Segmenter(toy_tokenizer)
    found = heads.masks(seg, "msrc", labelled, SMALL)
    assert found == learned_row(found["from"], counts.learned[source])
    assert found["classes_present"] == 3


def test_a_row_is_kept_for_its_settings_and_its_decoder(row, toy_tokenizer, tmp_path, monkeypatch):
    first = row("look-up")
    with monkeypatch.context() as patch:
        patch.setattr(heads, "measure", lambda *_: pytest.fail("measured again"))
        assert row("look-up") == first
    monkeypatch.setattr(heads, "measure", lambda *_: {})
    other = heads.copy.deepcopy(toy_tokenizer)
    next(other.pixel_decoder.parameters()).add_(1)
    assert other.fingerprint == toy_tokenizer.fingerprint
    assert row("look-up", base=other)["weights"] != first["weights"]
    row("look-up", settings=dataclasses.replace(SMALL, labelled=1))
    assert len(list((tmp_path / "out").glob("head-look-up-*.json"))) == 3


def test_the_table_shows_masks_of_each_set_beside_the_pixels():
    scores = {"miou_present": 0.3456, "interval": [0.3, 0.4004]}
    figures = {"psnr": [17.004, 23.456], "trained_parameters": 123456, "minutes": 3.14}
    other = {"camvid": scores, "msrc": {"miou_present": 0.5, "interval": [None, None]}}
    text = heads.to_markdown([{"title": "shared, decoupled", "masks": other, **figures}])
    head, _, line = ([cell.strip() for cell in line.split("|")[1:-1]] for line in text.split("\n"))
    assert list(zip(head, line, strict=True)) == [
        ("decoder, learning", "shared, decoupled"),
        ("camvid mIoU", "34.6"),
        ("95 %", "30.0 to 40.0"),
        ("msrc mIoU", "50.0"),
        ("95 %", "- to -"),
        ("PSNR, dB", "17.00 / 23.46"),
        ("trained parameters", "123,456"),
        ("minutes", "3.1"),
    ]


def test_the_command_trains_a_row_and_prints_the_table(data, tmp_path, toy_tokenizer, images, monkeypatch, capsys):
    (tmp_path / "data" / "recon" / "val").mkdir(parents=True)
    (tmp_path / "data" / "seg").symlink_to(data / "seg")
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "data" / "recon" / "val" / f"{i}.png")
    model = toy_tokenizer.save_pretrained(tmp_path / "model")
    where = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--model", str(model)]
    how = ["--quick", "--head-steps", "1", "--batch", "2", "--crop", "32", "--variants", "look-up,shared"]
    monkeypatch.setattr("sys.argv", ["ablations.py", "--segmentation", *where, *how])
    ablations.main()
    found = capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in found.strip().split("\n")[2:]] == [
        "no head: the look-up",
        "shared, decoupled",
    ]
    ablations.main()
    assert capsys.readouterr().out == found
