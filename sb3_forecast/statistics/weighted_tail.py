"""The exponential tail of scores that have weights, because some were more likely to be in the sample than others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.checks import inside_unit, real
from sb3_forecast.statistics.intervals import pivot_quantile
from sb3_forecast.statistics.names import NoForecastError

#: the tail starts where the scores above it are worth this number of equal weights, or a quarter of all if that is fewer. Chosen samples
#: hold many scores far out, and the population behind them is a mixture: a tail that starts further in is that of its ordinary part
_EQUAL_SCORES = 10


def weighted_limit(scores: NDArray[np.float64], weights: NDArray[np.float64], n_deploy: float, level: float = 0.95) -> float:
    """Upper limit of the worst of n tasks of the population that the weights stand for.

    It is the limit of docs/method.md eq. 29 with weighted sums: the scale is the weighted mean of the excesses over the k-th largest score,
    and the share of tasks above it is the share of the weights. As Kish's effective sample size, (sum w)^2 / sum w^2 scores take the place of
    k. With equal weights it is the limit of ``GumbelTail`` with k = 10, which is exact for an exponential tail; with others it is an
    approximation.

    :param scores: failure scores, shape (m,), float64
    :param weights: number of tasks that each stands for, shape (m,), float64, at least 0
    :param n_deploy: number of tasks n
    :param level: confidence
    :return: score
    :raises ValueError: if an argument is out of range
    :raises NoForecastError: if too few scores are finite, or the top scores are all equal
    """
    inside_unit("level", level)
    n = real("n_deploy", n_deploy, low=1, use="the number of tasks that were not scored")
    used = weights > 0.0
    order = np.argsort(-scores[used], kind="stable")
    x, w = scores[used][order], weights[used][order]
    total, square = np.cumsum(w), np.cumsum(w**2)
    effective = total**2 / square
    target = max(min(_EQUAL_SCORES, int(effective[-1]) // 4), 2) if len(w) else 2
    enough = np.flatnonzero((effective >= target) & np.isfinite(x))
    if not len(enough):
        raise NoForecastError(
            f"scores must have finite values for a tail of {target} equal weights, got {int(np.isfinite(x).sum())} finite ones; score more tasks"
        )
    k = int(enough[0]) + 1
    top, mass = x[:k], w[:k]
    excess = float(mass[:-1] @ (top[:-1] - top[-1])) / float(mass[:-1].sum())
    if excess == 0.0:
        raise NoForecastError(
            f"scores must differ for a tail, got {k} equal ones at the top; score more tasks, or use a scorer that tells probabilities"
        )
    k_effective = max(round(float(effective[k - 1])), 2)
    m_effective = max(round(k_effective * float(total[-1] / total[k - 1])), k_effective)
    return float(top[-1] + pivot_quantile(level, k_effective, m_effective, n) * excess)
