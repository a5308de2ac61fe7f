"""Which of two evaluated models is better: one that does its job, whose limit holds, and that fails less."""

from __future__ import annotations

import math

from sb3_forecast.measuring.report import ForecastReport

#: a limit that holds in more splits than this is no better: it promises 95%
ENOUGH = 0.95
#: limits that hold in shares this close together are taken as equal: splits share their tasks, and the share is noisy
STEP = 0.05


def quality(report: ForecastReport, min_success: float = 0.0) -> tuple[bool, int, float]:
    """Compare evaluated models by this: the larger, the better.

    First, whether success reaches the floor (also if nothing tells it). Then the share of splits in which the limit holds, in steps of 5%
    up to 95%. Then how rarely the model fails on average. Where all scores are equal nothing was forecast: the limit counts as never holding.

    :param report: of the model
    :param min_success: the floor
    :return: to be compared with that of another model on the same tasks and splits
    """
    does_its_job = math.isnan(report.success) or report.success >= min_success
    holds = report.limit_holds if report.mean_scale > 0.0 else 0.0
    step = math.floor(min(holds, ENOUGH) / STEP + 1e-9)
    return does_its_job, step, -report.mean_failure
