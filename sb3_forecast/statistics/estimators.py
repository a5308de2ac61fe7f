"""Point forecasts from the k largest of m scores (docs/method.md section 2 and 4), as pure functions.

``top`` holds the k largest scores in descending order along the last axis; leading axes are a batch. All functions of scores
take numpy arrays or torch tensors and return the same kind in float64. Only :func:`jones_gradient` takes numpy arrays only.
"""

from __future__ import annotations

import math
from typing import Any

import array_api_compat
import numpy as np
import torch as th
from numpy.typing import NDArray
from scipy.special import digamma

from sb3_forecast.checks import real, whole
from sb3_forecast.statistics.names import METHODS, TARGETS, Method, Target
from sb3_forecast.statistics.scores import float64_array


def harmonic(n: float) -> float:
    """Harmonic number H_n, also for n >= 0 that is not an integer.

    :param n: index n
    :return: H_n = digamma(n + 1) + Euler's constant
    """
    return float(digamma(n + 1.0)) + float(np.euler_gamma)


def check_sizes(k: int, n_eval: int, n_deploy: float) -> None:
    """Raise an error if no forecast is defined for these sizes.

    :param k: number of top scores used
    :param n_eval: evaluation set size m
    :param n_deploy: deployment set size n
    :raises TypeError: if k or n_eval is no whole number, or n_deploy no number
    :raises ValueError: if ``k < 2``, ``k > n_eval``, or ``n_deploy`` is below 1 or not finite
    """
    if whole("k", k) < 2:
        raise ValueError(f"k must be at least 2, got {k}; use 2 or more top scores, since 1 has no spread")
    if k > whole("n_eval", n_eval, low=1):
        raise ValueError(
            f"k must be at most the evaluation set size n_eval={n_eval}, got {k}; use a smaller k or score more tasks"
        )
    real("n_deploy", n_deploy, low=1, use="the number of tasks in the deployment")


def log_positions(k: int, n_eval: int) -> NDArray[np.float64]:
    """Plotting positions t_j = log(m / j), j = 1..k (docs/method.md section 1).

    :return: shape (k,), float64, descending
    """
    return np.log(n_eval / np.arange(1, k + 1))


def target_height(k: int, n_eval: int, n_deploy: float, target: Target = "max", r: int = 1) -> float:
    """Expected height B of the target above psi_k, in units of the scale, under an exact tail (docs/method.md eq. 12, 26).

    :param target: ``"max"`` for the r-th largest deployment score, ``"quantile"`` for the true 1/n quantile
    :param r: rank of the deployment score, 1 for the largest; only for ``"max"``
    :return: the height B
    """
    base = harmonic(n_eval) - harmonic(k - 1)
    if target == "quantile":
        return math.log(n_deploy) - base
    return harmonic(n_deploy) - harmonic(r - 1) - base


def mean_spacing(top: Any) -> Any:
    """Local scale sigma_bar, the mean normalised spacing (docs/method.md eq. 11).

    :param top: shape (..., k)
    :return: shape (...); 0 if all k scores are equal
    """
    x = float64_array(top)
    k = x.shape[-1]
    # subtract psi_k first: ties then give exactly zero, and a large common shift costs no precision
    return (x - x[..., -1:]).sum(-1) / (k - 1)


def direct_weights(k: int, n_eval: int, n_deploy: float) -> NDArray[np.float64]:
    """Weights of the direct regression of scores on plotting positions, an L-estimator (docs/method.md eq. 9).

    :return: shape (k,), summing to 1
    """
    t = log_positions(k, n_eval)
    centred = t - t.mean()
    return np.asarray(1.0 / k + (math.log(n_deploy) - t.mean()) * centred / (centred @ centred))


def blue_weights(k: int, n_eval: int, n_deploy: float, target: Target = "max") -> NDArray[np.float64]:
    """Weights of the best linear unbiased forecast psi_k + B sigma_bar (docs/method.md eq. 26).

    :return: shape (k,), summing to 1
    """
    height = target_height(k, n_eval, n_deploy, target)
    weights = np.full(k, height / (k - 1))
    weights[-1] = 1.0 - height
    return weights


def linear_weights(method: Method, k: int, n_eval: int, n_deploy: float, target: Target = "max") -> NDArray[np.float64]:
    """Weights of a forecast that is linear in the scores.

    :param method: ``"direct"`` (:func:`direct_weights`) or ``"blue"`` (:func:`blue_weights`)
    :param target: ``"max"`` or ``"quantile"``; only for ``"blue"``
    :return: shape (k,), summing to 1
    :raises ValueError: for ``"jones"``, which is not linear in the scores
    """
    if method == "direct":
        return direct_weights(k, n_eval, n_deploy)
    if method == "blue":
        return blue_weights(k, n_eval, n_deploy, target)
    raise ValueError(f"method must be linear in the scores, got {method!r}; use 'direct' or 'blue'")


