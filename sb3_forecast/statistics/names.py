"""Names that arguments accept. This module imports nothing heavy."""

from __future__ import annotations

from typing import Literal

#: methods of a point forecast
Method = Literal["blue", "jones", "direct"]
METHODS: tuple[Method, ...] = ("blue", "jones", "direct")
#: what a point forecast predicts: ``"max"`` is the expected largest score, ``"quantile"`` the score that one task in n exceeds
Target = Literal["max", "quantile"]
TARGETS: tuple[Target, ...] = ("max", "quantile")
#: methods of an outlook on a deployment: those of a point forecast, and two other models of the scores
OutlookMethod = Literal["blue", "jones", "direct", "pareto", "lognormal"]
#: kinds of numbers in a file
InputKind = Literal["auto", "score", "log-prob", "prob", "count"]


class NoForecastError(ValueError):
    """The scores or counts show too few failures to be extrapolated. Everything else that is wrong raises other errors."""
