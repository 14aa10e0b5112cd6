"""What the bundled model may read and what is kept out of its training."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("zebra", "zebra"),
        ("Three ZEBRAS graze.", "zebra"),
        ("mountain_bike", "bicycle"),
        ("a bicyclist, waiting", "bicycle"),
        ("people riding bikes", "bicycle"),
        ("bicycle-built-for-two", "bicycle"),
        ("sailboats", "boat"),
        ("a house boat", "boat"),
        ("canoes on a beach", "boat"),
        ("two lambs", "sheep"),
        ("bighorn", "sheep"),
        ("pizzas", "pizza"),
        ("beach umbrellas", "umbrella"),
        ("Motorbikes", None),
        ("shetland sheepdog", None),
        ("a frame of rambling roses", None),
        ("pizzazz", "pizza"),
        ("horse", None),
        ("", None),
    ],
)
def test_a_kept_out_name_is_found_in_its_kin_and_plurals_and_nowhere_else(text: str, name: str | None) -> None:
    from texts import is_kept_out, kept_out_name

    assert kept_out_name(text) == name
    assert is_kept_out(text) == (name is not None)


def test_every_kept_out_name_is_of_its_own_kin() -> None:
    from texts import KEPT_OUT, kept_out_name

    assert [kept_out_name(name) for name in KEPT_OUT] == list(KEPT_OUT)
    assert [kept_out_name(kin) for kins in KEPT_OUT.values() for kin in kins] == [
        n for n, kins in KEPT_OUT.items() for _ in kins
    ]


def test_held_out_names_are_fifteen_percent_and_the_same_in_every_spelling() -> None:
    from texts import is_held_out

    names = [f"name {i}" for i in range(4000)]
    assert abs(sum(map(is_held_out, names)) / len(names) - 0.15) < 0.02
    for name in ("cup", "tennis racket"):
        assert is_held_out(name) == is_held_out(name.title().replace(" ", "_") + "s")


def test_test_rows_are_a_tenth_and_those_of_the_issue() -> None:
    from texts import is_test_row

    found = [i for i in range(60) if is_test_row(f"train/{i}.jpg")]
    assert found == [4, 51]


def test_training_captions_are_neither_of_test_images_nor_of_kept_out_names(tmp_path: Path) -> None:
    from texts import training_captions

    (tmp_path / "captions").mkdir()
    rows = [
        {"id": 1, "image": "a.jpg", "split": "train", "captions": ["A cat.", "A boat."]},
        {"id": 2, "image": "b.jpg", "split": "test", "captions": ["A dog runs."]},
    ]
    (tmp_path / "captions" / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    with gzip.open(tmp_path / "captions" / "coco_val2017_captions_text_only.tsv.gz", "wt") as file:
        file.write("1\tA cat.\n2\ta dog runs\n3\tA horse eats.\n3\tTwo zebras.\n")
    assert training_captions(tmp_path) == ["A cat.", "A horse eats."]


def test_word_groups_follow_the_seed_and_hold_only_what_they_are_given() -> None:
    from texts import word_groups

    names, words = ["red cup", "tree", "sky", "road"], ["one", "two", "three"]
    groups = word_groups(names, words, 40)
    assert groups == word_groups(names, words, 40) != word_groups(names, words, 40, seed=1)
    rest = " ".join(groups)
    for text in (*names, *words, "and", ","):
        rest = rest.replace(text, "")
    assert not rest.strip()
