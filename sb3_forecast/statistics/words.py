"""Numbers as people say them: one way to write a probability, for tables, figures and reports."""

from __future__ import annotations

import math

_LARGE = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))


def count_in_words(n: float) -> str:
    """A count with two digits that matter: 250,000; 10 billion; 3.1e+17.

    :param n: a number of at least 0
    """
    rounded = float(f"{n:.2g}")
    if rounded >= 1e15:
        return f"{rounded:.1e}"
    for size, name in _LARGE:
        if rounded >= size:
            return f"{rounded / size:g} {name}"
    return f"{rounded:,.0f}"


def probability_in_words(p: float) -> str:
    """A probability in plain notation: all but certain; 0.98; 0.012; 1 in 250,000; 1 in 10 billion; 3e-20.

    :param p: a probability; NaN gives "unknown"
    """
    if math.isnan(p):
        return "unknown"
    if p <= 0.0:
        return "0"
    if p > 0.9995:
        return "all but certain"
    if p >= 0.5:
        return f"{p:.3f}".rstrip("0")
    if p >= 1e-3:
        return f"{p:.2g}"
    if p < 1e-15:
        return f"{p:.0e}"
    return f"1 in {count_in_words(1.0 / p)}"
