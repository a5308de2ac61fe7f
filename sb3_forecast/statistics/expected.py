"""The first question: how many of a million tasks will fail? It needs no tail model, only the mean of the tasks' failure probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sb3_forecast.checks import inside_unit, whole
from sb3_forecast.statistics.scores import score_vector

#: with more tasks than this, the normal interval of a mean is exact enough, and a bootstrap only slow
_MANY = 10_000
_RESAMPLES = 4000
#: values that differ by less, as a share of the largest, are equal but for rounding
_EQUAL = 1e-9


@dataclass(frozen=True)
class ExpectedFailures:
    """Mean failure probability of a task, with an interval over tasks.

    The tasks are the independent observations. Episodes of one task are not: a thousand episodes of ten tasks say little about other tasks.

    :param mean: mean over the evaluation tasks
    :param low: lower end of the interval
    :param high: upper end of the interval
    :param n_eval: number of tasks
    """

    mean: float
    low: float
    high: float
    n_eval: int

    def sentence(self, n_deploy: float, level: float) -> str:
        """What to expect of a deployment, in words.

        :param n_deploy: deployment set size n
        :param level: coverage of the interval
        """
        n = n_deploy
        if self.mean == 0.0:
            return (
                f"No failure was seen. With {level:.0%} confidence at most {_number(self.high * n)} of {n:,.0f} tasks fail: "
                f"{self.n_eval:,} tasks cannot say more, however often each was played."
            )
        return (
            f"Expect about {_number(self.mean * n)} failures in {n:,.0f} tasks, each tried once ({level:.0%} interval: "
            f"{_number(self.low * n)} to {_number(self.high * n)})."
        )


def expected_failures(p: NDArray[np.float64], level: float = 0.9, seed: int = 0) -> ExpectedFailures:
    """Mean failure probability of fresh tasks, with a BCa bootstrap interval over the tasks (``scipy.stats.bootstrap``).

    Outcomes of single episodes, all 0 or 1, are binomial: their interval is exact (Clopper-Pearson).

    If no task failed, the upper end is the exact (Clopper-Pearson) limit of the share of tasks that fail at all, 1 - (1 - level)^(1/m): a
    task that always fails may have been missed, whatever the number of episodes.

    :param p: failure probability or share of failed episodes of each task, shape (m,)
    :param level: coverage of the interval, or confidence of the limit if no task failed
    :param seed: seed of the bootstrap
    :return: mean and interval
    :raises ValueError: if a value is not in [0, 1], or the level is out of range
    """
    inside_unit("level", level)
    whole("seed", seed, low=0)
    values = score_vector(p, "p")
    if (values < 0.0).any() or (values > 1.0).any():
        bad = values[(values < 0.0) | (values > 1.0)][0]
        raise ValueError(f"p must be in [0, 1], got {bad}; use probabilities or shares of episodes")
    m, mean = len(values), float(values.mean())
    if mean == 0.0:
        return ExpectedFailures(0.0, 0.0, 1.0 - (1.0 - level) ** (1.0 / m), m)
    if ((values == 0.0) | (values == 1.0)).all():
        exact = stats.binomtest(int(values.sum()), m).proportion_ci(level, "exact")
        return ExpectedFailures(mean, float(exact.low), float(exact.high), m)
    if m < 2 or np.ptp(values) <= _EQUAL * values.max():
        return ExpectedFailures(mean, mean, mean, m)
    if m > _MANY:
        margin = float(stats.norm.ppf((1.0 + level) / 2.0)) * float(values.std(ddof=1)) / m**0.5
        return ExpectedFailures(mean, max(mean - margin, 0.0), min(mean + margin, 1.0), m)
    generator = np.random.default_rng(seed)
    # probabilities of 1e-180 have cubes of zero, which the acceleration constant divides by
    peak = float(values.max())
    found = stats.bootstrap(
        (values / peak,), np.mean, n_resamples=_RESAMPLES, confidence_level=level, method="BCa", rng=generator, batch=200
    ).confidence_interval
    return ExpectedFailures(mean, peak * float(found.low), peak * float(found.high), m)


def _number(count: float) -> str:
    """A number of failures with two digits: 11,000 or 0.013."""
    if count >= 10:
        return f"{float(f'{count:.2g}'):,.0f}"
    return f"{count:.2g}"
