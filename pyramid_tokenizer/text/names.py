"""`parse_names`: class names as people write them -> `ClassNames`: the synonyms of each class, and background words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.images.labelled.labels import NO_CLASS


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassNames:
    """Classes as words. `parse_names` makes and checks it."""

    synonyms: tuple[tuple[str, ...], ...]
    """The words of each class, the one to show first."""
    background: tuple[str, ...] = ()
    """Words for everything that is of no class."""

    @property
    def names(self) -> tuple[str, ...]:
        """N names: the first synonym of each class."""
        return tuple(words[0] for words in self.synonyms)

    @property
    def phrases(self) -> tuple[str, ...]:
        """All P words, class by class, then the background's."""
        return (*(word for words in self.synonyms for word in words), *self.background)

    @property
    def owner(self) -> Tensor:
        """(P,) int64, the class of each phrase; `NO_CLASS` for the background's."""
        owners = [index for index, words in enumerate(self.synonyms) for _ in words]
        return torch.tensor(owners + [NO_CLASS] * len(self.background), dtype=torch.int64)


def parse_names(names: Sequence[str], *, background: Sequence[str] | None = None) -> ClassNames:
    """Class names as people write them, checked and split into synonyms.

    Args:
        names: One entry per class; "car|automobile" are synonyms of one class. White space around words is removed, and runs
            of it inside become one space. Upper and lower case are kept.
        background: Words for everything else, e.g. ["wall", "floor", "sky"]; together they are the class `NO_CLASS`. None
            where there is no such class.

    Raises:
        ConfigError: `names` or `background` is a single string or an empty list, an entry is not a text or has an empty word,
            or a word occurs twice, whatever its case.

    Example:
        >>> classes = parse_names(["car|automobile", "dog"], background=["road"])
        >>> classes.names, classes.phrases
        (('car', 'dog'), ('car', 'automobile', 'dog', 'road'))
        >>> classes.owner.tolist()
        [0, 0, 1, -1]
    """
    classes = _split(names, "names")
    others = [] if background is None else _split(background, "background")
    places = [(f"names[{i}]", words) for i, words in enumerate(classes)]
    _check_distinct([*places, *((f"background[{i}]", words) for i, words in enumerate(others))])
    return ClassNames(synonyms=tuple(classes), background=tuple(word for words in others for word in words))


def as_list(texts: Sequence[str], *, what: str) -> list[str]:
    """`texts` as a list. Raises ConfigError for a single string, which would be read letter by letter."""
    if isinstance(texts, (str, bytes)):
        raise ConfigError(f"expected {what} as a list of texts, got the single one {texts!r}: write [{texts!r}]")
    if not isinstance(texts, Iterable):
        raise ConfigError(f"expected {what} as a list of texts, got {texts!r}: write e.g. ['dog', 'cat']")
    return list(texts)


def clean_text(text: object, *, where: str) -> str:
    """`text` trimmed and with single spaces. Raises ConfigError where nothing is left or where it is not a string."""
    if not isinstance(text, str):
        raise ConfigError(f"expected a text in {where}, got {type(text).__name__} {text!r}: convert it to str")
    words = " ".join(text.split())
    if not words:
        raise ConfigError(f"expected a word in {where}, got an empty one: remove it, or write what it names")
    return words


def _split(entries: Sequence[str], what: str) -> list[tuple[str, ...]]:
    """The synonyms of each entry."""
    listed = as_list(entries, what=what)
    if not listed:
        raise ConfigError(f"expected at least one entry in {what}, got none: name what to look for, e.g. ['dog']")
    split = []
    for i, entry in enumerate(listed):
        words = entry.split("|") if isinstance(entry, str) else [entry]
        place = f"{what}[{i}]" if len(words) == 1 else f"{what}[{i}] {entry!r}"
        split.append(tuple(clean_text(word, where=place) for word in words))
    return split


def _check_distinct(places: Sequence[tuple[str, tuple[str, ...]]]) -> None:
    seen: dict[str, str] = {}
    for place, words in places:
        here = f"{place} {'|'.join(words)!r}"
        for word in words:
            if word.casefold() in seen:
                earlier = seen[word.casefold()]
                got = f"twice in {here}" if earlier == here else f"in {earlier} and in {here}"
                raise ConfigError(
                    f"expected each word once, whatever its case, got {word!r} {got}: remove one; synonyms of one class go "
                    "into one entry, 'car|automobile'"
                )
            seen[word.casefold()] = here
