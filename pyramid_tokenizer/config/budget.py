"""`Budget`: how many tokens an image gets."""

from __future__ import annotations

from dataclasses import dataclass, fields
from numbers import Real

from pyramid_tokenizer.checks.arguments import check_kind, check_whole
from pyramid_tokenizer.errors import ConfigError

PSNR_RANGE = (10.0, 60.0)
"""Targets in dB that can be meant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How many tokens an image gets: by one of three limits, or by none of them for a full pyramid.

    Raises:
        ConfigError: Several at once, or a number that none can mean.

    Example:
        >>> Budget(max_tokens=400).is_open, Budget().is_open
        (False, True)
    """

    max_tokens: int | None = None
    """Tokens of each image, at most: the best that many."""
    target_psnr: float | None = None
    """dB that each decoded image should have: the fewest tokens that give it."""
    quality: float | None = None
    """From 0, level 0 alone, to 1, everything: one price per bit for all images, so that complex ones get more tokens."""

    def __post_init__(self) -> None:
        given = self.limit
        if len(given) > 1:
            raise ConfigError(f"expected one of max_tokens, target_psnr and quality, got {given}: leave out the others")
        if self.max_tokens is not None:
            check_whole(max_tokens=self.max_tokens)
        for name, (low, high) in (("target_psnr", PSNR_RANGE), ("quality", (0.0, 1.0))):
            value = given.get(name)
            if value is None:
                continue
            check_kind(value, Real, name=name, fix=f"give a number from {low:g} to {high:g}")
            if not low <= value <= high:
                raise ConfigError(f"expected {name} from {low:g} to {high:g}, got {value!r}: give another number")

    @property
    def is_open(self) -> bool:
        """Whether it sets no limit."""
        return not self.limit

    @property
    def limit(self) -> dict[str, float]:
        """Name and number of the limit, as `Budget` takes them; empty for none."""
        return {name: value for name in BUDGET_LIMITS if (value := getattr(self, name)) is not None}


BUDGET_LIMITS = tuple(field.name for field in fields(Budget))
"""The names of the limits."""
