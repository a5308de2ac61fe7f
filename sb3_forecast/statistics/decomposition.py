"""The causes of a forecast error: the exact finite-k decomposition (docs/method.md section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th

from sb3_forecast.statistics.estimators import forecast_top, linear_weights, target_height
from sb3_forecast.statistics.names import Method, Target
from sb3_forecast.statistics.scores import float64_array, float64_like
from sb3_forecast.statistics.tails import GumbelTail


@dataclass(frozen=True)
class Decomposition:
    """The four terms of a forecast error (docs/method.md eq. 13).

    forecast - observed = universal + curvature + inflation - extension. Each term has the batch shape of the scores, (...).

    :param universal: U, the error due to plotting positions and finite k: a constant of (k, m, n) times the scale
    :param curvature: C, the error due to unequal normalised spacings inside the evaluation tail
    :param inflation: I, the error due to regressing in the inverse direction; 0 for linear methods, never negative if n >= m
    :param extension: X, how much worse the deployment is than the evaluation tail predicts; a missed rare mode adds to this term
    :param total: forecast - observed
    :param scale: sigma_bar, the unit of the universal term
    """

    universal: Any
    curvature: Any
    inflation: Any
    extension: Any
    total: Any
    scale: Any


def decompose(
    scores: Any, n_deploy: float, observed: Any, k: int | None = None, method: Method = "jones", target: Target = "max"
) -> Decomposition:
    """Split a forecast error into its four terms, exactly (docs/method.md eq. 10-13).

    :param scores: all m evaluation scores, any order, shape (..., m)
    :param n_deploy: deployment set size n
    :param observed: the true value, shape (...): the largest deployment score, or the true 1/n quantile
    :param k: number of top scores; ``None`` for the default of :class:`GumbelTail`
    :param method: ``"jones"``, ``"direct"`` or ``"blue"``
    :param target: what the forecast predicts, ``"max"`` or ``"quantile"``
    :return: the terms; they add up to the error, except for rounding
    :raises ValueError: as :meth:`GumbelTail.fit`, or if ``n_deploy < 1``
    """
    tail = GumbelTail.fit(scores, k, method)
    top, m, scale = tail.top, tail.n_eval, tail.scale
    realised = float64_array(observed)
    if bool((realised != realised).any()):
        raise ValueError("observed must be a number, got NaN; use the largest deployment score, or the true 1/n quantile")
    if isinstance(top, th.Tensor):
        realised = th.as_tensor(realised, dtype=th.float64, device=top.device)
    elif isinstance(realised, th.Tensor):
        realised = realised.detach().cpu().numpy()
    forecast = forecast_top(top, m, n_deploy, method, target)
    linear: Method = "direct" if method == "jones" else method
    cumulative = np.cumsum(linear_weights(linear, tail.k, m, n_deploy, target))[:-1] / np.arange(1, tail.k)
    spacings = (top[..., :-1] - top[..., 1:]) * float64_like(np.arange(1, tail.k), top)
    height = target_height(tail.k, m, n_deploy, target)
    return Decomposition(
        universal=scale * (cumulative.sum() - height),
        curvature=((spacings - scale[..., None]) * float64_like(cumulative, top)).sum(-1),
        inflation=forecast - forecast_top(top, m, n_deploy, linear, target),
        extension=(realised - tail.location) - height * scale,
        total=forecast - realised,
        scale=scale,
    )
