import json

import pytest

from pyramid_tokenizer.errors import DataError
from pyramid_tokenizer.images.labelled.class_names import (
    CITYSCAPES_19,
    PASCAL_CONTEXT_59,
    VOC_20,
    distinct_names,
    read_class_names,
)


def written(tmp_path, text, name="classes.txt"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("wall\nbuilding|edifice\n", "classes.txt"),
        ("wall\r\nbuilding|edifice\r\n\r\n", "classes.txt"),
        ("\ufeffwall\nbuilding|edifice", "classes.txt"),
        ("0: wall\n1: building|edifice\n", "labels.txt"),
        ("1 : building|edifice\n0 : wall\n", "labels.txt"),
        ("Idx\tRatio\tTrain\tVal\tName\n1\t0.15\t11664\t1172\twall \n2\t0.10\t6046\t612\tbuilding, edifice\n", "o.txt"),
        ("Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1\t9\t9\t1\twall\n2\t0.1\t6\t6\t1\tbuilding;edifice\n", "o.txt"),
        (json.dumps(["wall", "building|edifice"]), "ade.json"),
        (json.dumps(["wall", "building|edifice"]), "classes.txt"),
        ("1. wall\n2. building|edifice\n", "classes.txt"),
        ('"wall",\n"building|edifice",\n', "classes.txt"),
        ("id,name\n0,wall\n1,building|edifice\n", "classes.csv"),
        (json.dumps(["wall ", "building, edifice"]), "ade.json"),
    ],
)
def test_every_form_of_a_list_gives_the_same_names(tmp_path, text, name):
    assert read_class_names(written(tmp_path, text, name)) == ("wall", "building|edifice")


def test_numbers_that_are_no_class_are_left_out_where_the_count_says_so(tmp_path):
    path = written(tmp_path, "0: unlabeled\n1: person\n2: street sign\n3: car\n")
    assert read_class_names(path, num_classes=2, left_out=(0, 2)) == ("person", "car")
    assert read_class_names(path, num_classes=4, left_out=(0, 2)) == ("unlabeled", "person", "street sign", "car")


def test_names_may_repeat_and_hold_colons(tmp_path):
    assert read_class_names(written(tmp_path, "door\ndoor\nscreen: wide\n")) == ("door", "door", "screen: wide")


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("wall\n\nsky\n", "c.txt", "empty line 2 in .*c.txt': the line's number is the label"),
        ("# classes\nwall\nsky\n", "c.txt", "comment in line 1 .*c.txt"),
        ("wall, facade\nsky\ntree\n", "c.txt", "'wall, facade'"),
        ("", "c.txt", "3 .*got 0"),
        ("wall\nsky\n", "c.txt", "3 .*got 2 in .*c.txt"),
        ("{", "c.json", "no JSON in"),
        ('{"wall": 0}', "c.json", "other JSON"),
    ],
)
def test_a_file_that_is_no_list_of_that_many_names_is_refused(tmp_path, text, name, says):
    with pytest.raises(DataError, match=says):
        read_class_names(written(tmp_path, text, name), num_classes=3)


def test_numbers_with_gaps_need_a_count_to_be_names(tmp_path):
    with pytest.raises(DataError, match="1 to 2"):
        read_class_names(written(tmp_path, "1: a\n2: b\n"))


def test_a_shared_word_stays_with_the_class_that_has_no_other_or_names_it_first():
    names = ["blind|screen", "Screen|crt screen", "screen|projection screen", "pier|wharf", "pier", "sky"]
    assert distinct_names(names) == ("blind", "Screen|crt screen", "projection screen", "wharf", "pier", "sky")
    assert distinct_names(distinct_names(names)) == distinct_names(names)
    assert distinct_names(["a|b|a"]) == ("a|b",)
    assert distinct_names(VOC_20) == VOC_20


def test_a_class_that_is_left_without_a_word_is_named():
    with pytest.raises(DataError, match="class 1, got 'door'"):
        distinct_names(["door", "door"])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere.txt"):
        read_class_names(tmp_path / "nowhere.txt")


def test_the_lists_in_the_code_have_their_lengths_and_no_name_twice():
    for names, count in ((VOC_20, 20), (PASCAL_CONTEXT_59, 59), (CITYSCAPES_19, 19)):
        assert len(names) == len(set(names)) == count
    assert set(VOC_20) < set(PASCAL_CONTEXT_59)


@pytest.mark.parametrize(
    ("data", "fact"),
    [("\u00e9lan".encode("latin-1"), "utf-8"), ("dog".encode("utf-16"), "utf-8"), (b"dog; cat;", "place 3 of 3")],
)
def test_other_bytes_than_utf_8_and_empty_names_are_refused(tmp_path, data, fact):
    (tmp_path / "classes.txt").write_bytes(data)
    with pytest.raises(DataError, match=f"{fact}.*classes.txt|classes.txt.*{fact}"):
        read_class_names(tmp_path / "classes.txt")
