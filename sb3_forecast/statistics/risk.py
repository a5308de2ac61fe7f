"""Risks of a deployment besides its worst score (docs/method.md section 8), as pure functions of psi_k and sigma_bar.

Functions of a location and a scale are smooth in both, and take numpy or torch. Probabilities are computed in logs, so that
nothing underflows.
"""

from __future__ import annotations

import math
from typing import Any

import array_api_compat
import numpy as np
from scipy.optimize import brentq
from scipy.special import betainc
from scipy.stats import beta

from sb3_forecast.checks import inside_unit, real, whole
from sb3_forecast.statistics.estimators import check_sizes, log_positions
from sb3_forecast.statistics.intervals import gamma_nodes
from sb3_forecast.statistics.scores import float64_array, float64_like, log_failure_probability


def log_frequency(threshold: float, location: Any, scale: Any, k: int, n_eval: int) -> Any:
    """Log of the share of tasks whose score exceeds a threshold, by inserting the fitted tail (docs/method.md eq. 50).

    :param threshold: score x
    :param location: psi_k, shape (...); the tail says nothing below it
    :param scale: sigma_bar, shape (...); 0 means that there is no tail beyond psi_k
    :param k: number of top scores
    :param n_eval: evaluation set size m
    :return: natural log, shape (...)
    """
    location, scale = float64_array(location), float64_array(scale)
    with np.errstate(divide="ignore", invalid="ignore"):
        return math.log(k / n_eval) - (threshold - location) / scale


def jones_log_frequency(threshold: float, top: Any, n_eval: int) -> Any:
    """Log of the share of tasks whose score exceeds a threshold, by the regression of Jones et al. (docs/method.md eq. 49).

    :param threshold: score x
    :param top: the k largest scores, descending, shape (..., k)
    :param n_eval: evaluation set size m
    :return: natural log, shape (...)
    """
    x = float64_array(top)
    t = log_positions(x.shape[-1], n_eval)
    mean = x.mean(-1)
    centred = x - mean[..., None]
    slope = (centred * float64_like(t - t.mean(), x)).sum(-1) / (centred * centred).sum(-1)
    return -float(t.mean()) - (threshold - mean) * slope


def umvu_frequency(threshold: float, location: Any, scale: Any, k: int, n_eval: int) -> Any:
    """Unbiased estimate of the share of tasks whose score exceeds a threshold (docs/method.md eq. 51).

    Far beyond psi_k it is often exactly 0, so do not use it as a forecast by itself.

    :param threshold: score x
    :param location: psi_k, shape (...)
    :param scale: sigma_bar, shape (...)
    :param k: number of top scores, at least 3
    :param n_eval: evaluation set size m
    :return: probability, shape (...)
    :raises ValueError: if ``k < 3``
    """
    if k < 3:
        raise ValueError(f"k must be at least 3 for an unbiased frequency, got {k}; use more top scores")
    base = 1.0 - (threshold - float64_array(location)) / ((k - 1) * float64_array(scale))
    xp = array_api_compat.array_namespace(base)
    return (k - 1) / n_eval * xp.where(base > 0.0, base, xp.zeros_like(base)) ** (k - 2)


def frequency_upper_limit(height: float, k: int, n_eval: int, level: float = 0.95) -> float:
    """Upper confidence limit of the share of tasks beyond a threshold; exact if the tail is exponential (docs/method.md eq. 52).

    :param height: (threshold - psi_k) / sigma_bar, >= 0
    :param k: number of top scores
    :param n_eval: evaluation set size m
    :param level: confidence, strictly between 0 and 1
    :return: the limit f with P((q_f - psi_k) / sigma_bar <= height) = level, where q_f is the score that a share f of the tasks
        exceeds
    :raises ValueError: if the height is negative or the level is out of range
    """
    check_sizes(k, n_eval, 1)
    if not real("height", height) >= 0.0:
        raise ValueError(f"height must be at least 0, got {height}; below psi_k use clopper_pearson, which counts the sample")
    inside_unit("level", level)
    g, weights = gamma_nodes(k - 1.0)
    # scores that are equal but for rounding give heights near infinity; beyond this one the limit is 0 in float64
    height = min(height, 1e8)
    stretch = height * g / (k - 1)

    def shortfall(log_f: float) -> float:
        return float(weights @ betainc(k, n_eval - k + 1, np.exp(np.minimum(log_f + stretch, 0.0)))) - level

    low = -height * 4.0 - 60.0 - math.log(n_eval)
    while shortfall(low) > 0.0:
        low *= 2.0
    return math.exp(brentq(shortfall, low, 0.0, xtol=1e-12, rtol=1e-14))


