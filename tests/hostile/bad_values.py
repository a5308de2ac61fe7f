"""Values that an argument of a kind must not take, and how a clear error names it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

NAN, INF = float("nan"), float("inf")


@dataclass(frozen=True)
class Kind:
    """What an argument is.

    :param bad: values that must be refused
    :param names: words of which the message must hold one, besides the argument's own name
    """

    bad: tuple[Any, ...]
    names: tuple[str, ...] = field(default=())


def whole(low: int = 1, high: int | None = None) -> Kind:
    """A whole number of at least ``low``."""
    above = () if high is None else (high + 1,)
    return Kind(("3", 3.5, True, NAN, INF, [3], 3j, b"3", low - 1, -7, np.float64(2.5), *above))


def real(low: float | None = 0.0, high: float | None = None) -> Kind:
    """A finite number."""
    below = () if low is None else (low - 1.0,)
    above = () if high is None else (high + 1.0,)
    return Kind(("0.5", None, NAN, INF, -INF, True, [0.5], 1j, *below, *above))


def unit() -> Kind:
    """A number strictly between 0 and 1."""
    return Kind(("0.5", None, NAN, INF, True, [0.5], 0, 1, 0.0, 1.0, -0.1, 90))


def word() -> Kind:
    """One of a few words."""
    return Kind(("blu", "", None, 3, ["blue"], b"blue"))


def scores(shape: bool = True) -> Kind:
    """Scores of tasks: any finite number or -inf."""
    good = np.linspace(-4.0, -1.0, 60)

    def with_(value: Any) -> Any:
        out = good.copy()
        out[7] = value
        return out

    masked = np.ma.masked_array(good, mask=good > -1.5)
    bad = ["abc", None, [], with_(NAN), with_(INF), masked, list("abcdefghij"), [None] * 60, good * 1j, object(), {"a": 1.0}]
    return Kind(tuple(bad) if not shape else (*bad, 3.0), ("scores", "values", "array"))


def tasks(n: int) -> Kind:
    """Indices of tasks of a pool of n."""
    return Kind(([True, False], [1.5], ["a"], [-1], [n], 2, [[0, 1]], [NAN], "all", {"a": 1}), ("tasks", "indices"))
