"""benchmarks/windows.py: what windows change, against the whole image."""

import json

import pytest

from benchmarks import windows
from pyramid_tokenizer.images.files import save_image
from pyramid_tokenizer.images.pixels import to_pil


def test_a_backbone_that_sees_no_further_than_a_cell_loses_nothing(toy_tokenizer, smooth, tmp_path, capsys):
    folder = str(toy_tokenizer.save_pretrained(tmp_path / "model"))
    save_image(to_pil(smooth(1, 64, 200))[0], tmp_path / "wide.png")
    assert windows.main(["--model", folder, "--images", str(tmp_path / "wide.png"), "--windows", "128", "256"]) == 0
    shown, found = capsys.readouterr().out.rstrip().rsplit("\n", 1)
    (row,) = json.loads(found)["rows"]  # the photo is no larger than 256 px
    assert (row["window_px"], row["images"], row["windows"], row["differ"]) == (128, 1, 2, [0, 0, 0])
    assert row["psnr"] == row["psnr_whole"]
    cells = [cell.strip() for cell in shown.splitlines()[-1].split("|")]
    assert cells[1:5] == ["128", "1", "2.0", "0 0 0"]


def test_tokens_that_differ_are_counted(toy_tokenizer, smooth):
    image = smooth(1, 64, 160)
    row = windows.compare(toy_tokenizer, image, toy_tokenizer.encode(image.flip(3)), 128)
    assert all(0.3 < share <= 1 for share in row["differ"])
    assert row["psnr"][0] > row["psnr_whole"][0]
    assert row["cosine"] == pytest.approx(1, abs=0.3)
