"""Outlook on a deployment: numbers and warnings, from the scores or counts of an evaluation set."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.statistics.allocation import Design, failure_means
from sb3_forecast.statistics.alternatives import ParetoTail, lognormal_forecast
from sb3_forecast.statistics.conformal import exceedance_probability
from sb3_forecast.statistics.count_checks import best_fit, goodness_of_fit
from sb3_forecast.statistics.counts import CountTail
from sb3_forecast.statistics.expected import ExpectedFailures, expected_failures
from sb3_forecast.statistics.names import NoForecastError, OutlookMethod
from sb3_forecast.statistics.risk import clopper_pearson
from sb3_forecast.statistics.scores import failure_probability, log_survival_probability
from sb3_forecast.statistics.tails import GumbelTail

#: a fit with a smaller p-value is bad
_BAD = 0.05


def gumbel_tail(scores: Any, k: int | None, method: OutlookMethod) -> GumbelTail:
    """Fit the exponential tail that an outlook uses. Its method is ``"blue"`` for ``"pareto"`` and ``"lognormal"``.

    :param scores: failure score of every evaluation task, shape (m,)
    :param k: number of top scores; ``None`` for the default of :class:`GumbelTail`
    :param method: see :func:`outlook_of_scores`
    :return: the fitted tail
    """
    return GumbelTail.fit(scores, k, method if method in ("blue", "jones", "direct") else "blue")


def _worst(forecast: float, low: float, high: float, level: float) -> dict[str, Any]:
    """The entries about the worst task, which every method has."""
    return {
        "worst_score": forecast,
        "worst_probability": float(failure_probability(forecast)),
        "worst_log_survival": float(log_survival_probability(forecast)),
        "interval": [low, high],
        "interval_probability": [float(failure_probability(v)) for v in (low, high)],
        "level": level,
    }


def _expected(expected: ExpectedFailures, n_deploy: float, level: float) -> dict[str, Any]:
    """The entries that answer the first question; they come from the data themselves."""
    return {
        "answer": expected.sentence(n_deploy, level),
        "observed_mean_failure": expected.mean,
        "observed_mean_interval": [expected.low, expected.high],
    }


def outlook_of_scores(
    scores: Any, n_deploy: float, method: OutlookMethod = "blue", k: int | None = None, level: float = 0.9
) -> dict[str, Any]:
    """Outlook on a deployment from failure scores.

    :param scores: failure score of every evaluation task, shape (m,)
    :param n_deploy: deployment set size n
    :param method: ``"blue"``, ``"jones"``, ``"direct"``, ``"pareto"`` (the tail may bend) or ``"lognormal"`` (fits all scores,
        not just the tail)
    :param k: number of top scores; ``None`` for the default of :class:`GumbelTail`
    :param level: coverage of intervals and limits
    :return: numbers by name, and ``caveats``, a list of sentences
    :raises ValueError: if no tail can be fitted
    """
    n, tail = n_deploy, gumbel_tail(scores, k, method)
    if method == "pareto":
        pareto = ParetoTail.fit(scores, k)
        forecast, extra = pareto.forecast(n), {"pareto_shape": pareto.shape}
    elif method == "lognormal":
        forecast, extra = lognormal_forecast(scores, n), {}
    else:
        forecast, extra = float(tail.forecast(n)), {}
    low, high = (
        (float(v) for v in tail.interval(int(n), level)) if method in ("blue", "jones", "direct") else (math.nan, math.nan)
    )
    expected = expected_failures(failure_probability(tail.scores), level)
    checks = tail.diagnostics()
    caveats = list(checks.warnings)
    zeros = int((~np.isfinite(tail.scores)).sum())
    if zeros:
        caveats.append(
            f"{zeros} of {tail.n_eval} tasks have p = 0: they are treated as below the tail. If these are frequencies, give counts (--trials)."
        )
    if n > 1000 * tail.n_eval:
        caveats.append(
            f"the deployment is {n / tail.n_eval:.0f} times as large as the evaluation: if the tail is not quite exponential, the forecast "
            "can be far off."
        )
    if method in ("pareto", "lognormal"):
        caveats.append(
            f"only the forecast of the worst task is that of {method!r}; the other rows are those of the exponential tail."
        )
        blue = [float(v) for v in (*tail.interval(int(n), level), tail.forecast(n))]
        if not blue[0] <= forecast <= blue[1]:
            caveats.append(
                f"{method!r} and the exponential tail disagree by more than the {level:.0%} interval of the latter, "
                f"{float(failure_probability(blue[0])):.2g} to {float(failure_probability(blue[1])):.2g}: the p-values of the fit say which to "
                "believe; if they are above 5%, the exponential tail."
            )
    mode = 1.0 - 0.5 ** (1.0 / tail.n_eval)
    caveats.append(
        f"a rare kind of task that fails for its own reason and makes up less than {mode:.2g} of all tasks is probably missing from "
        f"these {tail.n_eval}; no extrapolation can see it."
    )
    return {
        **_expected(expected, n, level),
        "method": method,
        "n_eval": tail.n_eval,
        "k": tail.k,
        **_worst(forecast, low, high, level),
        "observed_worst_probability": float(failure_probability(tail.scores[0])),
        "any_failure": float(tail.aggregate_risk(n)),
        "mean_failure": float(np.exp(tail.log_mean_failure())),
        "share_above_half": float(tail.behavior_frequency(0.5)),
        "share_above_half_limit": tail.behavior_frequency_limit(0.5, level),
        "exceeds_observed_worst": exceedance_probability(tail.n_eval, int(n), 1),
        "curvature_p": checks.curvature_p,
        "anderson_darling_p": checks.anderson_darling_p,
        "caveats": caveats,
        **extra,
    }


def outlook_of_counts(
    failures: NDArray[np.int64],
    trials: NDArray[np.int64],
    n_deploy: float,
    level: float = 0.9,
    first: NDArray[np.int64] | None = None,
    design: Design | None = None,
) -> dict[str, Any]:
    """Outlook on a deployment from how often each task failed.

    :param failures: failed episodes of each task, shape (m,)
    :param trials: episodes of each task, shape (m,)
    :param n_deploy: deployment set size n
    :param level: coverage of the interval
    :param first: failures among the first episodes of each task, shape (m,), if what was played later depended on them
    :param design: what was played, if that depended on failures
    :return: numbers by name, and ``caveats``, a list of sentences
    :raises ValueError: as :meth:`CountTail.fit`; too few failures for a fit are no error, but then there is no forecast of the worst task
    """
    n = n_deploy
    failures, trials = np.asarray(failures), np.asarray(trials)
    # later episodes of a design were chosen by what was seen, so only the first ones have the right mean
    shares = failures / trials if first is None or design is None else np.asarray(first) / design.first
    try:
        tail, other = best_fit(failures, trials, design)
    except NoForecastError as error:
        return _counts_only(failures, trials, shares, n, level, str(error))
    expected = expected_failures(shares, level)
    forecast = tail.forecast(n)
    low, high = tail.interval(n, level)
    fit_p = goodness_of_fit(tail)
    caveats = [
        f"these are counts ({int((failures == 0).sum())} of {tail.n_eval} are 0): {_model(tail)} was fitted to them (a = {tail.a:.3g}, "
        f"b = {tail.b:.3g}), and everything beyond the largest counts is extrapolated from it.",
        "if you can get log-probabilities of the failure, use them: they show the tail far better than counts.",
    ]
    if fit_p < _BAD:
        caveats.append(f"the fit is bad (p-value {fit_p:.2g}): do not believe what it says beyond the largest counts.")
    worst = other.forecast(n)
    if not low <= worst <= high:
        other_p = goodness_of_fit(other)
        believe = f"believe the latter, which fits (p-value {other_p:.2g})" if fit_p < _BAD <= other_p else (
            "believe the first, which is likelier" if fit_p >= _BAD else "neither fits: believe only the counts"
        )  # fmt: skip
        caveats.append(
            f"two models of the counts disagree by more than the {level:.0%} interval about the worst task: {_model(tail)} says "
            f"{float(failure_probability(forecast)):.2g}, {_model(other)} {float(failure_probability(worst)):.2g}; {believe}."
        )
    result = {
        **_expected(expected, n, level),
        "method": "beta-binomial" if tail.never == 0.0 else "zero-inflated beta-binomial",
        "n_eval": tail.n_eval,
        **_worst(forecast, low, high, level),
        # a task that was played again because it failed by chance would look worse than it is
        "observed_worst_probability": float((failures / trials if design is None else failure_means(failures, trials)).max()),
        "any_failure": -math.expm1(n * math.log1p(-tail.mean)),
        "mean_failure": tail.mean,
        "fit_p": fit_p,
        "caveats": caveats,
    }
    if (trials == trials[0]).all():
        # needs no model: the counts of all tasks are exchangeable
        result["exceeds_observed_worst"] = exceedance_probability(tail.n_eval, int(n), 1)
    return result


def _model(fit: CountTail) -> str:
    if fit.never == 0.0:
        return "a beta distribution of failure probabilities"
    return f"a beta distribution for {1.0 - fit.never:.2g} of the tasks, while the others never fail,"


def _counts_only(
    failures: NDArray[np.int64],
    trials: NDArray[np.int64],
    shares: NDArray[np.float64],
    n_deploy: float,
    level: float,
    reason: str,
) -> dict[str, Any]:
    """What can be said of counts with too few failures for a fit."""
    expected = expected_failures(shares, level)
    total = int(trials.sum())
    by_task = clopper_pearson(int((failures > 0).sum()), len(failures), level)
    by_episode = clopper_pearson(int(failures.sum()), total, level)
    return {
        **_expected(expected, n_deploy, level),
        "method": "counts only",
        "n_eval": len(failures),
        "level": level,
        "observed_worst_probability": float((failures / trials).max()),
        "failing_tasks_limit": by_task,
        "failure_limit_if_tasks_are_alike": by_episode,
        "caveats": [
            f"with {level:.0%} confidence at most {by_task:.3g} of all tasks are such that fail here. Only if all tasks were alike would the "
            f"{total:,} episodes say that one fails with probability at most {by_episode:.3g}.",
            f"no forecast of the worst task: {reason}.",
        ],
    }
