"""Forecasts from counts: failures out of trials per task, most of them zero.

Counts must not be turned into scores. 0 failures in T trials do not mean p = 0, and 1 failure does not mean p = 1/T. Such
scores would be tied, and the spacings of their tail would mean nothing (docs/method.md section 1, 9).

Instead, the counts themselves are modelled. Every task has its own failure probability, drawn from a beta distribution. Given
that probability, its count is binomial. The beta distribution is fitted to all counts by maximum likelihood, and its tail is
extrapolated. The beta distribution is an assumption, as the exponential tail is. The interval, a parametric bootstrap, depends
on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats
from scipy.special import betaln

from sb3_forecast.checks import check_seed, inside_unit, real, whole
from sb3_forecast.statistics.names import NoForecastError
from sb3_forecast.statistics.risk import clopper_pearson
from sb3_forecast.statistics.scores import failure_score_from_log_survival

#: bounds of log(mean / (1 - mean)) and log(a + b) of the beta distribution
#: beyond them scipy's betaln fails (it is infinite at a, b of 1e-16)
_BOUNDS = [(-18.0, 18.0), (-9.0, 12.0)]
#: number of tasks with at least one failure that a fit needs
MIN_FAILING = 5


def _check(successes: NDArray[np.int64], trials: NDArray[np.int64]) -> None:
    if successes.shape != trials.shape or successes.ndim != 1 or len(successes) < 2:
        raise ValueError(
            f"failures and trials must have the same shape (m,), m >= 2, got {successes.shape} and {trials.shape}; pass one row per task"
        )
    bad = np.flatnonzero((successes < 0) | (successes > trials) | (trials < 1))
    if len(bad):
        i = int(bad[0])
        raise ValueError(
            f"failures must be between 0 and trials, and trials at least 1, got {successes[i]} failures in {trials[i]} trials in row {i}; "
            "correct that row"
        )


def _negative_log_likelihood(parameters: NDArray[np.float64], rows: NDArray[np.float64]) -> float:
    mean, size = 1.0 / (1.0 + math.exp(-parameters[0])), math.exp(parameters[1])
    a, b = mean * size, (1.0 - mean) * size
    k, n, weight = rows
    return -float(weight @ (betaln(a + k, b + n - k) - betaln(a, b)))


@dataclass(frozen=True)
class CountTail:
    """A beta distribution of failure probabilities, fitted to counts. Build it with :meth:`fit`.

    :param a: first shape parameter; the mean failure probability is a / (a + b)
    :param b: second shape parameter
    :param failures: failures of each task, shape (m,), int64
    :param trials: trials of each task, shape (m,), int64
    """

    a: float
    b: float
    failures: NDArray[np.int64]
    trials: NDArray[np.int64]

    @classmethod
    def fit(cls, failures: NDArray[np.int64], trials: NDArray[np.int64]) -> CountTail:
        """Fit the beta distribution by maximum likelihood; the counts are beta-binomial.

        :param failures: failures of each task, shape (m,)
        :param trials: trials of each task, shape (m,)
        :return: the fit
        :raises ValueError: if a count is impossible, fewer than 5 tasks ever failed, or the tasks differ no more than by chance
        """
        failures, trials = np.asarray(failures, dtype=np.int64), np.asarray(trials, dtype=np.int64)
        _check(failures, trials)
        failing = int((failures > 0).sum())
        if failing < MIN_FAILING:
            limit = clopper_pearson(failing, len(failures))
            raise NoForecastError(
                f"failures must be above 0 for at least {MIN_FAILING} tasks, got {failing} of {len(failures)}; run more trials per task or "
                "more tasks, or use log-probabilities of the failure, which show what counts cannot. These counts say only that at most "
                f"{limit:.3g} of all tasks fail as often as these do, with 95% confidence"
            )
        # equal rows are counted once: most are 0 out of T
        pairs, weight = np.unique(np.stack([failures, trials]), axis=1, return_counts=True)
        rows = np.vstack([pairs, weight]).astype(np.float64)
        mean = failures.sum() / trials.sum()
        best = min(
            (
                optimize.minimize(_negative_log_likelihood, [math.log(mean / (1.0 - mean)) if mean < 1 else 5.0, start], (rows,), "L-BFGS-B",
                                  bounds=_BOUNDS)
                for start in (-2.0, 0.0, 3.0)
            ),
            key=lambda result: float(result.fun),
        )  # fmt: skip
        logit, log_size = best.x
        if log_size > 11.9:
            raise ValueError(
                "failures must differ between tasks by more than binomial chance, but they do not: perhaps all tasks have about the same "
                "failure probability; run more trials per task to find a worst one"
            )
        mean, size = 1.0 / (1.0 + math.exp(-logit)), math.exp(log_size)
        return cls(mean * size, (1.0 - mean) * size, failures, trials)

    @property
    def n_eval(self) -> int:
        """Number of tasks m."""
        return len(self.failures)

    def forecast(self, n_deploy: float) -> float:
        """Median score of the worst of n deployment tasks.

        :param n_deploy: deployment set size n
        :return: score
        :raises ValueError: if ``n_deploy < 1``
        """
        _check_deployment(n_deploy)
        return _worst(self.a, self.b, n_deploy, 0.5)

    def interval(self, n_deploy: float, level: float = 0.9, n_boot: int = 200, seed: int = 0) -> tuple[float, float]:
        """Prediction interval of the worst score among n deployment tasks.

        A parametric bootstrap repeats the fit, and each repetition also draws the worst task of a deployment.

        :param n_deploy: deployment set size n
        :param level: coverage
        :param n_boot: number of bootstrap fits, at least 20
        :param seed: seed of the bootstrap
        :return: lower and upper limit, as scores; -inf if too many of these fits fail
        :raises ValueError: if ``n_boot < 20``, ``n_deploy < 1``, or ``level`` is not strictly between 0 and 1
        """
        _check_deployment(n_deploy)
        inside_unit("level", level)
        whole("n_boot", n_boot, low=20, use="200 or more, to give quantiles")
        rng = np.random.default_rng(check_seed(seed))
        worst = []
        for _ in range(n_boot):
            p = rng.beta(self.a, self.b, size=self.n_eval)
            try:
                refit = CountTail.fit(rng.binomial(self.trials, p), self.trials)
            except ValueError:
                # this replicate has too few failures, or no spread, for a fit: take the lowest score possible
                worst.append(-math.inf)
                continue
            worst.append(_worst(refit.a, refit.b, n_deploy, rng.random()))
        low, high = np.quantile(worst, [(1.0 - level) / 2.0, (1.0 + level) / 2.0], method="inverted_cdf")
        return float(low), float(high)


def _check_deployment(n_deploy: float) -> None:
    real("n_deploy", n_deploy, low=1, use="the number of tasks in the deployment")


def _worst(a: float, b: float, n_deploy: float, quantile: float) -> float:
    """Score of a quantile of the largest of n beta variables, from P(all <= p) = F(p)^n."""
    # 1 - p is Beta(b, a); its lower tail keeps its precision for p close to 1
    tail = -math.expm1(math.log(quantile) / n_deploy)
    survival = float(stats.beta.ppf(tail, b, a))
    # below the smallest numbers scipy stays at 2.2e-308; there the distribution is a power
    log_survival = math.log(survival) if survival > 1e-300 else (math.log(tail) + betaln(b, a) + math.log(b)) / b
    return float(failure_score_from_log_survival(min(log_survival, 0.0)))
