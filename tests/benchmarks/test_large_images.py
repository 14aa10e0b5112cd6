"""benchmarks/large_images.py: time and memory of one decode and one encode."""

import json

from benchmarks import large_images


def test_a_part_is_measured_and_its_table_has_ratios(toy_tokenizer, tmp_path, capsys):
    folder = str(toy_tokenizer.save_pretrained(tmp_path / "model"))
    assert large_images.main(["ids", "--sizes", "96x64", "--model", folder]) == 0
    assert json.loads(capsys.readouterr().out)["differ"] == 0
    rows = []
    for part in (*large_images.PARTS, "windows"):
        assert large_images.main(["--here", part, "--sizes", "160x64", "--model", folder, "--window", "128"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert 0 < found["start_mb"] <= found["peak_mb"]
        assert found["seconds"] > 0
        rows.append({"part": part, "size": "160x64", "ns_per_px": 50.0, **found})
    shown = large_images.to_markdown([*rows, {**rows[0], "size": "320x64", "ns_per_px": 75.0}])
    assert shown.splitlines()[-1].split("|")[4].strip() == "1.50"
