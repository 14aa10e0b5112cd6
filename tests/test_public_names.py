"""The public names are frozen: a change here is a change of the contract and earns a line in CHANGELOG.md."""

from __future__ import annotations

from pathlib import Path

import pytest

import pyramid_tokenizer

HOMES = {
    "FeaturePyramid": "pyramid_tokenizer.backbones.features",
    "PyramidTokenizer": "pyramid_tokenizer.tokenizer",
    "PyramidTokenizerError": "pyramid_tokenizer.errors",
    "Segmenter": "pyramid_tokenizer.segmentation.segmenter",
    "TokenPyramid": "pyramid_tokenizer.tokens.pyramid",
    "TokenizerConfig": "pyramid_tokenizer.config.models",
    "ToyBackbone": "pyramid_tokenizer.backbones.toy",
    "Vocabulary": "pyramid_tokenizer.tokens.vocabulary",
}
REPOSITORY = Path(__file__).parents[1]


def test_the_public_names_are_these_and_no_others() -> None:
    assert sorted(pyramid_tokenizer.__all__) == sorted([*HOMES, "__version__"])


@pytest.mark.parametrize(("name", "home"), HOMES.items())
def test_each_public_name_loads_the_class_of_its_home(name: str, home: str) -> None:
    value = getattr(pyramid_tokenizer, name)
    assert (value.__name__, value.__module__) == (name, home)
    assert getattr(pyramid_tokenizer, name) is value


def test_dir_lists_names_that_are_not_loaded_yet() -> None:
    assert set(pyramid_tokenizer.__all__) <= set(dir(pyramid_tokenizer))


def test_an_unknown_name_is_an_attribute_error_that_repeats_it() -> None:
    with pytest.raises(AttributeError, match="PyramidTokeniser"):
        _ = pyramid_tokenizer.PyramidTokeniser


def test_the_changelog_has_an_entry_for_this_version() -> None:
    assert f"\n## {pyramid_tokenizer.__version__}" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