def clopper_pearson(count: int, n_eval: int, level: float = 0.95) -> float:
    """Upper confidence limit of the share of tasks beyond a threshold, for any distribution (docs/method.md section 8).

    :param count: number of evaluation tasks beyond the threshold
    :param n_eval: evaluation set size m
    :param level: confidence
    :return: the limit; 1 - (1 - level)^(1/m) for a count of 0
    :raises ValueError: if ``level`` is not strictly between 0 and 1, or ``count`` is not from 0 to ``n_eval``
    """
    inside_unit("level", level)
    if not 0 <= whole("count", count) <= whole("n_eval", n_eval) or n_eval < 1:
        raise ValueError(
            f"count must be from 0 to n_eval={n_eval}, which must be at least 1, got {count}; count tasks of the evaluation set"
        )
    return 1.0 if count == n_eval else float(beta.ppf(level, count + 1, n_eval - count))


def log_mean_beyond(location: Any, scale: Any) -> Any:
    """Log of the mean failure probability of the tasks beyond psi_k (docs/method.md eq. 54).

    It is log E[p | psi > psi_k] = log E[p(psi_k + sigma_bar Z)] with Z ~ Exp(1), computed by quadrature in log Z.

    :param location: psi_k, shape (...)
    :param scale: sigma_bar, shape (...)
    :return: natural log, shape (...); for tensors gradients flow
    """
    u, s = float64_array(location), float64_array(scale)
    xp = array_api_compat.array_namespace(u)
    # in log Z the integrand decays like exp(-Z) to the right and like Z to the left
    log_z = np.linspace(-36.0, 7.0, 1201)
    log_weight = float64_like(log_z - np.exp(log_z) + math.log(log_z[1] - log_z[0]), u)
    terms = log_weight + log_failure_probability(u[..., None] + s[..., None] * float64_like(np.exp(log_z), u))
    peak = xp.max(terms, axis=-1) if isinstance(terms, np.ndarray) else terms.detach().amax(-1)
    # scores below about -709 have log p = -inf in float64
    shift = xp.where(xp.isfinite(peak), peak, xp.zeros_like(peak))
    with np.errstate(divide="ignore"):
        return shift + xp.log(xp.exp(terms - shift[..., None]).sum(-1))


def log_mean_failure(scores: Any, k: int, scale: Any) -> Any:
    """Log of the mean failure probability of a fresh task (docs/method.md eq. 54).

    Below psi_k it comes from the sample, above from the tail.

    :param scores: all m scores, descending, shape (..., m)
    :param k: number of top scores
    :param scale: sigma_bar, shape (...)
    :return: natural log, shape (...)
    """
    x = float64_array(scores)
    xp = array_api_compat.array_namespace(x)
    m = x.shape[-1]
    if k == m:  # nothing is below the tail
        return math.log(k / m) + log_mean_beyond(x[..., k - 1], scale)
    log_p = log_failure_probability(x[..., k:])
    with np.errstate(divide="ignore"):
        top = log_p[..., 0]
        shift = xp.where(xp.isfinite(top), top, xp.zeros_like(top))
        below = shift + xp.log(xp.exp(log_p - shift[..., None]).sum(-1))
    return log_mean_of_parts(below, x[..., k - 1], scale, k, m)


def log_mean_of_parts(log_below: Any, location: Any, scale: Any, k: int, n_eval: int) -> Any:
    """:func:`log_mean_failure` from the sum of the failure probabilities below the tail.

    :param log_below: log of the sum of the failure probabilities of all but the k largest scores, shape (...)
    :param location: psi_k, shape (...)
    :param scale: sigma_bar, shape (...)
    :param k: number of top scores
    :param n_eval: evaluation set size m
    :return: natural log, shape (...)
    """
    beyond = math.log(k / n_eval) + log_mean_beyond(location, scale)
    return array_api_compat.array_namespace(beyond).logaddexp(beyond, log_below - math.log(n_eval))


def log_aggregate_risk(log_mean: Any, n_deploy: float) -> Any:
    """Log probability that a deployment of n tasks sees at least one failure (docs/method.md eq. 53).

    :param log_mean: log of the mean failure probability, shape (...)
    :param n_deploy: deployment set size n
    :return: natural log, shape (...)
    """
    x = float64_array(log_mean)
    xp = array_api_compat.array_namespace(x)
    # rounding can push the mean above 1
    x = xp.where(x > 0.0, xp.zeros_like(x), x)
    with np.errstate(divide="ignore"):
        survival = n_deploy * xp.log1p(-xp.exp(x))
    # if n E p is below 1e-300, the probability equals n E p in float64
    tiny = survival > -1e-300
    safe = xp.where(tiny, -xp.ones_like(x), survival)
    return xp.where(tiny, x + math.log(n_deploy), xp.log(-xp.expm1(safe)))
