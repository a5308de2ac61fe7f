"""GumbelTail, an exponential tail fitted to the worst scores of an evaluation set.

See docs/method.md section 2, 4, and Jones et al. 2025.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np
import torch as th
from numpy.typing import NDArray

from sb3_forecast.checks import check_seed, inside_unit, real, whole
from sb3_forecast.statistics.diagnostics import Diagnostics, diagnose
from sb3_forecast.statistics.estimators import bootstrap_tops, check_sizes, forecast_top, mean_spacing
from sb3_forecast.statistics.exact_sums import ExactSum
from sb3_forecast.statistics.intervals import pivot_quantile
from sb3_forecast.statistics.names import METHODS, TARGETS, Method, NoForecastError, Target
from sb3_forecast.statistics.risk import (
    clopper_pearson,
    frequency_upper_limit,
    jones_log_frequency,
    log_aggregate_risk,
    log_frequency,
    log_mean_failure,
    log_mean_of_parts,
)
from sb3_forecast.statistics.scores import (
    failure_probability,
    failure_score,
    float64_array,
    log_failure_probability,
    log_survival_probability,
)
from sb3_forecast.statistics.sketch import TailSketch


def default_k(n_eval: int) -> int:
    """Default number of top scores k: round(2 sqrt(m)), but at least 10 and at most m // 4.

    No rule that looks at the data is clearly better (docs/method.md section 7).

    :param n_eval: evaluation set size m
    :return: k, at least 2 and at most m
    """
    return min(n_eval, max(2, min(max(round(2.0 * math.sqrt(n_eval)), 10), n_eval // 4)))


@dataclass(frozen=True)
class GumbelTail:
    """The tail above the k-th largest of m evaluation scores.

    Build it with :meth:`fit`. Leading axes of the scores are a batch. Torch scores keep their graph.

    :param scores: all evaluation scores, or the largest that a sketch keeps, descending, shape (..., m), float64
    :param k: number of top scores used
    :param method: method of the point forecast, ``"blue"``, ``"jones"`` or ``"direct"``
    :param sketch: the sketch of the evaluation scores, if they are not all kept
    """

    scores: Any
    k: int
    method: Method
    sketch: TailSketch | None = None

    @classmethod
    def fit(cls, scores: Any, k: int | None = None, method: Method = "blue") -> GumbelTail:
        """Fit the tail.

        Scores of -inf (p = 0) are allowed below the k largest.

        :param scores: all m evaluation scores, any order, shape (..., m); numpy or torch. Or a :class:`TailSketch` of them
        :param k: number of top scores; ``None`` for :func:`default_k`, or for the number of finite scores if that is smaller
        :param method: ``"blue"`` (unbiased under an exact tail), ``"jones"`` or ``"direct"``
        :return: the fitted tail
        :raises ValueError: if scores are NaN or +inf, if fewer than k (or 2) are finite, or if k or the method is not allowed
        """
        sketch = scores if isinstance(scores, TailSketch) else None
        if sketch is not None and sketch.counted:
            raise ValueError(
                "scores must be probabilities, got a sketch of counted failures, which have no tail; give counts to CountTail"
            )
        x = float64_array(scores if sketch is None else sketch.top_scores)
        if x.ndim == 0 or x.shape[-1] < 2:
            raise ValueError(
                f"scores must have shape (..., m), m >= 2, got {tuple(x.shape)}; put all evaluation scores on the last axis"
            )
        if method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, got {method!r}; check the spelling")
        xp = array_api_compat.array_namespace(x)
        if bool(xp.isnan(x).any()):
            raise ValueError(
                "scores must be numbers, got NaN; find the tasks whose log-probability is NaN and score them again"
            )
        if bool((x == xp.inf).any()):
            raise ValueError(
                "scores must be below +inf (p = 1 exactly), got +inf; use failure_score_from_log_survival, which is precise for p close to 1"
            )
        n_eval = x.shape[-1] if sketch is None else sketch.n_tasks
        n_finite = int(xp.isfinite(x).sum(-1).min())
        if k is None:
            k = min(default_k(n_eval), n_finite)  # of a sketch, at most as many as it keeps
        else:
            check_sizes(k, n_eval, 1)
            if sketch is not None and k > sketch.top:
                raise ValueError(
                    f"k must be at most the {sketch.top} largest scores that the sketch keeps, got {k}; make it with a larger `top`"
                )
        if n_finite < 2:
            raise NoForecastError(
                f"only {n_finite} of {n_eval} scores are finite (p > 0), but a tail needs at least 2; evaluate more tasks, "
                "score with log-probabilities, or give counts to CountTail (--trials on the command line)"
            )
        if n_finite < k:
            raise NoForecastError(
                f"k must be from 2 to {n_finite}, since {n_finite} of {n_eval} scores are finite (p > 0), got {k}; use such a k, "
                "evaluate more tasks, or score with log-probabilities instead of counts"
            )
        ordered = th.sort(x, dim=-1, descending=True).values if isinstance(x, th.Tensor) else -np.sort(-x, axis=-1)
        return cls(ordered, k, method, sketch)

    @property
    def n_eval(self) -> int:
        """Evaluation set size m."""
        return int(self.scores.shape[-1]) if self.sketch is None else self.sketch.n_tasks

    @property
    def top(self) -> Any:
        """The k largest scores, descending, shape (..., k)."""
        return self.scores[..., : self.k]

    @property
    def location(self) -> Any:
        """Location of the tail: psi_k, the score where it starts, shape (...)."""
        return self.scores[..., self.k - 1]

    @property
    def scale(self) -> Any:
        """Scale of the tail: sigma_bar, the mean normalised spacing (docs/method.md eq. 11), shape (...).

        It is 0 if the top scores are all equal.
        """
        return mean_spacing(self.top)

    def forecast(self, n_deploy: float, target: Target = "max") -> Any:
        """Forecast the worst score of a deployment.

        :param n_deploy: deployment set size n
        :param target: ``"max"`` (the expected largest score) or ``"quantile"`` (the score that one task in n exceeds)
        :return: score, shape (...)
        :raises ValueError: if ``n_deploy < 1`` or the target is unknown
        """
        return forecast_top(self.top, self.n_eval, n_deploy, self.method, target)

    def interval(self, n_deploy: int, level: float = 0.9) -> tuple[Any, Any]:
        """Prediction interval of the worst deployment score; exact if the tail is exponential (docs/method.md eq. 29-31).

        :param n_deploy: deployment set size n
        :param level: coverage
        :return: lower and upper limit, each of shape (...); the lower one is at least psi_k
        :raises ValueError: if the level is not strictly between 0 and 1, or ``n_deploy < 1``
        """
        inside_unit("level", level)
        n_deploy = int(real("n_deploy", n_deploy, low=1, use="the number of tasks in the deployment"))
        low, high = (pivot_quantile(p, self.k, self.n_eval, n_deploy) for p in ((1.0 - level) / 2.0, (1.0 + level) / 2.0))
        return self.location + low * self.scale, self.location + high * self.scale

    def bootstrap(self, n_deploy: float, n_boot: int = 1000, seed: int = 0, target: Target = "max") -> NDArray[np.float64]:
        """Forecasts of bootstrap resamples. They show how much the forecast itself varies.

        They do not include the chance in the deployment, and they do not show whether the tail is exponential.

        :param n_deploy: deployment set size n
        :param n_boot: number of resamples
        :param seed: seed of the resamples
        :param target: see :meth:`forecast`
        :return: forecast scores, shape (n_boot,), float64
        :raises ValueError: if the scores are a batch, or a resample holds fewer than k finite scores
        """
        ordered = self._single("bootstrap")
        whole("n_boot", n_boot, low=1, use="for example 1000")
        tops = bootstrap_tops(ordered, self.k, n_boot, np.random.default_rng(check_seed(seed)), self.n_eval)
        if not np.isfinite(tops).all():
            raise ValueError(
                f"k must be well below the number of finite scores to resample them, got {self.k}; use a smaller k"
            )
        return np.asarray(forecast_top(tops, self.n_eval, n_deploy, self.method, target))

    def worst_query_risk(self, n_deploy: float, target: Target = "max") -> Any:
        """Failure probability of the worst task of a deployment (docs/method.md section 8).

        :param n_deploy: deployment set size n
        :param target: see :meth:`forecast`
        :return: probability, shape (...)
        """
        return failure_probability(self.forecast(n_deploy, target))

    def log_worst_query_survival(self, n_deploy: float, target: Target = "max") -> Any:
        """Log of one minus :meth:`worst_query_risk`. It is still precise when that rounds to 1.

        :param n_deploy: deployment set size n
        :param target: see :meth:`forecast`
        :return: natural log, shape (...)
        """
        return log_survival_probability(self.forecast(n_deploy, target))

    def log_behavior_frequency(self, p_threshold: float) -> Any:
        """Log of the share of tasks that fail with more than a given probability (docs/method.md eq. 49, 50).

        Beyond psi_k it comes from the fitted tail (with ``"jones"`` from its own regression). Below psi_k it is the share in the
        sample.

        :param p_threshold: failure probability, strictly between 0 and 1
        :return: natural log, shape (...); -inf if no task of the sample reaches it and there is no tail (scale 0)
        :raises ValueError: if the threshold is not strictly between 0 and 1
        """
        x = _threshold_score(p_threshold)
        xp = array_api_compat.array_namespace(self.scores)
        if self.method == "jones":
            beyond = jones_log_frequency(x, self.top, self.n_eval)
        else:
            beyond = log_frequency(x, self.location, self.scale, self.k, self.n_eval)
        if self.sketch is not None and x < float(self.location):
            count = xp.asarray(float(self.sketch.beyond_score(x)))
        else:
            count = xp.astype(self.scores > x, xp.float64).sum(-1)
        with np.errstate(divide="ignore"):
            empirical = xp.log(count) - math.log(self.n_eval)
        return xp.where((x >= self.location) & (self.scale > 0.0), beyond, empirical)

    def behavior_frequency(self, p_threshold: float) -> Any:
        """Share of tasks that fail with more than a given probability; see :meth:`log_behavior_frequency`.

        :param p_threshold: failure probability, strictly between 0 and 1
        :return: share of tasks, shape (...)
        :raises ValueError: if the threshold is not strictly between 0 and 1
        """
        log_share = self.log_behavior_frequency(p_threshold)
        return array_api_compat.array_namespace(log_share).exp(log_share)

    def behavior_frequency_limit(self, p_threshold: float, level: float = 0.95) -> float:
        """Upper confidence limit of :meth:`behavior_frequency`.

        Beyond psi_k it uses the fitted tail (docs/method.md eq. 52). Below psi_k it is the Clopper-Pearson limit, which needs no
        model.

        :param p_threshold: failure probability, strictly between 0 and 1
        :param level: confidence
        :return: the limit, a share of tasks
        :raises ValueError: if the threshold is not strictly between 0 and 1, or the scores are a batch
        """
        x, scores = _threshold_score(p_threshold), self._single("behavior_frequency_limit")
        scale = float(self.scale)
        if x < float(self.location) or scale == 0.0:
            count = int((scores > x).sum()) if self.sketch is None else self.sketch.beyond_score(x)
            return clopper_pearson(count, self.n_eval, level)
        return frequency_upper_limit((x - float(self.location)) / scale, self.k, self.n_eval, level)

    def log_mean_failure(self) -> Any:
        """Log of the mean failure probability of a fresh task (docs/method.md eq. 54).

        Below psi_k it comes from the sample, above from the tail.

        :return: natural log, shape (...)
        """
        if self.sketch is None:
            return log_mean_failure(self.scores, self.k, self.scale)
        # with counts, the failures of the top by their scores, which are smoothed, can be more than were counted
        below = self.sketch.score_sum.without(ExactSum.of_logs(log_failure_probability(self.top))).log()
        return log_mean_of_parts(below, self.location, self.scale, self.k, self.n_eval)

    def aggregate_risk(self, n_deploy: float) -> Any:
        """Probability that a deployment sees at least one failure if each task is tried once (docs/method.md eq. 53, 54).

        :param n_deploy: deployment set size n
        :return: probability, shape (...)
        :raises ValueError: if ``n_deploy < 1``
        """
        log_risk = self.log_aggregate_risk(n_deploy)
        return array_api_compat.array_namespace(log_risk).exp(log_risk)

    def log_aggregate_risk(self, n_deploy: float) -> Any:
        """Log of :meth:`aggregate_risk`. It is still precise when that underflows.

        :param n_deploy: deployment set size n
        :return: natural log, shape (...)
        :raises ValueError: if ``n_deploy < 1``
        """
        check_sizes(self.k, self.n_eval, n_deploy)
        return log_aggregate_risk(self.log_mean_failure(), n_deploy)

    def diagnostics(self) -> Diagnostics:
        """Check the fit: curvature, Anderson-Darling, ties, and warnings that say what to do (docs/method.md section 7).

        :return: the results of the checks
        :raises ValueError: if the scores are a batch
        """
        return diagnose(self._single("diagnostics"), self.k, self.n_eval)

    def _single(self, name: str) -> NDArray[np.float64]:
        if self.scores.ndim != 1:
            raise ValueError(
                f"scores must have the shape (m,) for {name}, got {tuple(self.scores.shape)}; fit each row by itself"
            )
        return np.asarray(self.scores.detach().cpu() if isinstance(self.scores, th.Tensor) else self.scores)


def _threshold_score(p_threshold: float) -> float:
    inside_unit("p_threshold", p_threshold, "for example 0.5")
    return float(failure_score(math.log(p_threshold)))


__all__ = ["TARGETS", "GumbelTail", "default_k"]
