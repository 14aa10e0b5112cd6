"""A text that a tokenizer cuts is refused and quoted, for every kind of tokenizer that open_clip has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pyramid_tokenizer.backbones.text_length import check_text_length
from pyramid_tokenizer.errors import ConfigError

LENGTH = 8


class _Words:
    """Stands for a tokenizer of `transformers`: an id per word, with the padding and the end token of a real one."""

    def __init__(self, *, pad: int, end: int | None, left: bool = False):
        self.pad, self.end, self.left = pad, end, left
        self.bos_token_id, self.eos_token_id, self.cls_token_id, self.pad_token_id = 2, 3, 4, pad

    def __call__(self, texts: list[str], *, max_length: int = 0, truncation: bool = False, **_: Any) -> SimpleNamespace:
        rows = [[10 + sum(map(ord, word)) for word in text.split()] for text in texts]
        if not truncation:
            return _Ids(rows)
        ends = [] if self.end is None else [self.end]
        rows = [row[: max_length - len(ends)] + ends for row in rows]
        padding = [[self.pad] * (max_length - len(row)) for row in rows]
        pairs = zip(rows, padding, strict=True)
        return _Ids(torch.tensor([more + row if self.left else row + more for row, more in pairs]))


class _Ids(SimpleNamespace):
    def __init__(self, rows: Any):
        super().__init__(input_ids=rows)

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


def _by_transformers(inner: _Words, *, mode: str = "") -> Any:
    from open_clip.tokenizer import HFTokenizer, get_clean_fn

    tokenizer: Any = object.__new__(HFTokenizer)
    tokenizer.tokenizer, tokenizer.tokenizer_mode, tokenizer.context_length = inner, mode, LENGTH
    tokenizer.clean_fn, tokenizer.strip_sep_token = get_clean_fn("whitespace"), False
    return tokenizer


def _simple(**options: Any) -> Any:
    from open_clip import SimpleTokenizer

    return SimpleTokenizer(context_length=LENGTH, **options)


TOKENIZERS = {
    "OpenAI's": (_simple, 6),
    "random words are left out": (lambda: _simple(reduction_mask="random"), 6),
    "SigLIP's, which pads with its end token": (lambda: _by_transformers(_Words(pad=1, end=1)), 7),
    "without an end token": (lambda: _by_transformers(_Words(pad=0, end=None)), 8),
    "padding at the left": (lambda: _by_transformers(_Words(pad=0, end=1, left=True)), 7),
    "a class token at the end": (lambda: _by_transformers(_Words(pad=0, end=None), mode="clips"), 5),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_longest_text_that_fits_is_taken_and_one_more_word_is_refused(kind: str) -> None:
    make, fitting = TOKENIZERS[kind]
    tokenizer = make()
    for words in (1, fitting - 1, fitting):
        for text in (" ".join(["cat"] * words), " ".join("abcdefgh"[:words])):
            check_text_length(tokenizer, [text], tokenizer([text]))
    for words in (fitting + 1, fitting + 2, 40):
        for text in (" ".join(["cat"] * words), " ".join("abcdefgh"[i % 8] for i in range(words))):
            with pytest.raises(ConfigError, match=f"at most {LENGTH} tokens, .* '{text}'"):
                check_text_length(tokenizer, ["cat", text], tokenizer(["cat", text]))


def test_a_text_that_ends_in_the_id_of_the_padding_is_refused_too() -> None:
    tokenizer = _simple()
    text = "!" * 200
    assert 0 in tokenizer(["cat"])[0], "the padding"
    with pytest.raises(ConfigError, match=f"got .* in '{text}'"):
        check_text_length(tokenizer, [text], tokenizer([text]))


@pytest.mark.parametrize("text", ["a cat<end_of_text> and a dog", "a <END_OF_TEXT>", "<start_of_text>"])
def test_a_mark_of_the_tokenizer_inside_a_text_is_refused(text: str) -> None:
    tokenizer = _simple()
    with pytest.raises(ConfigError, match="of_text>' in "):
        check_text_length(tokenizer, ["a cat", text], tokenizer(["a cat", text]))


def test_a_backbone_refuses_it_wherever_a_text_is_given(load: Any) -> None:
    from pyramid_tokenizer.text import TextEncoder

    backbone = load("vit")
    for refused in (
        lambda: backbone.encode_text(["a cat", "one two three four five six seven"]),
        lambda: TextEncoder(backbone).encode_names(["a cat", "one two three four five six seven"], templates="plain"),
        lambda: TextEncoder(backbone).encode(["two three four"], templates=["one {} five six seven"]),
    ):
        with pytest.raises(ConfigError, match=r"at most 8 tokens, got 9 in 'one two three four five six seven'"):
            refused()
