"""Estimates from a sample whose inclusion probabilities are known: unbiased, whatever made the probabilities.

A finite population of N tasks is sampled in rounds. Before each round every task that is not in the sample yet gets an inclusion probability,
which may depend on all that was seen before. The tasks of earlier rounds are known exactly; the total of the others is estimated by Horvitz
and Thompson (1952): the sum of value / inclusion probability over the tasks of the round. The estimates of the rounds are averaged with
weights that are fixed in advance. So the average is unbiased, however wrong the beliefs were that chose the tasks. Compare the LURE
estimator of Farquhar, Gal and Rainforth (2021), which draws one task at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sb3_forecast.checks import inside_unit


@dataclass(frozen=True)
class Round:
    """One round of a sample.

    :param tasks: the tasks that were chosen, shape (n,), int64; none of them was chosen before
    :param inclusion: probability with which each of them was to be chosen, given the earlier rounds, shape (n,), float64, in (0, 1]
    :param smallest: smallest inclusion probability of any task that was not chosen before
    """

    tasks: NDArray[np.int64]
    inclusion: NDArray[np.float64]
    smallest: float


@dataclass(frozen=True)
class Estimate:
    """An estimate with its confidence interval.

    :param value: unbiased estimate; now and then it lies outside of the interval, whose ends respect what was found for certain
    :param low: lower limit
    :param high: upper limit
    """

    value: float
    low: float
    high: float


def inclusion_probabilities(weights: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Inclusion probabilities in proportion to weights, but at most 1, that sum to the size of the sample.

    :param weights: non-negative weights, shape (N,); at least ``size`` of them positive
    :param size: number of tasks to choose, from 0 to N
    :return: shape (N,), float64
    :raises ValueError: if fewer than ``size`` weights are positive
    """
    positive = int((weights > 0.0).sum())
    if positive < size:
        raise ValueError(f"weights must be positive for at least size={size} tasks, got {positive}; choose fewer tasks")
    inclusion = np.zeros(len(weights))
    certain = np.zeros(len(weights), dtype=np.bool_)
    while (left := size - int(certain.sum())) > 0:
        total = float(weights[~certain].sum())
        inclusion = np.where(certain, 1.0, left * weights / total)
        over = (inclusion >= 1.0) & ~certain
        if not over.any():
            break
        certain |= over
        inclusion[certain] = 1.0
    inclusion[certain] = 1.0
    return inclusion


def draw(inclusion: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Choose tasks with given inclusion probabilities: systematic sampling in random order (Madow 1949).

    :param inclusion: shape (N,), float64, in [0, 1], with a whole sum
    :param generator: generator of the random numbers
    :return: the chosen tasks, ascending, shape (sum of inclusion,), int64
    """
    size = round(float(inclusion.sum()))
    order = generator.permutation(len(inclusion))
    marks = np.cumsum(inclusion[order])
    # rounding must not lose the last task
    marks *= size / marks[-1]
    chosen = np.searchsorted(marks, generator.random() + np.arange(size), side="right")
    drawn: NDArray[np.int64] = np.sort(order[np.minimum(chosen, len(order) - 1)])
    return drawn


def round_weights(sizes: Sequence[int], n_tasks: int) -> NDArray[np.float64]:
    """Weights of the rounds' estimates, fixed before anything is seen.

    In proportion to the precision of a random sample of each round's size from the tasks that are left to it. Later rounds know better where
    to look, and the first knows nothing: it gets half of that. A round that takes all that is left knows the total exactly.

    :param sizes: number of tasks of each round
    :param n_tasks: number of tasks N of the population
    :return: shape (rounds,), float64, with sum 1
    """
    n = np.array(sizes, dtype=np.float64)
    left = n_tasks - np.concatenate([[0.0], np.cumsum(n)[:-1]])
    if (left == n).any():
        return np.asarray(left == n, dtype=np.float64)
    weights = n / (left * (left - n))
    if len(weights) > 1:
        weights[0] *= 0.5
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def estimate_total(
    rounds: Sequence[Round],
    values: Sequence[NDArray[np.float64]],
    n_tasks: int,
    level: float = 0.95,
    like_seen: bool = False,
) -> Estimate:
    """Total of a value in [0, 1] over all tasks, for example the number of tasks that fail more than half of the time.

    The interval is that of Fay and Feuer (1997) for weighted sums: its upper limit allows for one more task that was not seen, with the
    value 1 and the largest weight. So it stays honest where the sample holds few tasks with a value, or none. That is a wide limit for a
    mean of small probabilities; ``like_seen`` allows for one more contribution as large as the largest that was seen.

    :param rounds: the rounds
    :param values: values of the tasks of each round, each in [0, 1]
    :param n_tasks: number of tasks N of the population
    :param level: confidence of the interval
    :param like_seen: whether unseen tasks contribute at most as much as the largest contribution of the sample
    :return: the estimate; its limits lie between what was found and what is possible
    :raises ValueError: if the level is out of range
    """
    inside_unit("level", level)
    weights = round_weights([len(r.tasks) for r in rounds], n_tasks)
    # squares of probabilities below 1e-160 are 0 in float64
    unit = (max(float(value.max(initial=0.0)) for value in values) if like_seen else 1.0) or 1.0
    values = [value / unit for value in values]
    known = found = n_found = 0.0
    uncertain = variance = largest = 0.0
    for weight, chosen, value in zip(weights, rounds, values, strict=True):
        sure = chosen.inclusion >= 1.0
        # exact: what earlier rounds found, and what this round was certain to take
        known += weight * (found + float(value[sure].sum()))
        part = value[~sure] / chosen.inclusion[~sure]
        uncertain += weight * float(part.sum())
        variance += weight**2 * _variance(part, chosen.inclusion[~sure])
        if like_seen:
            largest = max(largest, weight * float(part.max(initial=0.0)))
        elif chosen.smallest < 1.0:
            largest = max(largest, weight / chosen.smallest)
        found, n_found = found + float(value.sum()), n_found + len(value)
    low, high = _gamma_limits(uncertain, variance, largest, (1.0 - level) / 2.0)
    most = (n_tasks - n_found) / unit + found
    limits = (float(np.clip(known + end, found, most)) for end in (low, high))
    return Estimate(unit * (known + uncertain), *(unit * end for end in limits))


def _variance(part: NDArray[np.float64], inclusion: NDArray[np.float64]) -> float:
    """Estimated variance of a Horvitz-Thompson sum with fixed size (Deville 1993), from value / inclusion of the chosen tasks."""
    n = len(part)
    if n < 2:
        return float(part @ part)
    c = 1.0 - inclusion
    centre = float(c @ part) / float(c.sum())
    return n / (n - 1) * float(c @ (part - centre) ** 2)


def _gamma_limits(total: float, variance: float, largest: float, tail: float) -> tuple[float, float]:
    """Limits of a weighted sum of rare events by a gamma distribution (Fay and Feuer 1997)."""
    low = 0.0 if total == 0.0 or variance == 0.0 else _gamma_quantile(tail, total, variance)
    if total > 0.0 and variance == 0.0:
        low = total
    high = _gamma_quantile(1.0 - tail, total + largest, variance + largest**2) if largest > 0.0 else total
    return min(low, total), max(high, total)


def _gamma_quantile(q: float, mean: float, variance: float) -> float:
    return (
        float(stats.gamma.ppf(q, mean**2 / variance, scale=variance / mean))
        if mean > 0.0 and math.isfinite(variance)
        else mean
    )
