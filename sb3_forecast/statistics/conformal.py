"""Bounds on a deployment that need no tail model (docs/method.md section 4, eq. 32-34).

They assume only that deployment and evaluation tasks are drawn in the same way (exchangeability).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import betaincc
from scipy.stats import hypergeom

from sb3_forecast.checks import inside_unit, whole
from sb3_forecast.statistics.intervals import beta_nodes
from sb3_forecast.statistics.scores import score_vector

#: largest evaluation and deployment set together for which counts come from the hypergeometric distribution itself; its cost grows with them
_EXACT = 100_000


def _check(n_eval: int, n_deploy: float) -> None:
    for name, value in (("n_eval", n_eval), ("n_deploy", n_deploy)):
        # 1e6 is a usual way to write a number of tasks
        whole(name, int(value) if isinstance(value, float) and value.is_integer() else value, low=1, use="a number of tasks")


def exceedance_probability(n_eval: int, n_deploy: int, j: int, r: int = 1) -> float:
    """Probability that at least r deployment scores exceed the j-th largest evaluation score (docs/method.md eq. 32, 33).

    :param n_eval: evaluation set size m
    :param n_deploy: deployment set size n
    :param j: rank of the evaluation score, 1 for the largest
    :param r: number of deployment scores that exceed it
    :return: probability; an upper bound of it if scores are tied
    :raises ValueError: if a rank or size is out of range
    """
    _check(n_eval, n_deploy)
    if not 1 <= whole("j", j) <= n_eval:
        raise ValueError(f"j must be a rank among the {n_eval} evaluation scores, got {j}; use 1 to {n_eval}")
    if not 1 <= whole("r", r) <= n_deploy:
        raise ValueError(f"r must be a number of the {n_deploy} deployment scores, got {r}; use 1 to {n_deploy}")
    if r == 1:
        # one minus P(no deployment score among the top j) (docs/method.md eq. 32): fast for any n
        return float(-np.expm1(np.log1p(-n_deploy / (n_eval + n_deploy - np.arange(j))).sum()))
    if n_eval + n_deploy > _EXACT:
        # at least r exceed it if the share of the distribution above it, Beta(j, m - j + 1), is larger than the share above the r-th largest
        # deployment score, Beta(r, n - r + 1). Over the latter, which is narrow, the integrand is smooth
        share, weights = beta_nodes(r, n_deploy)
        return float(weights @ betaincc(j, n_eval - j + 1.0, share))
    # at least r of them exceed the j-th evaluation score exactly if the top j + r - 1 of all hold at most j - 1 evaluation scores
    return float(hypergeom.cdf(j - 1, n_eval + n_deploy, n_eval, j + r - 1))


def exceedance_count_interval(n_eval: int, n_deploy: int, j: int, level: float = 0.9) -> tuple[int, int]:
    """Two-sided interval of how many deployment scores exceed the j-th largest evaluation score (docs/method.md eq. 33).

    :param n_eval: evaluation set size m
    :param n_deploy: deployment set size n
    :param j: rank of the evaluation score, 1 for the largest
    :param level: coverage; the true coverage is at least this
    :return: smallest and largest count; the true count is below the first, or above the second, with probability at most
        (1 - level) / 2 each
    :raises ValueError: if an argument is out of range
    """
    inside_unit("level", level)
    alpha = (1.0 - level) / 2.0

    def last(accept: Any) -> int:
        """Largest count r in 0..n with accept(P(at least r)). P falls with r, so bisection finds it."""
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
    """Upper bound on the worst deployment score for any distribution: the largest evaluation score (docs/method.md eq. 34).

    :param scores: all m evaluation scores
    :param n_deploy: deployment set size n
    :param level: confidence
    :return: the bound
    :raises ValueError: if no such bound exists; for n much larger than m it never exists
    """
    x = score_vector(scores)
    _check(len(x), n_deploy)
    inside_unit("level", level)
    allowed = int(len(x) * (1.0 - level) / level + 1e-9)
    if n_deploy > allowed:
        raise ValueError(
            f"n_deploy must be at most {allowed} for an upper bound at level={level} from {len(x)} evaluation scores, got {n_deploy}: a larger "
            f"deployment exceeds all of these scores with probability above {1 - level:.3g}, whatever the distribution; use "
            "GumbelTail.interval (which assumes the tail model), conformal.lower_bound, conformal.exceedance_count_interval, or "
            f"evaluate at least {int(np.ceil(n_deploy * level / (1 - level) - 1e-9))} tasks"
        )
    return float(x.max())


def lower_bound(scores: Any, n_deploy: int, level: float = 0.9) -> float:
    """Lower bound on the worst deployment score for any distribution (docs/method.md eq. 32, 34).

    :param scores: all m evaluation scores
    :param n_deploy: deployment set size n
    :param level: confidence
    :return: the largest evaluation score that some deployment score exceeds with at least this probability; -inf if none
    :raises ValueError: if the level is out of range
    """
    x = -np.sort(-score_vector(scores))
    _check(len(x), n_deploy)
    inside_unit("level", level)
    # the probability that some deployment score exceeds the j-th evaluation score, j = 1..m; see exceedance_probability
    exceeded = -np.expm1(np.cumsum(np.log1p(-n_deploy / (len(x) + n_deploy - np.arange(len(x))))))
    enough = np.flatnonzero(exceeded >= level)
    return float(x[enough[0]]) if len(enough) else -np.inf
