"""The figures of tokens by content, on the toy backbone."""

import pytest

from benchmarks import by_content
from pyramid_tokenizer import Segmenter
from pyramid_tokenizer.evaluation import ConfusionMatrix
from pyramid_tokenizer.images.labelled.labels import IGNORED
from pyramid_tokenizer.images.pixels import to_pil


def test_the_bd_rate_is_the_mean_log_ratio_of_rates_at_equal_db():
    line = [(0.1, 20.0), (0.2, 22.0), (0.4, 24.0)]
    assert by_content.bd_rate([(0.8 * rate, dB) for rate, dB in line], line, (0.1, 0.3)) == pytest.approx(-0.2)
    assert by_content.bd_rate(line, line, (0.15, 0.35)) == pytest.approx(0)
    better = [(rate, dB + 1) for rate, dB in line]  # at 21.5 to 22.5 dB: .125 to .175 of .175 to .25 bits
    assert -0.3 < by_content.bd_rate(better, line, (0.125, 0.175)) < -0.27


def test_every_table_is_printed_from_a_folder_of_images(detailed_tokenizer, smooth, tmp_path, monkeypatch, capsys):
    detailed_tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "images").mkdir()
    for i, image in enumerate(to_pil(smooth(3, 64, 64, seed=3))):
        image.save(tmp_path / "images" / f"{i}.png")
    for name, value in (
        ("SIDE_PX", 64),
        ("QUALITIES", (0.1, 0.5, 0.9)),
        ("TARGETS", (12.0, 40.0)),
        ("BUDGETS", (20, 50)),
    ):
        monkeypatch.setattr(by_content, name, value)
    monkeypatch.setattr(by_content, "RANGES", {"base levels": (0.05, 0.1), "all levels": (0.1, 0.3)})
    by_content.main(
        ["--images", str(tmp_path / "images"), "--model", str(tmp_path / "model"), "--json", str(tmp_path / "f.json")]
    )
    shown = capsys.readouterr().out
    for part in (
        "levels 0-2",
        "all levels, quality 0.9",
        "BD-rate, base levels",
        "in every image, by measured gains",
        "40 dB",
        "max_tokens",
    ):
        assert part in shown
    assert (tmp_path / "f.json").exists()


def test_masks_of_a_set_are_scored_from_full_pyramids_and_from_half(detailed_tokenizer, labelled):
    five = labelled(["red", "green", "blue", "yellow", "black"], 3)
    folder = five.files[0].image.parent.parent
    (folder / "splits").mkdir()
    (folder / "splits" / "test.txt").write_text("00\n01\n02\n")
    seg = Segmenter(detailed_tokenizer)
    (row,) = by_content.masks(seg, folder, limit=2)
    assert (row["set"], row["mode"], row["images"]) == (folder.name, "lookup", 2)
    wanted = {"full": ConfusionMatrix(5, ignore=IGNORED), "half": ConfusionMatrix(5, ignore=IGNORED)}
    for sample in (five[0], five[1]):
        full = detailed_tokenizer.encode(sample.image)
        most = full.num_tokens - full.ids[-1][0].numel() // 2
        half = detailed_tokenizer.encode(sample.image, max_tokens=most, levels=len(full))
        for what, tokens in (("full", full), ("half", half)):
            wanted[what].add(seg.segment(tokens, five.protocol.names).labels[0], sample.labels)
    for what, matrix in wanted.items():
        assert row[what] == pytest.approx(matrix.scores().miou_present)
    assert row["lost"][0] <= row["full"] - row["half"] <= row["lost"][1]
    assert f"| {folder.name}" in by_content.masks_table([row])
