"""Other ways to extrapolate the same scores, so that users can see when the exponential assumption matters.

``pareto``: a generalised Pareto tail, fitted by scipy, which may bend (shape > 0: heavier than exponential, < 0: bounded).
``lognormal``: the baseline of Jones et al. 2025, a normal distribution fitted to all log-probabilities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from sb3_forecast.statistics.estimators import check_sizes
from sb3_forecast.statistics.scores import failure_score, log_failure_probability
from sb3_forecast.statistics.tails import GumbelTail


@dataclass(frozen=True)
class ParetoTail:
    """A generalised Pareto distribution above the k-th largest score.

    :param threshold: psi_k
    :param shape: xi; 0 is the exponential tail
    :param scale: its scale, in psi
    :param k: number of top scores
    :param n_eval: evaluation set size m
    """

    threshold: float
    shape: float
    scale: float
    k: int
    n_eval: int

    @classmethod
    def fit(cls, scores: Any, k: int | None = None) -> ParetoTail:
        """Fit by maximum likelihood (``scipy.stats.genpareto``).

        :param scores: all m evaluation scores
        :param k: number of top scores; ``None`` for the default of :class:`GumbelTail`
        :return: the tail
        :raises ValueError: as :meth:`GumbelTail.fit`, or if the top scores are all equal
        """
        tail = GumbelTail.fit(np.asarray(scores, dtype=np.float64), k)
        excess = tail.top[:-1] - tail.top[-1]
        if float(excess.max()) == 0.0:
            raise ValueError(
                f"the {tail.k} top scores are all equal: no shape can be fitted; use method='blue', or scores that differ"
            )
        shape, _, scale = stats.genpareto.fit(excess, floc=0.0)
        return cls(float(tail.location), float(shape), float(scale), tail.k, tail.n_eval)

    def forecast(self, n_deploy: float) -> float:
        """Score that one deployment task in n exceeds.

        :param n_deploy: deployment set size n
        :return: score
        :raises ValueError: if ``n_deploy < 1``
        """
        check_sizes(self.k, self.n_eval, n_deploy)
        share = min(1.0, self.n_eval / ((self.k - 1) * n_deploy))
        return self.threshold + float(stats.genpareto.isf(share, self.shape, scale=self.scale))


def lognormal_forecast(scores: Any, n_deploy: float) -> float:
    """The log-normal baseline: log p ~ Normal, its 1/n quantile (Jones et al. 2025).

    :param scores: all m evaluation scores; those of -inf (p = 0) are left out, since a normal has no mass there
    :param n_deploy: deployment set size n
    :return: score; +inf if the fitted quantile is a probability of 1 or more
    :raises ValueError: if fewer than 2 scores are finite, or ``n_deploy < 1``
    """
    x = np.asarray(scores, dtype=np.float64)
    log_p = log_failure_probability(x[np.isfinite(x)])
    if len(log_p) < 2:
        raise ValueError(f"{len(log_p)} finite scores do not determine a distribution; score at least 2 tasks with p > 0")
    check_sizes(2, len(log_p), n_deploy)
    quantile = float(log_p.mean()) + float(log_p.std(ddof=1)) * float(stats.norm.isf(min(0.5, 1.0 / n_deploy)))
    return math.inf if quantile >= 0.0 else float(failure_score(quantile))
