"""The figures of precision.py on the toy, and its table."""

from __future__ import annotations

import copy

import torch

from benchmarks import precision


def test_a_half_precision_changes_ids_and_decibels_and_float32_none(toy_tokenizer):
    images = torch.rand(8, 3, 64, 64)
    same = precision.compare(toy_tokenizer, toy_tokenizer, images)
    assert same["ids_that_differ"] == [0, 0, 0]
    assert same["db"] == same["db_half"] == same["db_encoder_alone"] == same["db_decoder_alone"]
    half = precision.compare(toy_tokenizer, copy.deepcopy(toy_tokenizer).to(dtype=torch.bfloat16), images)
    assert 0 < max(half["ids_that_differ"]) < 0.5
    assert half["db"] == same["db"]
    assert len({half[key] for key in ("db", "db_half", "db_encoder_alone", "db_decoder_alone")}) > 2


def test_the_table_has_a_row_for_each_precision():
    found = {
        "ids_that_differ": [0.0, 0.026],
        "db": 24.0,
        "db_half": 23.9,
        "db_encoder_alone": 23.95,
        "db_decoder_alone": 24.0,
    }
    speeds = {f"{what}, {name}": 2.0 for what in ("encode", "decode") for name in ("float32", "bfloat16")}
    lines = precision.to_markdown({"compared": {"bfloat16": found}, "images_per_second": speeds}).splitlines()
    assert len(lines) == 4
    assert "2.60%" in lines[3]
    assert "-0.100" in lines[3]
