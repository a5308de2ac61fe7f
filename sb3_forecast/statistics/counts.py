"""Forecasts from counts: failures out of trials per task, most of them zero.

Counts must not be turned into scores. 0 failures in T trials do not mean p = 0, and 1 failure does not mean p = 1/T. Such
scores would be tied, and the spacings of their tail would mean nothing (docs/method.md section 1, 9).

Instead, the counts themselves are modelled. Every task has its own failure probability, drawn from a beta distribution. Given
that probability, its count is binomial. The beta distribution is fitted to all counts by maximum likelihood, and its tail is
extrapolated. The beta distribution is an assumption, as the exponential tail is. The interval, a parametric bootstrap, depends
on it. Where many tasks never fail, a *zero-inflated* fit describes the rest better: a share of the tasks has p = 0. The check of
the fit is in ``count_checks.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats
from scipy.special import betaln

from sb3_forecast.checks import check_seed, inside_unit, real, whole
from sb3_forecast.statistics.allocation import Design
from sb3_forecast.statistics.names import NoForecastError
from sb3_forecast.statistics.risk import clopper_pearson
from sb3_forecast.statistics.scores import failure_score_from_log_survival

#: bounds of log(mean / (1 - mean)) and log(a + b) of the beta distribution
#: beyond them scipy's betaln fails (it is infinite at a, b of 1e-16)
_BOUNDS = [(-18.0, 18.0), (-9.0, 12.0)]
#: bounds of log(share / (1 - share)) of the tasks that never fail
_SHARE_BOUNDS = (-12.0, 12.0)
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


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def _negative_log_likelihood(parameters: NDArray[np.float64], rows: NDArray[np.float64]) -> float:
    """Of (failures, trials, number of such tasks), up to a constant. A third parameter is the logit of the share that never fails."""
    mean, size = _sigmoid(parameters[0]), math.exp(parameters[1])
    a, b = mean * size, (1.0 - mean) * size
    k, n, weight = rows
    log_likelihood = betaln(a + k, b + n - k) - betaln(a, b)
    if len(parameters) == 3:
        never = np.where(k == 0, -math.log1p(math.exp(-parameters[2])), -math.inf)
        log_likelihood = np.logaddexp(never, log_likelihood - math.log1p(math.exp(parameters[2])))
    return -float(weight @ log_likelihood)


@dataclass(frozen=True)
class CountTail:
    """A beta distribution of failure probabilities, fitted to counts. Build it with :meth:`fit`.

    :param a: first shape parameter; the mean failure probability is a / (a + b)
    :param b: second shape parameter
    :param failures: failures of each task, shape (m,), int64
    :param trials: trials of each task, shape (m,), int64
    :param never: share of the tasks that never fail, in [0, 1); 0 for a plain beta distribution
    :param log_likelihood: of the counts, up to a constant that is the same for all fits of these counts
    :param design: how the trials were chosen, if that depended on failures. The likelihood is the same; repetitions of the counting are not
    """

    a: float
    b: float
    failures: NDArray[np.int64]
    trials: NDArray[np.int64]
    never: float = 0.0
    log_likelihood: float = math.nan
    design: Design | None = None

    @classmethod
    def fit(
        cls, failures: NDArray[np.int64], trials: NDArray[np.int64], zero_inflated: bool = False, design: Design | None = None
    ) -> CountTail:
        """Fit the beta distribution by maximum likelihood; the counts are beta-binomial.

        :param failures: failures of each task, shape (m,)
        :param trials: trials of each task, shape (m,)
        :param zero_inflated: whether to fit a share of tasks that never fail, too
        :param design: how the trials were chosen, if that depended on failures
        :return: the fit
        :raises ValueError: if a count is impossible
        :raises NoForecastError: if fewer than 5 tasks ever failed, or the tasks differ no more than by chance
        """
        failures, trials = np.asarray(failures, dtype=np.int64), np.asarray(trials, dtype=np.int64)
        _check(failures, trials)
        mean = failures.sum() / trials.sum()
        logit = math.log(mean / (1.0 - mean)) if 0.0 < mean < 1.0 else 5.0
        starts = [[logit, size] for size in (-2.0, 0.0, 3.0)]
        if zero_inflated:
            starts = [[*start, share] for start in starts for share in (-2.0, 2.0)]
        return cls._best(failures, trials, starts, design)

    def refit(self, failures: NDArray[np.int64], trials: NDArray[np.int64]) -> CountTail:
        """Fit other counts, from the parameters of this fit on. It is several times faster than :meth:`fit`.

        :param failures: failures of each task, shape (m,)
        :param trials: trials of each task, shape (m,)
        :return: the fit
        :raises NoForecastError: as :meth:`fit`
        """
        start = [math.log(self.a / self.b), math.log(self.a + self.b)]
        if self.never > 0.0:
            start.append(math.log(self.never / (1.0 - self.never)))
        return self._best(failures, trials, [start], self.design)

    @classmethod
    def _best(
        cls, failures: NDArray[np.int64], trials: NDArray[np.int64], starts: list[list[float]], design: Design | None
    ) -> CountTail:
        """The likeliest fit that is found from some starts."""
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
        bounds = [*_BOUNDS, _SHARE_BOUNDS][: len(starts[0])]
        best = min(
            (optimize.minimize(_negative_log_likelihood, start, (rows,), "L-BFGS-B", bounds=bounds) for start in starts),
            key=lambda result: float(result.fun),
        )
        logit, log_size, *share = (float(value) for value in best.x)
        if log_size > 11.9 and not share:
            raise NoForecastError(
                "failures must differ between tasks by more than binomial chance, but they do not: perhaps all tasks have about the same "
                "failure probability; run more trials per task to find a worst one"
            )
        mean, size = _sigmoid(logit), math.exp(log_size)
        never = _sigmoid(share[0]) if share else 0.0
        return cls(mean * size, (1.0 - mean) * size, failures, trials, never, -float(best.fun), design)

    @property
    def mean(self) -> float:
        """Mean failure probability of a task, by the fit."""
        return (1.0 - self.never) * self.a / (self.a + self.b)

    @property
    def n_eval(self) -> int:
        """Number of tasks m."""
        return len(self.failures)

    def forecast(self, n_deploy: float) -> float:
        """Median score of the worst of n deployment tasks.

        :param n_deploy: deployment set size n
        :return: score; -inf if the worst of them probably never fails
        :raises ValueError: if ``n_deploy < 1``
        """
        _check_deployment(n_deploy)
        return _worst(self, n_deploy, 0.5)

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
            try:
                refit = self.refit(*self.sample(rng))
            except NoForecastError:
                # this replicate has too few failures, or no spread, for a fit: take the lowest score possible
                worst.append(-math.inf)
                continue
            worst.append(_worst(refit, n_deploy, rng.random()))
        low, high = np.quantile(worst, [(1.0 - level) / 2.0, (1.0 + level) / 2.0], method="inverted_cdf")
        return float(low), float(high)

    def sample(self, generator: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw failures of fresh tasks from the fit, with the same numbers of trials, or by the same design.

        :param generator: generator of the random numbers
        :return: failures and trials, each of shape (m,), int64
        """
        p = generator.beta(self.a, self.b, size=self.n_eval)
        if self.never > 0.0:
            p[generator.random(self.n_eval) < self.never] = 0.0
        if self.design is not None:
            failures, trials, _ = self.design.simulate(p, generator)
            return failures, trials
        return generator.binomial(self.trials, p), self.trials


def _check_deployment(n_deploy: float) -> None:
    real("n_deploy", n_deploy, low=1, use="the number of tasks in the deployment")


def _worst(fit: CountTail, n_deploy: float, quantile: float) -> float:
    """Score of a quantile of the largest p of n tasks, from P(all <= p) = F(p)^n."""
    # 1 - p is Beta(b, a) where a task can fail; its lower tail keeps its precision for p close to 1
    tail = -math.expm1(math.log(quantile) / n_deploy) / (1.0 - fit.never)
    if tail >= 1.0:
        return -math.inf
    a, b = fit.a, fit.b
    survival = float(stats.beta.ppf(tail, b, a))
    # below the smallest numbers scipy stays at 2.2e-308; there the distribution is a power
    log_survival = math.log(survival) if survival > 1e-300 else (math.log(tail) + betaln(b, a) + math.log(b)) / b
    return float(failure_score_from_log_survival(min(log_survival, 0.0)))
