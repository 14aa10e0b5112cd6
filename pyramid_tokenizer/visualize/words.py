"""`NearestWords`: the words of a list whose embeddings are nearest to what a code adds to an image's meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.checks.arguments import check_kinds
from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.tokenizer import PyramidTokenizer

_CODES_PER_PRODUCT = 2048


@lru_cache(maxsize=1)
def common_words() -> tuple[str, ...]:
    """Some hundred English words for what can be seen, in alphabetical order.

    Example:
        >>> "bicycle" in common_words(), len(common_words()) > 400
        (True, True)
    """
    text = files("pyramid_tokenizer.visualize").joinpath("words.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return tuple(sorted({word.strip() for line in lines for word in line.split(",")}))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NearestWords:
    """Similarities of the codes of every level with a list of words.

    Both sides are centred first, codes on the mean of their level and words on the mean of the list: what all codes of a level
    share, and what all words share, says nothing about one of them. A level whose codes were fitted to pixels alone has no
    words, and neither has a detail level.

    Example:
        >>> words = NearestWords.of(PyramidTokenizer.from_pretrained("tiny"), ["dog", "sky", "grass"])
        >>> words.similarities[0].shape, words.similarities[3] is None
        (torch.Size([4096, 3]), True)
    """

    words: tuple[str, ...]
    """N words."""
    similarities: tuple[Tensor | None, ...]
    """(K_l, N) float32 in [-1, 1] on the CPU for every level, or None for one without words."""

    @classmethod
    def of(cls, tok: PyramidTokenizer, words: Sequence[str]) -> NearestWords:
        """Compares the codes of a tokenizer with words, each read in the prompt "a photo of a ...".

        Args:
            tok: A fitted tokenizer.
            words: Two words or more.

        Raises:
            ConfigError: There are fewer than two words, or `TextEncoder.encode` refuses one.
        """
        check_kinds(words, str, name="words", fix='write e.g. ["dog", "sky"]')
        if len(words) < 2:
            raise ConfigError(f"expected two words or more, got {len(words)}: codes are told apart by them")
        rows = _centred(tok.text.encode(words, templates="photo"))  # (N, D)
        quantizer = tok.quantizer
        found: list[Tensor | None] = []
        for index in range(len(quantizer.strides)):
            level = quantizer.level(index)
            has_words = index < quantizer.base_levels and level.semantic_weight > 0
            found.append(_similarities(level.text_embeddings().detach().cpu(), rows) if has_words else None)
        return cls(words=tuple(words), similarities=tuple(found))

    @classmethod
    def of_common_words(cls, tok: PyramidTokenizer) -> NearestWords:
        """Compares the codes of a tokenizer with `common_words`."""
        return cls.of(tok, common_words())

    def nearest(self, level: int, code: int, count: int = 3) -> list[tuple[str, float]]:
        """The words that suit a code best and their similarities, the best first; none for a level without words."""
        similarities = self.similarities[level]
        if similarities is None:
            return []
        scores, places = similarities[code].topk(min(count, len(self.words)))
        return [(self.words[place], score) for place, score in zip(places.tolist(), scores.tolist(), strict=True)]

    def caption(self, level: int, code: int) -> str:
        """The nearest words of a code in a line, e.g. "sky, cloud, sea"."""
        return ", ".join(word for word, _ in self.nearest(level, code)) or "no words: this level holds pixels alone"


def _centred(rows: Tensor) -> Tensor:
    return F.normalize(rows - rows.mean(0), dim=1)


def _similarities(codes: Tensor, words: Tensor) -> Tensor:
    """(K, N) cosines, a part of the codes at a time."""
    return torch.cat([part @ words.T for part in _centred(codes).split(_CODES_PER_PRODUCT)])
