"""Random splits of scored tasks into evaluation and deployment sets, with the forecast of each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.measuring.report import Splits
from sb3_forecast.statistics.intervals import pivot_quantile
from sb3_forecast.statistics.names import Method
from sb3_forecast.statistics.tails import GumbelTail


def split_indices(n_tasks: int, eval_size: int, deploy_size: int, n_splits: int, seed: int) -> NDArray[np.int32]:
    """Random splits: each row is an evaluation set followed by a deployment set.

    :param n_tasks: number of tasks
    :param eval_size: evaluation set size m
    :param deploy_size: deployment set size n
    :param n_splits: number of splits
    :param seed: their seed; the first splits do not depend on how many are asked for
    :return: shape (n_splits, eval_size + deploy_size), int32
    """
    generator = np.random.default_rng(seed)
    out = np.empty((n_splits, eval_size + deploy_size), dtype=np.int32)
    for row in out:
        row[:] = generator.permutation(n_tasks)[: eval_size + deploy_size]
    return out


def forecast_splits(
    scores: NDArray[np.float64], eval_size: int, deploy_size: int, n_splits: int, seed: int, k: int, method: Method
) -> Splits:
    """Forecast from the evaluation set of each of many random splits, and look at what its deployment set brings.

    :param scores: score of every task, shape (N,)
    :param eval_size: evaluation set size m
    :param deploy_size: deployment set size n
    :param n_splits: number of splits
    :param seed: their seed
    :param k: top scores used
    :param method: forecast method
    :return: the splits
    :raises ValueError: if too few scores are finite
    """
    tasks = split_indices(len(scores), eval_size, deploy_size, n_splits, seed)
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
