"""Sums of probabilities that do not depend on the order of the addends, however many machines add them up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: binary digits of an addend
_DIGITS = 52
#: addends that are smaller than the largest one by more than this power of two are left out
_WINDOW = 1200


@dataclass(frozen=True)
class ExactSum:
    """A sum of numbers that are not negative. Adding is exact, so it is associative and commutative to the last bit.

    Each addend is rounded once, to 53 binary digits. The addends of one power of two are then summed as whole numbers. Addends
    below 2^-1200 of the largest one are left out; which these are does not depend on the order either.

    :param parts: whole number of units of 2^(exponent - 52), by exponent
    """

    parts: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> ExactSum:
        """The sum of some numbers.

        :param values: finite numbers that are not negative, any shape
        :return: the sum
        :raises ValueError: if a number is negative, infinite or NaN
        """
        x = np.asarray(values, dtype=np.float64).ravel()
        if not bool(((x >= 0.0) & (x < np.inf)).all()):
            raise ValueError(
                "values must be finite and not negative, got "
                f"{x[~((x >= 0.0) & (x < np.inf))][0]}; leave out what is not known"
            )
        fraction, exponent = np.frexp(x[x > 0.0])
        return cls._of_parts(2.0 * fraction, exponent.astype(np.int64) - 1)

    @classmethod
    def of_logs(cls, logs: NDArray[np.float64]) -> ExactSum:
        """The sum of exp(logs). It is still precise where exp(logs) underflows.

        :param logs: natural logarithms, at most 0; -inf adds nothing
        :return: the sum; its relative error grows with the size of the logarithms, like that of a float64
        :raises ValueError: if a logarithm is positive or NaN
        """
        x = np.asarray(logs, dtype=np.float64).ravel()
        if not bool((x <= 0.0).all()):
            raise ValueError(f"logs must be natural logarithms of probabilities, got {x[~(x <= 0.0)][0]}; pass log p, not p")
        binary = x[x > -np.inf] / math.log(2.0)
        # the exponent must be a whole number that int64 holds; what is smaller is 0 beside anything else
        binary = binary[binary > -(2.0**62)]
        exponent = np.floor(binary)
        return cls._of_parts(np.exp2(binary - exponent), exponent.astype(np.int64))

    @classmethod
    def _of_parts(cls, mantissa: NDArray[np.float64], exponent: NDArray[np.int64]) -> ExactSum:
        whole = np.rint(mantissa * 2.0**_DIGITS).astype(np.int64)
        found, row = np.unique(exponent, return_inverse=True)
        # two halves, so that 2^35 addends fit into int64
        high, low = np.zeros(len(found), dtype=np.int64), np.zeros(len(found), dtype=np.int64)
        np.add.at(high, row, whole >> 26)
        np.add.at(low, row, whole & (2**26 - 1))
        return cls._cut({int(e): (int(h) << 26) + int(rest) for e, h, rest in zip(found, high, low, strict=True)})

    @classmethod
    def _cut(cls, parts: dict[int, int]) -> ExactSum:
        largest = max(parts, default=0)
        return cls({e: parts[e] for e in sorted(parts) if e >= largest - _WINDOW})

    def __add__(self, other: ExactSum) -> ExactSum:
        return self._cut({e: self.parts.get(e, 0) + other.parts.get(e, 0) for e in {*self.parts, *other.parts}})

    def without(self, other: ExactSum) -> ExactSum:
        """The sum of the other addends.

        :param other: the sum of some of the addends
        :return: the rest
        :raises ValueError: if these were no addends of this sum
        """
        # parts of `other` below this sum's window were left out here, too
        rest = {e: count - other.parts.get(e, 0) for e, count in self.parts.items()}
        if min(rest.values(), default=0) < 0 or max(other.parts, default=-math.inf) > max(self.parts, default=-math.inf):
            raise ValueError("other must be a sum of some of the addends, got other numbers; use parts of the same data")
        return type(self)({e: count for e, count in rest.items() if count})

    def log(self) -> float:
        """Natural logarithm of the sum; -inf if it is 0."""
        if not self.parts:
            return -math.inf
        smallest = min(self.parts)
        total = sum(count << (e - smallest) for e, count in self.parts.items())
        # a whole number of any length: its leading 64 digits are enough
        shift = max(total.bit_length() - 64, 0)
        return math.log(total >> shift) + (shift + smallest - _DIGITS) * math.log(2.0)

    def __float__(self) -> float:
        if not self.parts:
            return 0.0
        smallest = min(self.parts)
        total = sum(count << (e - smallest) for e, count in self.parts.items())
        shift = smallest - _DIGITS
        if total.bit_length() + shift < -1100:
            return 0.0  # far below the smallest float64
        # whole-number division rounds once, to the nearest float64
        return float(total << shift) if shift >= 0 else total / (1 << -shift)

    def to_list(self) -> list[list[Any]]:
        """The parts as exponents and decimal texts, for JSON."""
        return [[e, str(count)] for e, count in self.parts.items()]

    @classmethod
    def from_list(cls, parts: list[list[Any]]) -> ExactSum:
        """Read the result of :meth:`to_list`.

        :param parts: exponents and decimal texts
        """
        return cls({int(e): int(count) for e, count in parts})
