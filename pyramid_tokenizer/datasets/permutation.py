"""`Permutation`: a pseudo-random order of any number of rows that is computed and not stored."""

from __future__ import annotations

import hashlib
import json
import math

import numpy as np
from numpy.typing import NDArray

from pyramid_tokenizer.checks.arguments import check_whole

_FORMAT = 1
"""Part of every key: a change of the algorithm must not pass for the old order."""
_ROUNDS = 8
_MULTIPLIERS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)


class Permutation:
    """The numbers 0 to length - 1 in an order that is a pure function of (length, seed, epoch).

    Any place of the order is computed alone, in a constant time and without memory: row `permutation([10**7])` comes at place
    10,000,000. Numbers are written as pairs of digits (left, right) in a mixed radix a, b with a · b just above the length, and
    rounds add a keyed hash of one digit to the other, which is a bijection of the pairs: a Feistel network. A pair that lies
    beyond the length goes through the network again until it does not (cycle walking), which is rarely needed because
    a · b < length + sqrt(length) + 1.

    Source:
        Black and Rogaway, Ciphers with Arbitrary Finite Domains (CT-RSA 2002), sections 4 and 5. The hash is the finaliser of
        SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).

    Example:
        >>> order = Permutation(10, seed=0, epoch=0)(np.arange(10))
        >>> sorted(order.tolist()) == list(range(10))
        True
    """

    def __init__(self, length: int, *, seed: int, epoch: int):
        """Computes the keys of the rounds alone.

        Args:
            length: Number of rows.
            seed: Chooses the order; 0 or more.
            epoch: Chooses the order together with the seed; 0 or more.

        Raises:
            ConfigError: A number is negative or no whole number.
        """
        check_whole(0, length=length, seed=seed, epoch=epoch)
        self.length = int(length)
        left = math.isqrt(max(self.length - 1, 0)) + 1
        self._left, self._right = np.uint64(left), np.uint64(max(1, -(-self.length // left)))
        digest = hashlib.sha512(json.dumps([_FORMAT, self.length, int(seed), int(epoch)]).encode()).digest()
        self._keys = np.frombuffer(digest, dtype="<u8", count=_ROUNDS).astype(np.uint64)

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows at these places of the order.

        Args:
            places: (n,) integers in [0, length).

        Returns:
            (n,) int64, rows in [0, length).
        """
        rows = self._round_trip(np.asarray(places, dtype=np.uint64))
        outside = rows >= self.length
        while outside.any():
            rows[outside] = self._round_trip(rows[outside])
            outside = rows >= self.length
        return rows.astype(np.int64)

    def _round_trip(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = np.divmod(numbers, self._right)
        for index, key in enumerate(self._keys):
            if index % 2:
                right = (right + _hash(left ^ key) % self._right) % self._right
            else:
                left = (left + _hash(right ^ key) % self._left) % self._left
        return left * self._right + right


def _hash(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=False):
        values = (values ^ (values >> shift)) * multiplier
    return values ^ (values >> _SHIFTS[2])