def apply_weights(top: Any, weights: NDArray[np.float64]) -> Any:
    """Weighted sum of the top scores. For precision it is computed relative to psi_k.

    :param top: shape (..., k)
    :param weights: shape (k,), summing to 1
    :return: shape (...)
    """
    x = float64_array(top)
    w = th.as_tensor(weights, dtype=th.float64, device=x.device) if isinstance(x, th.Tensor) else weights
    return x[..., -1] + ((x - x[..., -1:]) * w).sum(-1)


def jones_forecast(top: Any, n_eval: int, n_deploy: float) -> Any:
    """Inverse regression of Jones et al.: regress log(j/m) on the score, and solve for log(1/n) (docs/method.md eq. 6).

    If all k scores are equal, the forecast is that score, and each of them has the gradient 1/k (docs/method.md, after eq. 9).

    :param top: shape (..., k)
    :return: shape (...)
    """
    x = float64_array(top)
    xp = array_api_compat.array_namespace(x)
    t = log_positions(x.shape[-1], n_eval)
    # relative to psi_k the mean is exact for ties, and the gradient of tied scores is 1/k each
    mean = x[..., -1] + (x - x[..., -1:]).mean(-1)
    centred = x - mean[..., None]
    slope_terms = t - t.mean()
    if isinstance(x, th.Tensor):
        slope_terms = th.as_tensor(slope_terms, dtype=th.float64, device=x.device)
    s_xt = (centred * slope_terms).sum(-1)
    s_xx = (centred * centred).sum(-1)
    tied = x[..., 0] == x[..., -1]
    ratio = s_xx / xp.where(tied, xp.ones_like(s_xt), s_xt)
    return mean + (math.log(n_deploy) - float(t.mean())) * ratio


def jones_gradient(top: NDArray[np.float64], n_eval: int, n_deploy: float) -> NDArray[np.float64]:
    """Closed-form gradient of :func:`jones_forecast` with respect to each score (docs/method.md eq. 8).

    :param top: shape (..., k)
    :return: shape (..., k), summing to 1; 1/k each where all k scores are equal
    """
    k = top.shape[-1]
    t = log_positions(k, n_eval)
    tc = t - t.mean()
    xc = top - top.mean(-1, keepdims=True)
    s_xt = (xc * tc).sum(-1, keepdims=True)
    s_xx = (xc * xc).sum(-1, keepdims=True)
    tied = top[..., :1] == top[..., -1:]
    safe = np.where(tied, 1.0, s_xt)
    lift = math.log(n_deploy) - t.mean()
    return np.asarray(1.0 / k + np.where(tied, 0.0, lift * (2.0 * xc / safe - s_xx * tc / safe**2)))


def forecast_top(top: Any, n_eval: int, n_deploy: float, method: Method = "blue", target: Target = "max") -> Any:
    """Forecast the worst deployment score.

    ``jones`` and ``direct`` predict the 1/n quantile. They give the same number for both targets, as in their papers.
    ``blue`` is unbiased for the chosen target under an exact tail.

    :param top: the k largest evaluation scores, descending, shape (..., k), finite
    :param n_eval: evaluation set size m
    :param n_deploy: deployment set size n
    :param method: ``"blue"`` (docs/method.md eq. 26), ``"jones"`` (eq. 6) or ``"direct"`` (eq. 7)
    :param target: ``"max"`` or ``"quantile"``
    :return: shape (...)
    :raises ValueError: if no forecast is defined for these sizes, or the method or target is unknown
    """
    check_sizes(top.shape[-1], n_eval, n_deploy)
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}; check the spelling")
    if target not in TARGETS:
        raise ValueError(f"target must be one of {TARGETS}, got {target!r}; check the spelling")
    if method == "jones":
        return jones_forecast(top, n_eval, n_deploy)
    return apply_weights(top, linear_weights(method, top.shape[-1], n_eval, n_deploy, target))


def bootstrap_tops(
    ordered: NDArray[np.float64], k: int, n_boot: int, generator: np.random.Generator, n_eval: int | None = None
) -> NDArray[np.float64]:
    """Draw the k largest scores of bootstrap resamples directly, in O(k) per resample instead of O(m).

    The j-th largest score of a resample is the score with rank ceil(m U_(j)) in the sample, where U_(1) < ... < U_(m) are sorted
    uniform numbers. The k smallest of them are partial sums of m + 1 exponentials, divided by the sum of all.

    :param ordered: all m scores, or some more than the k largest, descending
    :param k: number of top scores
    :param n_boot: number of resamples
    :param generator: source of randomness
    :param n_eval: number m of scores; ``None`` if all are given
    :return: shape (n_boot, k), float64, descending along the last axis
    :raises ValueError: if a resample needs a score that is not given
    """
    m = len(ordered) if n_eval is None else n_eval
    partial = np.cumsum(generator.exponential(size=(n_boot, k)), axis=1)
    total = partial[:, -1:] + generator.gamma(m + 1 - k, size=(n_boot, 1))
    rank = (m * (partial / total)).astype(np.int64)
    if rank.max() >= len(ordered):
        raise ValueError(f"k must be well below the {len(ordered)} scores that are kept, got {k}; use a smaller k")
    return np.asarray(ordered[rank])
