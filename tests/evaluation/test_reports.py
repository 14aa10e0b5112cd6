"""Evaluations of reconstructions and semantics, and their reports."""

from __future__ import annotations

import json
from array import array

import numpy as np
import pytest
import torch
from PIL import Image

from pyramid_tokenizer.errors import DataError, ImageValueError
from pyramid_tokenizer.evaluation import psnr
from pyramid_tokenizer.evaluation import reconstruction as module
from pyramid_tokenizer.evaluation.bootstrap import mean_interval
from pyramid_tokenizer.evaluation.crops import centre_crop, crop_batches
from pyramid_tokenizer.evaluation.frechet import frechet_distance
from pyramid_tokenizer.evaluation.metrics import ms_ssim
from pyramid_tokenizer.evaluation.reconstruction import evaluate_reconstruction
from pyramid_tokenizer.evaluation.report_of import reconstruction_data, reconstruction_report, semantics_report
from pyramid_tokenizer.evaluation.semantics import evaluate_semantics, read_labels
from pyramid_tokenizer.hub.card import model_card
from pyramid_tokenizer.images import open_images, to_pil, to_uint8

FACTS = {"model": "toy", "fingerprint": "0" * 64, "data": "photos", "date": "2026-11-26"}


@pytest.fixture(scope="module")
def batches(smooth):
    images = to_uint8(smooth(5, 64, 64, seed=8))
    return [images[:3], images[3:]]


@pytest.fixture(scope="module")
def measured(toy_tokenizer, batches):
    return evaluate_reconstruction(toy_tokenizer, batches, codecs=["JPEG"], perceptual=False)


def test_every_prefix_and_codec_has_the_mean_of_its_images(toy_tokenizer, batches, measured):
    rows = {row["what"]: row for row in measured.data["rows"]}
    images = torch.cat(batches)
    tokens = toy_tokenizer.encode(images / 255)
    for count, what in enumerate(("level 0", "levels 0-1", "levels 0-2"), start=1):
        values = psnr(images, to_uint8(toy_tokenizer.decode(tokens[:count])))
        assert rows[what]["psnr"] == pytest.approx(float(values.mean()))
        assert rows[what]["bits_per_pixel"] == pytest.approx(tokens[:count].bits_per_pixel)
        assert rows[what]["intervals"]["psnr"] == list(mean_interval(values))
    assert [what for what in rows if what.startswith("JPEG")] == [
        "JPEG, quality 5",
        "JPEG, quality 10",
        "JPEG, quality 20",
        "JPEG, quality 40",
    ]
    sparse = [rows[f"by content, quality {q:g}"]["bits_per_pixel"] for q in module.QUALITIES]
    assert sparse == sorted(sparse)
    assert "ms_ssim: images of 64 px are too small" in measured.data["left_out"]


def test_levels_have_use_perplexity_and_the_bits_of_an_ideal_code(toy_tokenizer, batches, measured):
    ids = toy_tokenizer.encode(torch.cat(batches) / 255).ids[1]
    share = torch.bincount(ids.flatten(), minlength=16).double() / ids.numel()
    entropy = -(share[share > 0] * share[share > 0].log2()).sum()
    level = measured.data["levels"][1]
    assert level["usage"] == pytest.approx(float((share > 0).double().mean()))
    assert level["entropy_bits_per_pixel"] == pytest.approx(float(entropy) * 16 / 64**2)
    assert level["bits_per_pixel"] == 4 * 16 / 64**2


def test_what_is_kept_of_each_batch_is_numbers(toy_tokenizer, batches):
    run = module._Run(tok=toy_tokenizer, perceptual=False)
    for batch in batches:  # small tensors that stay between large ones that go split the heap: 9 MB more for each image
        run.add(batch)
    kept = [value for one in run.scores.values() for listed in one.values.values() for value in listed]
    assert {type(value) for value in kept} == {float} and len(kept) % 5 == 0
    assert {len(numbers) for numbers in run.embeddings.values()} == {5 * toy_tokenizer.backbone.embedding_dim}
    assert all(isinstance(numbers, array) for numbers in run.embeddings.values())


