"""Checks of the exponential tail, choice of k, and the effect of a missed rare mode (docs/method.md section 3, 7)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.checks import inside_unit, real, whole
from sb3_forecast.statistics.bias import bias_constants
from sb3_forecast.statistics.estimators import forecast_top, mean_spacing
from sb3_forecast.statistics.names import Method
from sb3_forecast.statistics.scores import score_vector

#: upper quantiles of A*^2 under the null, and their p-values, from `python benchmarks/anderson_darling.py`: 4 million samples of
#: 20 exponentials with estimated mean; docs/method.md eq. 48 quotes .738, 1.072, 1.320, 1.954 for 25, 10, 5, 1%
_AD_TABLE: tuple[tuple[float, float], ...] = (
    (0.0, 1.0), (0.1656, 0.99), (0.2202, 0.95), (0.2598, 0.9), (0.3505, 0.75), (0.5045, 0.5), (0.6295, 0.35), (0.7465, 0.25), (0.9269, 0.15),
    (1.0733, 0.1), (1.3327, 0.05), (1.604, 0.025), (1.9834, 0.01), (2.2853, 0.005), (2.6074, 0.0025), (3.0574, 0.001), (3.429, 0.0005),
    (4.3645, 0.0001),
)  # fmt: skip


@dataclass(frozen=True)
class Diagnostics:
    """Checks of a fitted tail.

    :param k: number of top scores
    :param n_eval: evaluation set size m
    :param curvature: z of the curvature test (docs/method.md eq. 47); positive: heavier than exponential, the forecast is too low
    :param curvature_p: two-sided p-value of the curvature test
    :param anderson_darling: A*^2 (docs/method.md eq. 48)
    :param anderson_darling_p: p-value of A*^2
    :param ties: k minus the number of different values among the k top scores
    :param warnings: what is wrong and what to do about it, one sentence each; empty if nothing is wrong
    """

    k: int
    n_eval: int
    curvature: float
    curvature_p: float
    anderson_darling: float
    anderson_darling_p: float
    ties: int
    warnings: tuple[str, ...]


def curvature_score(top: NDArray[np.float64]) -> float:
    """Score test of exponential spacings against a scale that changes along the tail (docs/method.md eq. 47).

    :param top: the k largest scores, descending, shape (k,)
    :return: z, with mean 0 and variance 1 under the null; NaN if all scores are equal or k < 3
    """
    spacings = np.arange(1, len(top)) * (top[:-1] - top[1:])
    count = len(spacings)
    mean = spacings.mean()
    if mean == 0.0 or count < 2:
        return math.nan
    height = np.log((count + 1) / np.arange(1, count + 1))
    c = height - height.mean()
    return float(c @ spacings / (mean * math.sqrt(count / (count + 1) * (c @ c))))


def anderson_darling(top: NDArray[np.float64]) -> float:
    """Anderson-Darling statistic A*^2 of the excesses over psi_k for an exponential with estimated mean (docs/method.md eq. 48).

    :param top: the k largest scores, descending, shape (k,)
    :return: A^2 (1 + 0.6 / K), K = k - 1; NaN if all scores are equal
    """
    excess = np.sort(top[:-1] - top[-1])
    count, mean = len(excess), float(np.mean(excess))
    if mean == 0.0:
        return math.nan
    z = excess / mean
    i = np.arange(1, count + 1)
    with np.errstate(divide="ignore"):
        # log F = log(1 - e^-z), log(1 - F) = -z; an excess of 0 (a tie with psi_k) makes the statistic infinite, as it should
        a2 = -count - np.mean((2 * i - 1) * (np.log(-np.expm1(-z)) - z[::-1]))
    return float(a2 * (1.0 + 0.6 / count))


def anderson_darling_p(statistic: float) -> float:
    """p-value of :func:`anderson_darling`, interpolated between simulated quantiles; log p is linear in between.

    :param statistic: A*^2
    :return: p-value between 1e-4 and 1 (the ends of the table); NaN for a NaN statistic
    """
    if math.isnan(statistic):
        return math.nan
    points, p_values = (np.array(column) for column in zip(*_AD_TABLE, strict=True))
    return float(np.exp(np.interp(statistic, points, np.log(p_values))))


def diagnose(scores: NDArray[np.float64], k: int, n_eval: int | None = None) -> Diagnostics:
    """Check a tail fit.

    :param scores: evaluation scores, descending, at least the k largest
    :param k: number of top scores
    :param n_eval: evaluation set size m; ``None`` if all scores are given
    :return: the checks
    """
    top = scores[:k]
    z = curvature_score(top)
    z_p = math.erfc(abs(z) / math.sqrt(2.0)) if not math.isnan(z) else math.nan
    a2 = anderson_darling(top)
    a2_p = anderson_darling_p(a2)
    ties = int(k - len(np.unique(top)))
    warnings = []
    if top[0] == top[-1]:
        warnings.append(
            f"the {k} worst scores are all equal: there is no tail to extrapolate. Do not use this forecast or its interval; "
            "evaluate with scores that differ."
        )
    elif ties:
        warnings.append(
            f"{ties} of the {k} top scores are tied: such scores often come from counts or rounded values, and they spoil the fit; "
            "use log-probabilities, or the count model (`python -m sb3_forecast forecast --trials`)."
        )
    if z_p < 0.05 and z > 0:
        warnings.append(
            f"the tail is heavier than exponential (curvature z = {z:.1f}): the forecast is probably too low; "
            "use a smaller k, or compare --method pareto."
        )
    elif z_p < 0.05:
        warnings.append(
            f"the tail is lighter than exponential (curvature z = {z:.1f}): the forecast is probably too high, which is the safe side; "
            "use a smaller k for a closer forecast."
        )
    if a2_p < 0.05:
        warnings.append(
            f"the top scores do not look exponential (Anderson-Darling p = {a2_p:.2g}): do not trust the intervals; try another k."
        )
    if k < 10:
        warnings.append(f"the fit uses only {k} scores, so its interval is wide; evaluate more tasks.")
    return Diagnostics(k, len(scores) if n_eval is None else n_eval, z, z_p, a2, a2_p, ties, tuple(warnings))


def forward_stop_k(scores: NDArray[np.float64], alpha: float = 0.1, smallest: int = 10) -> int:
    """Choose the largest k whose tail ForwardStop accepts, from Anderson-Darling p-values.

    See docs/method.md section 7, and Bader et al. 2018.

    :param scores: all m evaluation scores, any order
    :param alpha: false discovery rate, strictly between 0 and 1
    :param smallest: smallest k that is tried; it is returned if every k is rejected
    :return: k; because the data chose it, intervals are no longer exact
    :raises ValueError: if fewer than ``smallest`` scores are finite and in the upper quarter, or alpha is out of range
    """
    inside_unit("alpha", alpha)
    whole("smallest", smallest, low=2)
    ordered = -np.sort(-score_vector(scores))
    largest = min(int(np.isfinite(ordered).sum()), len(ordered) // 4)
    if largest < smallest:
        raise ValueError(
            f"smallest must be at most the number of finite scores in the upper quarter, {largest}, got {smallest}; evaluate more tasks "
            "or use a smaller value"
        )
    candidates = np.unique(np.geomspace(smallest, largest, 25).round().astype(int))[::-1]
    rejected = 0
    total = 0.0
    for i, k in enumerate(candidates, start=1):
        p = anderson_darling_p(anderson_darling(ordered[:k]))
        total -= math.log1p(-min(p, 1.0 - 1e-12)) if not math.isnan(p) else 0.0
        if total / i <= alpha:
            rejected = i
    return int(candidates[rejected]) if rejected < len(candidates) else smallest


@dataclass(frozen=True)
class StabilityScan:
    """Forecast and scale for a range of k; where the tail fits, they hardly change with k.

    :param k: numbers of top scores, shape (K,)
    :param forecast: forecast for each k, shape (K,)
    :param scale: sigma_bar for each k, shape (K,)
    :param curvature: curvature z for each k, shape (K,)
    """

    k: NDArray[np.int64]
    forecast: NDArray[np.float64]
    scale: NDArray[np.float64]
    curvature: NDArray[np.float64]


def stability_scan(
    scores: Any, n_deploy: float, method: Method = "blue", smallest: int = 5, largest: int | None = None
) -> StabilityScan:
    """Compute forecast, scale and curvature for a range of k.

    :param scores: all m evaluation scores, any order
    :param n_deploy: deployment set size n
    :param method: point forecast
    :param smallest: smallest k
    :param largest: largest k; ``None`` for half of the finite scores
    :return: at most 60 values of k, evenly spaced in log k, and the results for each
    :raises ValueError: unless 2 <= smallest <= largest <= number of finite scores
    """
    ordered = -np.sort(-score_vector(scores))
    whole("smallest", smallest)
    finite = int(np.isfinite(ordered).sum())
    largest = finite // 2 if largest is None else whole("largest", largest)
    if not 2 <= smallest <= largest <= finite:
        raise ValueError(
            f"smallest and largest must be within 2 and {finite}, the number of finite scores, got {smallest} and {largest}; "
            f"use 2 <= smallest <= largest <= {finite}"
        )
    k = np.unique(np.geomspace(smallest, largest, 60).round().astype(np.int64))
    tops = [ordered[:i] for i in k]
    return StabilityScan(
        k,
        np.array([float(forecast_top(top, len(ordered), n_deploy, method)) for top in tops]),
        np.array([float(mean_spacing(top)) for top in tops]),
        np.array([curvature_score(top) for top in tops]),
    )


@dataclass(frozen=True)
class MissedMode:
    """The effect of a rare mode on a forecast (docs/method.md eq. 22, 23). Errors and shifts are in units of the scale.

    :param miss_probability: probability that no evaluation task belongs to the mode
    :param hit_probability: probability that at least one deployment task belongs to it
    :param error_if_missed: mean of forecast - largest deployment score, if the evaluation missed the mode; negative: too low
    :param tolerable_shift: with a shift Delta above this, a missed mode makes the forecast too low on average
    """

    miss_probability: float
    hit_probability: float
    error_if_missed: float
    tolerable_shift: float


def missed_mode(mass: float, shift: float, k: int, n_eval: int, n_deploy: float, method: Method = "jones") -> MissedMode:
    """How likely an evaluation misses a rare mode, and how wrong the forecast is then.

    :param mass: share rho of the tasks that belong to the mode
    :param shift: how much higher the scores of the mode are, Delta >= 0, in units of the scale
    :param k: number of top scores
    :param n_eval: evaluation set size m
    :param n_deploy: deployment set size n
    :param method: point forecast
    :return: probabilities and errors; the formula of the error holds if rho n is well above 1
    :raises ValueError: if the mass is not strictly between 0 and 1, or the shift is negative
    """
    inside_unit("mass", mass, "the share of the tasks that belong to the mode")
    real("shift", shift, low=0.0, use="a number of units of the scale")
    bias = bias_constants(k, n_eval, n_deploy, method).maximum
    lift = math.log1p(mass * math.expm1(shift)) if shift < 700 else shift + math.log(mass)
    tolerable = math.log1p(math.expm1(bias) / mass) if bias > 0 else 0.0
    return MissedMode(
        miss_probability=math.exp(n_eval * math.log1p(-mass)),
        hit_probability=-math.expm1(n_deploy * math.log1p(-mass)),
        error_if_missed=bias - lift,
        tolerable_shift=tolerable,
    )
