"""Which model of counts to believe: the fit is checked against simulated counts, and two models are compared."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sb3_forecast.checks import check_seed, whole
from sb3_forecast.statistics.allocation import Design
from sb3_forecast.statistics.counts import CountTail
from sb3_forecast.statistics.names import NoForecastError

#: how much larger the log-likelihood must be for one more parameter to be believed: half of the 1.6% quantile of chi-squared
#: with one degree of freedom, on the edge of the parameter's range
GAIN = 2.3


def best_fit(
    failures: NDArray[np.int64], trials: NDArray[np.int64], design: Design | None = None
) -> tuple[CountTail, CountTail]:
    """The plain beta-binomial fit and the zero-inflated one, the one to believe first.

    The zero-inflated fit has one parameter more. It is believed if its log-likelihood is larger by 2.3: by chance that happens in about 1.6%
    of data without such tasks.

    :param failures: failures of each task, shape (m,)
    :param trials: trials of each task, shape (m,)
    :param design: how the trials were chosen, if that depended on failures
    :return: the fit to believe, and the other one
    :raises ValueError: if a count is impossible
    :raises NoForecastError: as :meth:`CountTail.fit`
    """
    plain = CountTail.fit(failures, trials, design=design)
    inflated = CountTail.fit(failures, trials, zero_inflated=True, design=design)
    return (inflated, plain) if inflated.log_likelihood > plain.log_likelihood + GAIN else (plain, inflated)


def goodness_of_fit(fit: CountTail, n_boot: int = 99, seed: int = 0) -> float:
    """P-value of a fit: how often counts that are drawn from the fit lie as far from their own fit as these counts from theirs.

    The distance is Pearson's chi-squared of the number of tasks with 0, 1, 2, 3 to 4, 5 to 8, ... failures.

    :param fit: the fit
    :param n_boot: number of simulated sets of counts, at least 19
    :param seed: seed of the simulation
    :return: p-value in (0, 1]; below 0.05 the fit is bad
    :raises ValueError: if an argument is out of range
    """
    whole("n_boot", n_boot, low=19, use="99")
    generator = np.random.default_rng(check_seed(seed))
    distance = _distance(fit)
    larger = 0
    for _ in range(n_boot):
        try:
            simulated = fit.refit(*fit.sample(generator))
        except NoForecastError:
            # too few failures to fit: such counts are as unlike the data as can be
            larger += 1
            continue
        larger += _distance(simulated) >= distance
    return (1 + larger) / (1 + n_boot)


def _distance(fit: CountTail) -> float:
    """Pearson's chi-squared over classes of counts that double in width; classes that hold less than one expected task are joined."""
    edges = np.unique(np.concatenate([[0, 1], 2 ** np.arange(64 - 1).clip(max=int(fit.trials.max()).bit_length())]))
    expected = np.zeros(len(edges))
    for trials, tasks in zip(*np.unique(fit.trials, return_counts=True), strict=True):
        below = stats.betabinom.cdf(edges, int(trials), fit.a, fit.b)
        expected += tasks * np.diff(fit.never + (1.0 - fit.never) * below, prepend=0.0)
    observed = np.bincount(np.searchsorted(edges, fit.failures), minlength=len(edges)).astype(np.float64)
    total = joined_observed = joined_expected = 0.0
    for seen, wanted in zip(observed[::-1], expected[::-1], strict=True):
        joined_observed, joined_expected = joined_observed + float(seen), joined_expected + float(wanted)
        if joined_expected >= 1.0:
            total += (joined_observed - joined_expected) ** 2 / joined_expected
            joined_observed = joined_expected = 0.0
    return total
