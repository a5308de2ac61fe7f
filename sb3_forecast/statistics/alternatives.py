"""Other ways to extrapolate the same scores. Compare them to see how much the exponential assumption matters.

``pareto``: a generalised Pareto tail, fitted by scipy. It may bend (shape > 0: heavier than exponential, shape < 0: bounded).
``lognormal``: the baseline of Jones et al. 2025, a normal distribution fitted to all log-probabilities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from sb3_forecast.statistics.estimators import check_sizes
from sb3_forecast.statistics.scores import failure_score, log_failure_probability, score_vector
from sb3_forecast.statistics.tails import GumbelTail


@dataclass(frozen=True)
class ParetoTail:
    """A generalised Pareto distribution above the k-th largest score.

    :param threshold: psi_k, the k-th largest score
    :param shape: xi; 0 is the exponential tail
    :param scale: scale of the distribution, in units of the score psi
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
        :return: the fitted tail
        :raises ValueError: as :meth:`GumbelTail.fit`, or if the top scores are all equal
        """
        tail = GumbelTail.fit(score_vector(scores), k)
        excess = tail.top[:-1] - tail.top[-1]
        if float(excess.max()) == 0.0:
            raise ValueError(
                f"scores must differ at the top to fit a shape, but the {tail.k} largest are all equal; use method='blue', or other scores"
            )
        shape, _, scale = stats.genpareto.fit(excess, floc=0.0)
        return cls(float(tail.location), float(shape), float(scale), tail.k, tail.n_eval)

    def forecast(self, n_deploy: float) -> float:
        """The score that one task in n exceeds: the 1/n quantile.

        :param n_deploy: deployment set size n
        :return: score
        :raises ValueError: if ``n_deploy < 1``
        """
        check_sizes(self.k, self.n_eval, n_deploy)
        share = min(1.0, self.n_eval / ((self.k - 1) * n_deploy))
        return self.threshold + float(stats.genpareto.isf(share, self.shape, scale=self.scale))


def lognormal_forecast(scores: Any, n_deploy: float) -> float:
    """The log-normal baseline: fit a normal distribution to log p and take its 1/n quantile (Jones et al. 2025).

    :param scores: all m evaluation scores; scores of -inf (p = 0) are left out, because a normal distribution cannot hold them
    :param n_deploy: deployment set size n
    :return: score; +inf if the fitted quantile is a probability of 1 or more
    :raises ValueError: if a score is NaN or +inf, fewer than 2 scores are finite, or ``n_deploy < 1``
    """
    x = score_vector(scores)
    log_p = log_failure_probability(x[np.isfinite(x)])
    if len(log_p) < 2:
        raise ValueError(
            f"scores must hold at least 2 finite values, got {len(log_p)}; score more tasks, or use log-probabilities"
        )
    check_sizes(2, len(log_p), n_deploy)
    quantile = float(log_p.mean()) + float(log_p.std(ddof=1)) * float(stats.norm.isf(min(0.5, 1.0 / n_deploy)))
    return math.inf if quantile >= 0.0 else float(failure_score(quantile))
