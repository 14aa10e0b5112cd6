"""Lists of words in the forms that people have them: each is read as it is meant, or refused."""

from __future__ import annotations

import pytest

from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.images.labelled.word_lists import parse_word_list

SAME = {
    "lines": "dog\ncar|auto\n",
    "lines of Windows": "\tdog\r\n\r\n# no more\r\ncar|auto",
    "commas": "dog, car|auto",
    "semicolons": "dog; car|auto",
    "tabs": "dog\tcar|auto",
    "JSON": '["dog", "car|auto"]',
    "JSON with synonyms": '[\n  "dog",\n  ["car", "auto"]\n]\n',
    "Python": "['dog', 'car|auto']",
    "lines that were cut out of JSON": '"dog",\n"car|auto",\n',
    "lines that end with a comma": "dog,\ncar|auto\n",
    "quotes": '"dog", "car|auto"',
    "single quotes": "'dog', 'car|auto'",
    "typographic quotes": "\u201cdog\u201d\n\u201ccar|auto\u201d",
    "numbers from 1": "1. dog\n2. car|auto",
    "numbers from 0": "0: dog\n1: car|auto",
    "numbers in another order": "1) car|auto\n0) dog",
    "numbers and spaces": "1 dog\n2 car|auto",
    "numbers and quotes": '0: "dog",\n1: "car|auto",',
    "numbers in parentheses": "(1) dog\n(2) car|auto",
    "numbers in brackets": "[0] dog\n[1] car|auto",
    "numbers and dashes": "1 - dog\n2 - car|auto",
    "numbers and arrows": "0 -> dog\n1 -> car|auto",
    "settings": "0=dog\n1=car|auto",
    "numbers behind": "car|auto: 1\ndog: 0",
    "numbers in one line": "1. dog, 2. car|auto",
    "CSV": "id,name\n0,dog\n1,car|auto\n",
    "CSV of one column": "name\ndog\ncar|auto\n",
    "CSV without a header": "0;dog\n1;car|auto\n",
    "CSV with more columns": "Class,Colour,id\ncar|auto,red,2\ndog,blue,1\n",
    "YAML": "- dog\n- car|auto\n",
    "bullets": "* dog\n* car|auto\n",
    "round bullets": "\u2022 dog\n\u2022 car|auto\n",
}


@pytest.mark.parametrize("form", SAME)
def test_every_form_gives_the_same_list(form: str) -> None:
    assert parse_word_list(SAME[form], where="--classes") == ["dog", "car|auto"]


@pytest.mark.parametrize(
    "text", ["bird's nest\ndog's bed", '24" screen\nt-shirt', "car: red\n2 wheels", "7 dwarfs", "cat,,dog"]
)
def test_marks_within_names_are_kept(text: str) -> None:
    assert parse_word_list(text, where="--classes") == text.replace(",", "\n").split("\n")


def test_a_comma_is_part_of_a_name_in_quotes() -> None:
    assert parse_word_list('"cat, or kitten"\ndog', where="") == ["cat, or kitten", "dog"]
    assert parse_word_list('"cat, or kitten",dog', where="") == ["cat, or kitten", "dog"]


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("[dog, cat]", r"'\[dog, cat\]'"),
        ('{"dog": 0}', "JSON array"),
        ('[{"name": "dog"}]', "JSON array"),
        ("[]", "JSON array"),
        ("dog, cat; car", "both .*'dog, cat; car'"),
        ("dog, cat\ncar", "'dog, cat'"),
        ("dog, cat\ncar, bus", "'dog, cat'"),
        ("0,dog\n1,cat,red", "'0, dog'"),
        ("3. dog\n4. cat", "got 3, 4"),
        ("1. dog\n1. cat", "got 1, 1"),
        ("1. dog\ncat", "'cat'"),
        ('"dog\ncat', "quotes"),
        ("names: [dog, cat]", r"'names: \[dog'"),
        ("nc: 2\nnames:\n- dog\n- cat", "'names:'"),
        ("classes = ['dog', 'cat']", "classes = "),
        ("('dog', 'cat')", r"\('dog'"),
        ("<!DOCTYPE html><html></html>", "html"),
        ('item {\n  id: 1\n  name: "dog"\n}', "'item {'"),
        ("dog\0\ncat", "dog"),
        ("dog\\ncat", "dog"),
        ("@classes.txt", "@classes"),
        ("\u732b\u3001\u72ac", "\u3001"),
    ],
)
def test_a_list_that_could_be_misread_is_refused_with_the_form_that_is_expected(text: str, facts: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){facts}.*one name per line.*JSON array") as error:
        parse_word_list(text, where="--classes-file 'x.txt'")
    assert "--classes-file 'x.txt'" in str(error.value)
