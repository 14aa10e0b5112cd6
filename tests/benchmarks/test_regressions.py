"""benchmarks/regressions.py: what is called slower, and the files."""

import json

from benchmarks import regressions


def result(cpu="a", **costs):
    return {"machine": "m", "cpu": cpu, "product_ms": 2.0, "costs": costs}


def test_what_costs_over_15_percent_more_is_named_and_other_processors_are_not_judged():
    old = result(encode=10.0, decode=4.0, gone=1.0)
    assert regressions.slower(result(encode=11.4, decode=4.7, new=9.0), old) == {"decode": 4.7 / 4.0}
    assert regressions.slower(result(cpu="b", decode=9.0), old) == {}
    assert regressions.slower(result(decode=9.0), None) == {}
    shown = regressions.to_markdown(result(decode=4.6, new=9.0), old).splitlines()
    assert [cell.strip() for cell in shown[2].strip("|").split("|")] == ["decode", "9.2", "4.60", "4.00", "1.15"]
    assert [cell.strip() for cell in shown[3].strip("|").split("|")] == ["new", "18.0", "9.00", "–", "–"]


def test_new_figures_go_beside_the_committed_ones_which_only_accept_replaces(tmp_path, monkeypatch, capsys):
    measured = [result(decode=4.0), result(decode=8.0), result(decode=8.0)]
    monkeypatch.setattr(regressions, "measure", lambda model, rounds: measured.pop(0))
    options = ["--results", str(tmp_path)]
    assert regressions.main([*options, "--accept"]) == 0
    assert regressions.main(options) == 1
    assert "slower: decode costs 2.00 x" in capsys.readouterr().out
    assert json.loads((tmp_path / "new.json").read_text())["costs"] == {"decode": 8.0}
    assert json.loads((tmp_path / "committed.json").read_text())["costs"] == {"decode": 4.0}
    assert regressions.main([*options, "--accept"]) == 0
    assert json.loads((tmp_path / "committed.json").read_text())["costs"] == {"decode": 8.0}


def test_every_case_is_timed_beside_the_product(toy_tokenizer, tmp_path):
    found = regressions.measure(str(toy_tokenizer.save_pretrained(tmp_path / "model")), 1)
    assert len(found["costs"]) == 9
    assert all(cost > 0 for cost in found["costs"].values())
