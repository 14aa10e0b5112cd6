"""`check_text_length`: refuses texts that a tokenizer has cut, whatever kind of open_clip tokenizer it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from pyramid_tokenizer.errors import ConfigError

_MARKS = ("<start_of_text>", "<end_of_text>")
"""What open_clip's own tokenizer reads as the begin and the end of a text, wherever it stands."""

_CLASS_TOKEN_MODE = "clips"
"""The mode of open_clip's `HFTokenizer` whose last column is a class token, not a token of the text."""


def check_text_length(tokenizer: Callable[..., Tensor], texts: Sequence[str], tokens: Tensor) -> None:
    """Raises ConfigError, which quotes the text, where the tokenizer cut one to fit the model's context length.

    A row that ends or begins with two tokens of padding holds its whole text, which costs one comparison. Only the other
    rows are tokenised a second time, with twice the context length: a text was cut if this gives other tokens.

    Args:
        tokenizer: A tokenizer of open_clip: it turns a list of N texts into ids (N, `context_length`) and takes
            `context_length` as an option.
        texts: The N texts.
        tokens: (N, L) int64, what the tokenizer made of them.

    Raises:
        ConfigError: A text was cut, or it holds a mark of the tokenizer, such as "<end_of_text>", behind which nothing is read.

    Example:
        >>> from open_clip import SimpleTokenizer
        >>> tokenizer, texts = SimpleTokenizer(context_length=4), ["a cat", "a big cat"]
        >>> check_text_length(tokenizer, texts[:1], tokenizer(texts[:1]))
        >>> check_text_length(tokenizer, texts, tokenizer(texts))
        Traceback (most recent call last):
        pyramid_tokenizer.errors.ConfigError: expected texts of at most 4 tokens, got 5 in 'a big cat': ...
    """
    length = tokens.shape[1]
    marks = [mark for mark in getattr(getattr(tokenizer, "tokenizer", None), "all_special_tokens", _MARKS) if mark]
    for text in texts:
        if found := next((mark for mark in marks if mark in text.lower() or mark in text), None):
            raise ConfigError(
                f"expected texts without marks of the tokenizer, got {found!r} in {text!r}: leave the mark out"
            )
    # the padding is what most of a long row of a short text consists of
    pad = int(tokenizer(["a"], context_length=4 * length)[0].mode().values)
    end = length - _class_columns(tokenizer)
    padding = tokens[:, :end] == pad
    whole = padding[:, :2].all(1) | padding[:, -2:].all(1)
    for index in (~whole).nonzero().flatten().tolist():
        wider = tokenizer([texts[index]], context_length=2 * length)[0, : 2 * length - _class_columns(tokenizer)]
        content = _without_padding(wider, pad)
        if content != _without_padding(tokens[index, :end], pad):
            count = len(content) + _class_columns(tokenizer)
            got = f"{count}" if count < 2 * length else f"{count} or more"
            raise ConfigError(
                f"expected texts of at most {length} tokens, got {got} in {texts[index]!r}: shorten the text, for the "
                "backbone's text network reads nothing after them"
            )


def _class_columns(tokenizer: object) -> int:
    return int(getattr(tokenizer, "tokenizer_mode", "") == _CLASS_TOKEN_MODE)


def _without_padding(row: Tensor, pad: int) -> list[int]:
    """The tokens of one row without the padding at its ends."""
    kept = (row != pad).nonzero().flatten()
    return row[int(kept[0]) : int(kept[-1]) + 1].tolist() if len(kept) else []
