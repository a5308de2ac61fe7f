"""Universal bias of the forecasts: the bias that they have even if the tail is exactly exponential (docs/method.md section 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sb3_forecast.checks import one_of
from sb3_forecast.statistics.estimators import check_sizes, direct_weights, forecast_top, harmonic, log_positions, mean_spacing
from sb3_forecast.statistics.names import METHODS, Method


@dataclass(frozen=True)
class BiasConstants:
    """Bias of a forecast under an exact exponential tail, in units of its scale (docs/method.md eq. 16-21).

    :param intercept: c0, bias against the 1/n quantile at n = m
    :param slope: kappa, growth of this bias per unit of log(n/m)
    :param quantile: bias against the true 1/n quantile
    :param maximum: bias against the expected deployment maximum
    """

    intercept: float
    slope: float
    quantile: float
    maximum: float


def expected_ratio(k: int, n_eval: int) -> float:
    """Mean slope of the inverse regression: E[S_psipsi / S_psit] under an exact tail of scale 1 (docs/method.md eq. 20).

    :param k: number of top scores, at least 2
    :param n_eval: evaluation set size m
    :return: the expected value, with a relative error below 1e-8
    """
    check_sizes(k, n_eval, 1)
    t = log_positions(k, n_eval)
    index = np.arange(1, k)
    c = np.cumsum(t - t.mean())[:-1] / index
    # the centred scores are a linear map of the normalised spacings: psi_j - psi_k = sum_{i >= j} D_i / i
    to_scores = np.where(np.arange(k)[:, None] < index, 1.0 / index, 0.0)
    to_scores -= to_scores.mean(axis=0)
    quadratic = to_scores.T @ to_scores
    # the integrand is smooth in log s and decays at both ends, so the trapezoid rule converges geometrically
    s = np.exp(np.linspace(-45.0, 45.0, 3001))
    damped = 1.0 / (1.0 + np.multiply.outer(s, c))
    inside = ((damped @ quadratic) * damped).sum(1) + (damped**2) @ np.diag(quadratic)
    integrand = inside * np.exp(np.log(damped).sum(1)) * s
    return float(integrand.sum() * (np.log(s[1]) - np.log(s[0])))


def bias_constants(k: int, n_eval: int, n_deploy: float, method: Method = "jones") -> BiasConstants:
    """Universal bias of a forecast under an exact tail (docs/method.md eq. 16, 20, 21).

    :param k: number of top scores
    :param n_eval: evaluation set size m
    :param n_deploy: deployment set size n
    :param method: ``"jones"``, ``"direct"`` or ``"blue"``; the bias of ``"blue"`` against the maximum is 0
    :return: the constants
    :raises ValueError: if no forecast is defined for these sizes
    """
    check_sizes(k, n_eval, n_deploy)
    one_of("method", method, METHODS)
    excess = harmonic(n_deploy) - math.log(n_deploy)
    if method == "blue":
        return BiasConstants(harmonic(n_eval) - math.log(n_eval), 0.0, excess, 0.0)
    t = log_positions(k, n_eval)
    expected = harmonic(n_eval) - np.array([harmonic(j - 1) for j in range(1, k + 1)])

    def bias(size: float) -> float:
        if method == "direct":
            return float(direct_weights(k, n_eval, size) @ expected) - math.log(size)
        return float(expected.mean()) + (math.log(size) - float(t.mean())) * ratio - math.log(size)

    ratio = expected_ratio(k, n_eval) if method == "jones" else math.nan
    intercept = bias(n_eval)
    slope = bias(n_eval * math.e) - intercept
    return BiasConstants(intercept, slope, bias(n_deploy), bias(n_deploy) - excess)


@lru_cache(maxsize=64)
def ideal_error(k: int, n_eval: int, n_deploy: int, method: Method = "blue", n_samples: int = 20_000) -> float:
    """Mean absolute error of a forecast on an exactly exponential tail, in units of the fitted scale.

    Compare observed errors with this number. It comes from a simulation with a fixed seed; its standard error is below 1%.

    :param k: number of top scores
    :param n_eval: evaluation set size m
    :param n_deploy: deployment set size n
    :param method: forecast method
    :param n_samples: number of simulated evaluation sets
    :return: the mean absolute error
    """
    check_sizes(k, n_eval, n_deploy)
    generator = np.random.default_rng(0)
    # the k largest of m exponentials, by Renyi's representation (docs/method.md eq. 15): psi_j = sum_{i >= j} Z_i / i
    spacings = generator.exponential(size=(n_samples, k)) / np.arange(1, k + 1)
    # the k-th score itself is minus the log of the k-th smallest uniform, which is a beta variable
    spacings[:, -1] = -np.log(generator.beta(k, n_eval - k + 1, size=n_samples))
    top = np.cumsum(spacings[:, ::-1], axis=1)[:, ::-1]
    maximum = -np.log(-np.expm1(np.log(generator.random(n_samples)) / n_deploy))
    errors = (forecast_top(top, n_eval, n_deploy, method) - maximum) / mean_spacing(top)
    return float(np.abs(errors).mean())
