"""Which of two evaluated models is better: it must have enough success, then its limit must hold, then it should fail less."""

from __future__ import annotations

import math
from typing import Protocol

#: a limit that holds in a larger share of the splits than this counts as equal, because it promises no more than 95%
ENOUGH = 0.95
#: shares in which limits hold are compared in steps of this size, because they are noisy: all splits share the same tasks
STEP = 0.05


class Measured(Protocol):
    """What a model is judged by; a :class:`ForecastReport` has it."""

    @property
    def limit_holds(self) -> float:
        """Share of the splits in which the limit holds."""

    @property
    def mean_scale(self) -> float:
        """Mean fitted scale; 0 if nothing was forecast."""

    @property
    def mean_failure(self) -> float:
        """Mean failure probability."""

    @property
    def success(self) -> float:
        """Mean success probability; NaN if unknown."""


def quality(report: Measured, min_success: float = 0.0) -> tuple[bool, int, float]:
    """A sort key for evaluated models: larger is better.

    It compares three things, in this order:

    1. whether success is at least ``min_success``; unknown success counts as enough
    2. the share of splits in which the limit holds, in steps of 5%, up to 95%. If all scores are equal, nothing was forecast, and the limit
       counts as never holding
    3. the mean failure probability; a smaller one is better

    :param report: report of the model
    :param min_success: smallest success that you accept
    :return: the key; compare keys only for the same tasks and splits
    """
    does_its_job = math.isnan(report.success) or report.success >= min_success
    holds = report.limit_holds if report.mean_scale > 0.0 else 0.0
    step = math.floor(min(holds, ENOUGH) / STEP + 1e-9)
    return does_its_job, step, -report.mean_failure
