"""Forecasts from counts: failures out of trials per task, most of them zero.

An observed frequency of 0 out of T is no probability of 0, and 1 out of T is no probability of 1/T: turned into scores they tie and
pile up, and the tail's spacings are meaningless (docs/method.md section 1, 9). Counts are therefore modelled as what they are: every task has its own
failure probability, drawn from a beta distribution that is fitted to all counts by maximum likelihood; counts are binomial given it.
The tail of that beta distribution is what is extrapolated. It is an assumption, as the exponential tail is: the interval, by parametric
bootstrap, is conditional on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats
from scipy.special import betaln

from sb3_forecast.statistics.scores import failure_score_from_log_survival

#: log-odds and log-size of the beta distribution; beyond them scipy's betaln loses its arguments (infinite at a, b of 1e-16)
_BOUNDS = [(-18.0, 18.0), (-9.0, 12.0)]
#: tasks with at least one failure below which no tail can be fitted
MIN_FAILING = 5


def _check(successes: NDArray[np.int64], trials: NDArray[np.int64]) -> None:
    if successes.shape != trials.shape or successes.ndim != 1 or len(successes) < 2:
        raise ValueError(
            f"failures of shape {successes.shape} and trials of shape {trials.shape} must be two columns of the same length, at least 2"
        )
    bad = np.flatnonzero((successes < 0) | (successes > trials) | (trials < 1))
    if len(bad):
        i = int(bad[0])
        raise ValueError(
            f"row {i}: {successes[i]} failures in {trials[i]} trials is impossible; use 0 <= failures <= trials and trials >= 1"
        )


def _negative_log_likelihood(parameters: NDArray[np.float64], rows: NDArray[np.float64]) -> float:
    mean, size = 1.0 / (1.0 + math.exp(-parameters[0])), math.exp(parameters[1])
    a, b = mean * size, (1.0 - mean) * size
    k, n, weight = rows
    return -float(weight @ (betaln(a + k, b + n - k) - betaln(a, b)))


@dataclass(frozen=True)
class CountTail:
    """A beta distribution of failure probabilities, fitted to counts.

    :param a: first shape
    :param b: second shape
    :param failures: failures of each task
    :param trials: trials of each task
    """

    a: float
    b: float
    failures: NDArray[np.int64]
    trials: NDArray[np.int64]

    @classmethod
    def fit(cls, failures: NDArray[np.int64], trials: NDArray[np.int64]) -> CountTail:
        """Fit by maximum likelihood of the beta-binomial counts.

        :param failures: failures of each task, shape (m,)
        :param trials: trials of each task, shape (m,)
        :return: the fit
        :raises ValueError: for impossible counts; if fewer than 5 tasks ever failed; or if the tasks do not differ more than chance
        """
        failures, trials = np.asarray(failures, dtype=np.int64), np.asarray(trials, dtype=np.int64)
        _check(failures, trials)
        failing = int((failures > 0).sum())
        if failing < MIN_FAILING:
            total = int(trials.sum())
            limit = stats.beta.ppf(0.95, failures.sum() + 1, total - failures.sum())
            raise ValueError(
                f"only {failing} of {len(failures)} tasks failed at all, too few to tell of the worst ones (at least {MIN_FAILING} are needed). "
                f"What these counts do say: the mean failure probability is at most {limit:.3g} with 95% confidence. Run more trials per task, "
                "more tasks, or use log-probabilities of the failure, which resolve what counts cannot"
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
                "the tasks do not differ more than binomial chance: these counts hold no information on a worst task; "
                "all have about the same failure probability, or run more trials per task"
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
        if not n_deploy >= 1:
            raise ValueError(f"n_deploy={n_deploy} is no deployment; use n_deploy >= 1")
        return _worst(self.a, self.b, n_deploy, 0.5)

    def interval(self, n_deploy: float, level: float = 0.9, n_boot: int = 200, seed: int = 0) -> tuple[float, float]:
        """Prediction interval of the worst score: parametric bootstrap of the fit, and chance in the deployment.

        :param n_deploy: deployment set size n
        :param level: coverage
        :param n_boot: bootstrap refits
        :param seed: their seed
        :return: lower and upper limit
        """
        if n_boot < 20:
            raise ValueError(f"n_boot={n_boot} refits have no quantiles; use n_boot >= 20")
        rng = np.random.default_rng(seed)
        worst = []
        for _ in range(n_boot):
            p = rng.beta(self.a, self.b, size=self.n_eval)
            try:
                refit = CountTail.fit(rng.binomial(self.trials, p), self.trials)
            except ValueError:
                # too few failures in this replicate, or no spread: it supports no fit, and counts as the lower end
                worst.append(-math.inf)
                continue
            worst.append(_worst(refit.a, refit.b, n_deploy, rng.random()))
        low, high = np.quantile(worst, [(1.0 - level) / 2.0, (1.0 + level) / 2.0], method="inverted_cdf")
        return float(low), float(high)


def _worst(a: float, b: float, n_deploy: float, quantile: float) -> float:
    """Score of a quantile of the largest of n beta variables: P(all <= p) = F(p)^n."""
    # one minus p is Beta(b, a): its lower tail resolves p close to 1
    tail = -math.expm1(math.log(quantile) / n_deploy)
    survival = float(stats.beta.ppf(tail, b, a))
    log_survival = math.log(survival) if survival > 0.0 else (math.log(tail) + betaln(b, a) + math.log(b)) / b
    return float(failure_score_from_log_survival(min(log_survival, 0.0)))
