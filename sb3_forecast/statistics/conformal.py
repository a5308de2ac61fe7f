"""Distribution-free companions of the forecast: exchangeability only, no tail model (docs/method.md section 4, eq. 32-34)."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import hypergeom

from sb3_forecast.statistics.scores import float64_array


def _check(n_eval: int, n_deploy: int) -> None:
    for name, value in (("n_eval", n_eval), ("n_deploy", n_deploy)):
        if value < 1 or value != int(value):
            raise ValueError(f"{name}={value} is no number of tasks; use a whole number >= 1")


def exceedance_probability(n_eval: int, n_deploy: int, j: int, r: int = 1) -> float:
    """P(at least r deployment scores exceed the j-th largest evaluation score) (docs/method.md eq. 32, 33).

    :param n_eval: evaluation set size m
    :param n_deploy: deployment set size n
    :param j: rank of the evaluation score, 1 for the largest
    :param r: number of exceedances
    :return: probability; with ties among the scores it is an upper bound
    :raises ValueError: if a rank or size is out of range
    """
    _check(n_eval, n_deploy)
    if not 1 <= j <= n_eval:
        raise ValueError(f"j={j} is not a rank among {n_eval} evaluation scores; use 1 to {n_eval}")
    if not 1 <= r <= n_deploy:
        raise ValueError(f"r={r} exceedances cannot be counted among {n_deploy} deployment scores; use 1 to {n_deploy}")
    if r == 1:
        # none of the deployment among the top j (docs/method.md eq. 32): quick for any n
        return float(-np.expm1(np.log1p(-n_deploy / (n_eval + n_deploy - np.arange(j))).sum()))
    # at least r of them precede the j-th evaluation score iff the top j + r - 1 of all hold at most j - 1 evaluation scores
    return float(hypergeom.cdf(j - 1, n_eval + n_deploy, n_eval, j + r - 1))


def exceedance_count_interval(n_eval: int, n_deploy: int, j: int, level: float = 0.9) -> tuple[int, int]:
    """How many deployment scores exceed the j-th largest evaluation score, two-sided (docs/method.md eq. 33).

    :param n_eval: evaluation set size m
    :param n_deploy: deployment set size n
    :param j: rank of the evaluation score, 1 for the largest
    :param level: coverage, at least reached
    :return: smallest and largest count, each missed with probability at most (1 - level) / 2
    :raises ValueError: if an argument is out of range
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level={level} is no coverage; use a value strictly between 0 and 1")
    alpha = (1.0 - level) / 2.0

    def last(accept: Any) -> int:
        """Largest count r in 0..n with accept(P(at least r)); P falls with r, so bisection serves."""
        low, high = 0, n_deploy
        while low < high:
            middle = (low + high + 1) // 2
            if accept(exceedance_probability(n_eval, n_deploy, j, middle)):
                low = middle
            else:
                high = middle - 1
        return low

    # P(count >= low) >= 1 - alpha, and P(count >= high + 1) <= alpha
    exceedance_probability(n_eval, n_deploy, j)
    return last(lambda p: p >= 1.0 - alpha), last(lambda p: p > alpha)


def upper_bound(scores: Any, n_deploy: int, level: float = 0.9) -> float:
    """Distribution-free upper bound on the worst deployment score: the largest evaluation score (docs/method.md eq. 34).

    :param scores: all m evaluation scores
    :param n_deploy: deployment set size n
    :param level: confidence
    :return: the bound
    :raises ValueError: if no such bound exists, which is always the case for n much larger than m
    """
    x = np.asarray(float64_array(scores))
    _check(len(x), n_deploy)
    if not 0.0 < level < 1.0:
        raise ValueError(f"level={level} is no confidence; use a value strictly between 0 and 1")
    allowed = int(len(x) * (1.0 - level) / level + 1e-9)
    if n_deploy > allowed:
        raise ValueError(
            f"no distribution-free upper bound on the worst of n_deploy={n_deploy} scores exists at level={level} from {len(x)} evaluation "
            f"scores: a deployment of more than {allowed} holds a larger score than all of them with probability above {1 - level:.3g}, "
            "whatever the distribution. Use GumbelTail.interval (conditional on the tail model), a lower bound "
            "(conformal.lower_bound), a count (exceedance_count_interval), or evaluate at least "
            f"{int(np.ceil(n_deploy * level / (1 - level)))} tasks"
        )
    return float(x.max())


def lower_bound(scores: Any, n_deploy: int, level: float = 0.9) -> float:
    """Distribution-free lower bound on the worst deployment score (docs/method.md eq. 32, 34).

    :param scores: all m evaluation scores
    :param n_deploy: deployment set size n
    :param level: confidence
    :return: the largest evaluation score that the deployment exceeds with at least this probability; -inf if there is none
    :raises ValueError: if the level is out of range
    """
    x = -np.sort(-np.asarray(float64_array(scores)))
    _check(len(x), n_deploy)
    if not 0.0 < level < 1.0:
        raise ValueError(f"level={level} is no confidence; use a value strictly between 0 and 1")
    for j in range(1, len(x) + 1):
        if exceedance_probability(len(x), n_deploy, j) >= level:
            return float(x[j - 1])
    return -np.inf
