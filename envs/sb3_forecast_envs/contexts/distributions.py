"""Distributions of one number of a context, and their texts for the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sb3_forecast.checks import real


class Distribution(Protocol):
    """How one number of a context is drawn."""

    def draw(self, rng: np.random.Generator) -> float:
        """Draw the number of one task.

        :param rng: generator of all random numbers of the task
        """


@dataclass(frozen=True)
class Normal:
    """A normal distribution.

    :param mean: its mean
    :param deviation: its standard deviation, at least 0
    :raises ValueError: if a number is out of range
    """

    mean: float
    deviation: float

    def __post_init__(self) -> None:
        real("mean", self.mean)
        real("deviation", self.deviation, low=0.0)

    def draw(self, rng: np.random.Generator) -> float:
        """See :meth:`Distribution.draw`."""
        return float(rng.normal(self.mean, self.deviation))


@dataclass(frozen=True)
class Uniform:
    """A uniform distribution.

    :param low: its lower end
    :param high: its upper end
    :raises ValueError: if the ends are not in order
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        real("low", self.low)
        real("high", self.high, low=self.low, use="an upper end that is not below the lower one")

    def draw(self, rng: np.random.Generator) -> float:
        """See :meth:`Distribution.draw`."""
        return float(rng.uniform(self.low, self.high))


@dataclass(frozen=True)
class Choice:
    """One of some numbers, each with the same chance.

    :param values: the numbers
    :raises ValueError: if there is none, or one is not finite
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("values must hold at least one number, got none; use for example (0.0, 1.0)")
        for value in self.values:
            real("values", value)

    def draw(self, rng: np.random.Generator) -> float:
        """See :meth:`Distribution.draw`."""
        return float(self.values[rng.integers(len(self.values))])


_TEXT = re.compile(r"(?P<name>[^=]+)=(?:(?P<kind>normal|uniform|choice)\((?P<numbers>[^()]*)\)|(?P<number>[^()]+))")


def parse_context(text: str) -> tuple[str, Distribution]:
    """Read a text such as ``gravity=normal(-10,1)``, ``wind_power=uniform(0,15)``, ``mode=choice(0,1)`` or ``gravity=-8``.

    :param text: the text
    :return: name and distribution
    :raises ValueError: if it is no such text
    """
    match = _TEXT.fullmatch(text.replace(" ", ""))
    try:
        if match is None:
            raise ValueError("no such form")
        name, kind = match["name"], match["kind"]
        numbers = tuple(float(number) for number in (match["numbers"] if kind else match["number"]).split(","))
        if kind == "normal":
            return name, Normal(*numbers)
        if kind == "uniform":
            return name, Uniform(*numbers)
        if kind is None and len(numbers) > 1:
            raise ValueError("more than one number")
        return name, Choice(numbers)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"context must be like gravity=normal(-10,1), wind_power=uniform(0,15), mode=choice(0,1) or gravity=-8, got {text!r} ({error}); "
            "use one of these forms"
        ) from error
