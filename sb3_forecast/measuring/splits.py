"""Random splits of scored tasks into evaluation and deployment sets, with the forecast of each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.measuring.report import ErrorSummary, Splits
from sb3_forecast.statistics.bias import ideal_error
from sb3_forecast.statistics.intervals import pivot_quantile
from sb3_forecast.statistics.names import Method
from sb3_forecast.statistics.scores import log_failure_probability
from sb3_forecast.statistics.tails import GumbelTail


def split_indices(n_tasks: int, eval_size: int, deploy_size: int, n_splits: int, seed: int) -> NDArray[np.int32]:
    """Draw random splits. Each row holds an evaluation set, then a deployment set.

    :param n_tasks: number of tasks
    :param eval_size: evaluation set size m
    :param deploy_size: deployment set size n
    :param n_splits: number of splits
    :param seed: seed of the splits; the first splits stay the same if ``n_splits`` grows
    :return: indices of tasks, shape (n_splits, eval_size + deploy_size), int32
    """
    generator = np.random.default_rng(seed)
    out = np.empty((n_splits, eval_size + deploy_size), dtype=np.int32)
    for row in out:
        row[:] = generator.permutation(n_tasks)[: eval_size + deploy_size]
    return out


def forecast_splits(
    scores: NDArray[np.float64], eval_size: int, deploy_size: int, n_splits: int, seed: int, k: int, method: Method
) -> Splits:
    """Forecast the worst deployment score in many random splits, and compare with the realised one.

    :param scores: score of every task, in psi, shape (N,)
    :param eval_size: evaluation set size m
    :param deploy_size: deployment set size n
    :param n_splits: number of splits
    :param seed: seed of the splits
    :param k: number of top evaluation scores that the forecast uses
    :param method: forecast method
    :return: the splits with their forecasts
    :raises ValueError: if too few scores are finite
    """
    tasks = split_indices(len(scores), eval_size, deploy_size, n_splits, seed)
    return splits_of(scores, tasks, eval_size, deploy_size, k, method)


def splits_of(
    scores: NDArray[np.float64], tasks: NDArray[np.int32], eval_size: int, deploy_size: int, k: int, method: Method
) -> Splits:
    """Forecast the worst deployment score of given splits.

    :param scores: scores in psi, shape (N,)
    :param tasks: indices of each split, its evaluation set first, then its deployment, or as much of it as holds the worst score, shape (R, > m)
    :param eval_size: evaluation set size m
    :param deploy_size: deployment set size n
    :param k: number of top evaluation scores that the forecast uses
    :param method: forecast method
    :return: the splits with their forecasts
    :raises ValueError: if too few scores are finite
    """
    tail = GumbelTail.fit(scores[tasks[:, :eval_size]], k, method)
    low, high = tail.interval(deploy_size, 0.9)
    return Splits(
        tasks=tasks,
        location=tail.location,
        scale=tail.scale,
        forecast=tail.forecast(deploy_size),
        limit=tail.location + pivot_quantile(0.95, k, eval_size, deploy_size) * tail.scale,
        low=low,
        high=high,
        realised=scores[tasks[:, eval_size:]].max(axis=1),
    )


def measures_of(splits: Splits, eval_size: int, deploy_size: int, k: int, method: Method) -> dict[str, Any]:
    """What a report says of its splits: the fields of :class:`ForecastReport` that depend on them alone.

    :param splits: the splits
    :param eval_size: evaluation set size m
    :param deploy_size: deployment set size n
    :param k: number of top evaluation scores that the forecast uses
    :param method: forecast method
    :return: values by the name of the field
    """
    errors, spread = splits.forecast - splits.realised, splits.scale > 0.0
    with np.errstate(invalid="ignore"):  # both can be -inf
        errors_log10 = (log_failure_probability(splits.forecast) - log_failure_probability(splits.realised)) / math.log(10.0)
    return {
        "limit_holds": float((splits.realised <= splits.limit).mean()),
        "interval_holds": float(((splits.realised >= splits.low) & (splits.realised <= splits.high)).mean()),
        "within_10x": float((np.abs(errors_log10) <= 1.0).mean()),
        "error": ErrorSummary.of(errors),
        "error_in_scale": ErrorSummary.of(errors[spread] / splits.scale[spread]),
        "ideal_error_in_scale": ideal_error(k, eval_size, deploy_size, method),
        "error_log10": ErrorSummary.of(errors_log10),
        "under_predicted": float((errors < 0.0).mean()),
        "mean_scale": float(splits.scale.mean()),
    }
