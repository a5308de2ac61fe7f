"""Prediction limits for the deployment maximum under an exact exponential tail (docs/method.md section 4, eq. 29-31).

The distribution of the pivot V = (M - psi_k) / sigma_bar depends on (k, m, n) only. So a limit is psi_k + c sigma_bar with a
constant c. It needs no simulation, and like the forecast it is linear in the scores.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import gammaln

from sb3_forecast.checks import inside_unit, real
from sb3_forecast.statistics.estimators import check_sizes

_NODES = 400


def gamma_nodes(shape: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights of a trapezoid rule in log g for g ~ Gamma(shape).

    In log g the integrand is smooth and decays at both ends.

    :param shape: shape parameter, > 0
    :return: nodes g and their weights, each of shape (800,), float64
    """
    # the density of log g is exp(shape x - e^x)/Gamma(shape), which reaches far to the left for small shapes
    x = np.linspace(
        math.log(shape) - 40.0 / math.sqrt(shape) - 4.0, math.log(shape) + 12.0 / math.sqrt(shape) + 1.5, 2 * _NODES
    )
    weights = np.exp(shape * x - np.exp(x) - gammaln(shape)) * (x[1] - x[0])
    return np.exp(x), weights


def beta_nodes(k: int, n_eval: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights of a trapezoid rule in logit u for u ~ Beta(k, m - k + 1): the share of tasks above the k-th largest of m.

    :param k: rank of the score
    :param n_eval: evaluation set size m
    :return: nodes u and their weights, each of shape (800,), float64
    """
    b = n_eval - k + 1
    spread = math.sqrt(1.0 / k + 1.0 / b)
    # the density reaches far to the left for small k, and to the right for small b
    d = np.linspace(-24.0 * spread - 4.0 / math.sqrt(k), 24.0 * spread + 4.0 / math.sqrt(b), 2 * _NODES)
    centre, rest = k / (k + b), b / (k + b)
    # relative to the density at the centre, and normalised: in this form nothing cancels, also for a trillion tasks
    log_weight = -k * np.log1p(rest * np.expm1(-d)) - b * np.log1p(centre * np.expm1(d))
    weights = np.exp(log_weight)
    return 1.0 / (1.0 + rest / centre * np.exp(-d)), weights / weights.sum()


def pivot_cdf(c: float, k: int, n_eval: int, n_deploy: float) -> float:
    """Distribution function of the pivot: P((M - psi_k) / sigma_bar <= c) under an exact tail (docs/method.md eq. 29).

    :param c: height above psi_k in units of sigma_bar, >= 0
    :param k: number of top scores
    :param n_eval: evaluation set size m
    :param n_deploy: deployment set size n
    :return: probability, with an absolute error of about 1e-8
    :raises ValueError: if c < 0, because the tail assumption says nothing below psi_k, or if these sizes have no forecast
    """
    log_none, over_scale, over_share = _log_none_above(c, k, n_eval, n_deploy)
    return float(over_scale @ np.exp(log_none) @ over_share)


def pivot_survival(c: float, k: int, n_eval: int, n_deploy: float) -> float:
    """One minus :func:`pivot_cdf`, also where it is far below 1e-8.

    :param c: height above psi_k in units of sigma_bar, >= 0
    :param k: number of top scores
    :param n_eval: evaluation set size m
    :param n_deploy: deployment set size n
    :return: probability, with a relative error below 1e-4 down to 1e-12
    :raises ValueError: as :func:`pivot_cdf`
    """
    log_none, over_scale, over_share = _log_none_above(c, k, n_eval, n_deploy)
    return float(over_scale @ -np.expm1(log_none) @ over_share)


def _log_none_above(
    c: float, k: int, n_eval: int, n_deploy: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Log probability that no deployment task lies above psi_k + c sigma_bar, given the fitted scale and the share of tasks above psi_k.

    :return: shape (scales, shares), and the weights of the scales and of the shares
    """
    check_sizes(k, n_eval, n_deploy)
    if not real("c", c) >= 0:
        raise ValueError(
            f"c must be at least 0, got {c}; the tail assumption says nothing below psi_k, use c=0 for psi_k itself"
        )
    g, over_scale = gamma_nodes(k - 1.0)
    u, over_share = beta_nodes(k, n_eval)
    above = np.minimum(np.multiply.outer(np.exp(-c * g / (k - 1)), u), 1.0 - 1e-16)
    return n_deploy * np.log1p(-above), over_scale, over_share


def pivot_quantile(p: float, k: int, n_eval: int, n_deploy: float) -> float:
    """Quantile of the pivot: the height c with P((M - psi_k) / sigma_bar <= c) = p (docs/method.md eq. 29, 31).

    :param p: probability, 0 < p < 1
    :param k: number of top scores
    :param n_eval: evaluation set size m
    :param n_deploy: deployment set size n
    :return: c; 0.0 if P(M <= psi_k) is already above p, so that psi_k itself is the limit
    :raises ValueError: if p is not strictly between 0 and 1, or no forecast is defined for these sizes
    """
    check_sizes(k, n_eval, n_deploy)
    return _pivot_quantile(inside_unit("p", p, "for example 0.95"), int(k), int(n_eval), float(n_deploy))


@lru_cache(maxsize=1024)
def _pivot_quantile(p: float, k: int, n_eval: int, n_deploy: float) -> float:
    if pivot_cdf(0.0, k, n_eval, n_deploy) > p:
        return 0.0

    def shortfall(c: float) -> float:
        # near 1 the distribution function rounds; there its complement decides
        if p > 0.99:
            return 1.0 - pivot_survival(c, k, n_eval, n_deploy) / (1.0 - p)
        return pivot_cdf(c, k, n_eval, n_deploy) - p

    low, high = 0.0, 8.0 + math.log(max(n_deploy / n_eval, 1.0))
    while shortfall(high) < 0.0:
        low, high = high, 2.0 * high
    return float(brentq(shortfall, low, high, xtol=1e-10, rtol=1e-12, maxiter=500))
