"""Names that arguments take, in a module that costs nothing to import."""

from __future__ import annotations

from typing import Literal

#: point forecasts from the top of a tail
Method = Literal["blue", "jones", "direct"]
METHODS: tuple[Method, ...] = ("blue", "jones", "direct")
#: what a point forecast predicts: the expected largest score, or the score that one task in n exceeds
Target = Literal["max", "quantile"]
TARGETS: tuple[Target, ...] = ("max", "quantile")
#: ways to an outlook on a deployment: the point forecasts, and two other models of the scores
OutlookMethod = Literal["blue", "jones", "direct", "pareto", "lognormal"]
#: what the numbers of a file are
InputKind = Literal["auto", "score", "log-prob", "prob", "count"]
