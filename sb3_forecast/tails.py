"""GumbelTail: an exponential tail fitted to the worst scores of an evaluation set (METHOD 2, 4; Jones et al. 2025)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np
import torch as th

from sb3_forecast.estimators import METHODS, TARGETS, Method, Target, check_sizes, forecast_top, mean_spacing
from sb3_forecast.intervals import pivot_quantile
from sb3_forecast.scores import failure_probability, float64_array


def default_k(n_eval: int) -> int:
    """Number of top scores, clamp(round(2 sqrt(m)), 10, m // 4) (METHOD 7: no data-driven rule beats it clearly).

    :param n_eval: evaluation set size m
    :return: k; at least 2, and at most m
    """
    return min(n_eval, max(2, min(max(round(2.0 * math.sqrt(n_eval)), 10), n_eval // 4)))


@dataclass(frozen=True)
class GumbelTail:
    """The tail above the k-th largest of m evaluation scores.

    Build it with :meth:`fit`. Leading axes of the scores are a batch; torch scores keep their graph.

    :param scores: all evaluation scores, descending, shape (..., m), float64
    :param k: number of top scores used
    :param method: point forecast, ``"blue"``, ``"jones"`` or ``"direct"``
    """

    scores: Any
    k: int
    method: Method

    @classmethod
    def fit(cls, scores: Any, k: int | None = None, method: Method = "blue") -> GumbelTail:
        """Fit the tail.

        Scores of -inf (p = 0) are allowed below the k largest.

        :param scores: all m evaluation scores, any order, shape (..., m); numpy or torch
        :param k: number of top scores; ``None`` for :func:`default_k`, lowered to the number of finite scores if there are fewer
        :param method: ``"blue"`` (unbiased under an exact tail), ``"jones"`` or ``"direct"``
        :return: the fitted tail
        :raises ValueError: for NaN or +inf scores, fewer than k (or 2) finite ones, k out of range, or an unknown method
        """
        x = float64_array(scores)
        if x.ndim == 0 or x.shape[-1] < 2:
            raise ValueError(f"scores has shape {tuple(x.shape)}; pass all evaluation scores, at least 2, along the last axis")
        if method not in METHODS:
            raise ValueError(f"method={method!r} is unknown; use one of {METHODS}")
        xp = array_api_compat.array_namespace(x)
        if bool(xp.isnan(x).any()):
            raise ValueError("scores holds NaN; find the tasks whose log-probability is NaN and score them again")
        if bool((x == xp.inf).any()):
            raise ValueError(
                "scores holds +inf (p = 1 exactly); use failure_score_from_log_survival, which resolves p close to 1"
            )
        n_eval = x.shape[-1]
        n_finite = int(xp.isfinite(x).sum(-1).min())
        if k is None:
            k = min(default_k(n_eval), n_finite)
        check_sizes(max(k, 2), n_eval, 1)
        if k < 2 or n_finite < k:
            raise ValueError(
                f"k={k} top scores are wanted but only {n_finite} of {n_eval} are finite (p > 0); use 2 <= k <= {n_finite}, "
                "evaluate more tasks, or score with log-probabilities instead of counts"
            )
        ordered = th.sort(x, dim=-1, descending=True).values if isinstance(x, th.Tensor) else -np.sort(-x, axis=-1)
        return cls(ordered, k, method)

    @property
    def n_eval(self) -> int:
        """Evaluation set size m."""
        return int(self.scores.shape[-1])

    @property
    def top(self) -> Any:
        """The k largest scores, descending, shape (..., k)."""
        return self.scores[..., : self.k]

    @property
    def location(self) -> Any:
        """psi_k, the score that the tail starts at, shape (...)."""
        return self.scores[..., self.k - 1]

    @property
    def scale(self) -> Any:
        """sigma_bar, the mean normalised spacing (METHOD eq. 11), shape (...); 0 if the top scores are all equal."""
        return mean_spacing(self.top)

    def forecast(self, n_deploy: float, target: Target = "max") -> Any:
        """Predicted worst score of a deployment.

        :param n_deploy: deployment set size n
        :param target: ``"max"`` (expected largest score) or ``"quantile"`` (exceeded by one task in n)
        :return: score, shape (...)
        :raises ValueError: if ``n_deploy < 1`` or the target is unknown
        """
        return forecast_top(self.top, self.n_eval, n_deploy, self.method, target)

    def interval(self, n_deploy: int, level: float = 0.9) -> tuple[Any, Any]:
        """Prediction interval of the worst deployment score, exact if the tail is (METHOD eq. 29-31).

        :param n_deploy: deployment set size n
        :param level: coverage
        :return: lower and upper limit, each of shape (...); the lower one is psi_k at least
        :raises ValueError: if the level is not strictly between 0 and 1, or ``n_deploy < 1``
        """
        if not 0.0 < level < 1.0:
            raise ValueError(f"level={level} is no coverage; use a value strictly between 0 and 1")
        low, high = (pivot_quantile(p, self.k, self.n_eval, n_deploy) for p in ((1.0 - level) / 2.0, (1.0 + level) / 2.0))
        return self.location + low * self.scale, self.location + high * self.scale

    def worst_query_risk(self, n_deploy: float, target: Target = "max") -> Any:
        """Failure probability of the worst task of a deployment (METHOD 8).

        :param n_deploy: deployment set size n
        :param target: see :meth:`forecast`
        :return: probability, shape (...)
        """
        return failure_probability(self.forecast(n_deploy, target))


__all__ = ["TARGETS", "GumbelTail", "default_k"]