@pytest.mark.slow  # so does matplotlib
def test_two_runs_write_the_same_report(toy_tokenizer, batches, measured, tmp_path):
    again = evaluate_reconstruction(toy_tokenizer, batches, codecs=["JPEG"], perceptual=False)
    paths = reconstruction_report(measured, FACTS).write(tmp_path / "a")
    reconstruction_report(again, FACTS).write(tmp_path / "b")
    assert {path.name for path in paths} == {"report.json", "report.md", "rates.png", "usage.png", "images.png"}
    for name in ("report.json", "report.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    for name in ("rates.png", "usage.png", "images.png"):
        with Image.open(tmp_path / "a" / name) as image:
            assert min(image.size) > 100
    data = json.loads((tmp_path / "a" / "report.json").read_text())
    assert data["fingerprint"] == FACTS["fingerprint"] and "5 images" in data["protocol"]


def test_a_model_card_reads_a_report(toy_config, measured):
    data = reconstruction_data(measured, FACTS)
    row = next(row for row in data["rows"] if row["what"] == "levels 0-2")
    card = model_card(toy_config, fingerprint=FACTS["fingerprint"], evaluation=data)
    assert f"| levels 0-2 | {row['bits_per_pixel']:.3f} | {row['psnr']:.2f} | {row['ssim']:.3f} |" in card
    assert data["protocol"] in card


def test_what_has_no_weights_on_this_machine_is_named_and_not_downloaded(toy_tokenizer, batches, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    run = module._Run(tok=toy_tokenizer, perceptual=True)
    run._start(64)
    lpips, rfid = (line for line in run.left_out if line.startswith(("LPIPS", "rFID")))
    assert "alexnet" in lpips and str(tmp_path) not in lpips
    assert "fidelity" in rfid


def test_a_run_without_images_is_an_error(toy_tokenizer):
    with pytest.raises(DataError):
        evaluate_reconstruction(toy_tokenizer, [])


def test_the_frechet_distance_of_normal_distributions_is_the_formulas():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(50, 4, generator=generator), torch.randn(30, 4, generator=generator) * 2 + 1
    first, second = np.cov(a.double().numpy().T), np.cov(b.double().numpy().T)
    values = np.linalg.eigvals(first @ second)
    expected = float((a.double().mean(0) - b.double().mean(0)).square().sum())
    expected += np.trace(first) + np.trace(second) - 2 * np.sqrt(values).sum().real
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    with pytest.raises(DataError):
        frechet_distance(a, b[:1])


@pytest.mark.slow  # torchmetrics takes seconds to import
def test_ms_ssim_is_1_for_equal_images_and_falls_with_noise(smooth):
    image = smooth(1, 176, 176, seed=2)
    noisy = (image + 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert float(ms_ssim(image, image)) == pytest.approx(1, abs=1e-6)
    assert 0.3 < float(ms_ssim(image, noisy)) < 0.95
    with pytest.raises(ImageValueError, match="176"):
        ms_ssim(image[..., :175], image[..., :175])


def test_crops_are_read_in_order_and_what_cannot_be_read_is_named(smooth, tmp_path):
    for i, image in enumerate(smooth(3, 40, 60, seed=5)):
        to_pil(image)[0].save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes(b"no image")
    skipped: list[str] = []
    found = list(crop_batches(open_images(tmp_path), side=32, batch_size=2, skipped=skipped))
    assert [tuple(batch.shape) for batch in found] == [(2, 3, 32, 32)]
    with Image.open(tmp_path / "2.png") as image:
        assert torch.equal(found[0][1], centre_crop(image, 32))
    assert len(skipped) == 1 and "1.png" in skipped[0]


@pytest.fixture
def labelled(smooth, tmp_path):
    for i, image in enumerate(smooth(6, 64, 64, seed=6)):
        to_pil(image)[0].save(tmp_path / f"{i}.png")
    rows = [f"{i}.png,{('dog', 'cat')[i % 2]},a photo number {i}" for i in range(6)]
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(["file,label,caption", *rows, "0.png,dog,another caption"]))
    return read_labels(path, tmp_path)


@pytest.mark.slow
def test_the_report_of_semantics_has_a_plot(toy_tokenizer, labelled, tmp_path):
    data = evaluate_semantics(toy_tokenizer, labelled, size=64)
    paths = semantics_report(data, FACTS).write(tmp_path / "report")
    assert [path.name for path in paths] == ["report.json", "report.md", "semantics.png"]
    assert "| zero-shot, top 1 of 2 names | tokens |" in (tmp_path / "report" / "report.md").read_text()


def test_names_and_captions_are_measured_from_tokens_and_from_the_backbone(toy_tokenizer, labelled, tmp_path):
    data = evaluate_semantics(toy_tokenizer, labelled, size=64)
    rows = {(row["what"], row["from"]): row for row in data["rows"]}
    tokens = [toy_tokenizer.encode(file, size=64) for file in labelled.files]
    right = [toy_tokenizer.classify(t, ["cat", "dog"]).labels.item() == (i + 1) % 2 for i, t in enumerate(tokens)]
    assert rows["zero-shot, top 1 of 2 names", "tokens"]["value"] == pytest.approx(sum(right) / 6)
    assert rows["image to caption, recall at 1 of 7", "backbone"]["count"] == 6
    assert rows["caption to image, recall at 5 of 6", "tokens"]["count"] == 7
    assert 0 <= rows["pixels with the same name as by dense features", "tokens"]["value"] <= 1
    with pytest.raises(DataError, match="dog"):
        evaluate_semantics(toy_tokenizer, labelled, names=["cat", "horse"], size=64)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name\ndog\n", "file and label"),
        ("file,label\nb.png,dog\n", "b.png"),
        ("file,label\na.png,dog\na.png,cat\n", "cat"),
    ],
)
def test_a_table_of_labels_that_cannot_be_used_is_refused(tmp_path, text, told):
    (tmp_path / "a.png").touch()
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=told):
        read_labels(tmp_path / "labels.csv", tmp_path)
