"""The forecast for many deployment sizes: what the slider of a report shows, number by number as the library gives them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.statistics.expected import expected_failures
from sb3_forecast.statistics.names import NoForecastError
from sb3_forecast.statistics.scores import failure_probability
from sb3_forecast.statistics.tails import GumbelTail

#: the largest deployment of the slider
_LARGEST = 1e9


@dataclass(frozen=True)
class Sizes:
    """Forecasts from one set of scores to growing deployments. Arrays have the shape (sizes,), float64.

    :param tail: the fitted tail
    :param sizes: numbers of tasks in the deployment
    :param forecast: failure probability that is forecast for the worst task
    :param limit: one-sided 95% limit of it
    :param any_failure: chance of at least one failure, each task tried once
    :param answer: how many failures to expect, in a sentence, for each size
    """

    tail: GumbelTail
    sizes: NDArray[np.float64]
    forecast: NDArray[np.float64]
    limit: NDArray[np.float64]
    any_failure: NDArray[np.float64]
    answer: tuple[str, ...]


def forecasts_by_size(scores: Any, k: int | None = None, largest: float = _LARGEST, level: float = 0.9) -> Sizes:
    """Forecast the deployments that a slider offers: 1, 2 and 5 times each power of ten, from the number of tasks on.

    :param scores: failure score of every evaluation task, shape (m,)
    :param k: number of worst scores that the tail is fitted to; ``None`` for the default
    :param largest: the last size
    :param level: coverage of the interval for the number of failures
    :return: forecasts
    :raises NoForecastError: if no tail can be fitted
    """
    values = np.asarray(scores, dtype=np.float64)
    tail = GumbelTail.fit(values, k)
    if float(tail.scale) <= 0.0:
        raise NoForecastError("the worst scores are equal, so they show no tail")
    steps = [float(f"{digit}e{power}") for power in range(1, 16) for digit in (1, 2, 5)]
    sizes = np.array([size for size in steps if len(values) <= size <= largest])
    expected = expected_failures(failure_probability(tail.scores), level)
    return Sizes(
        tail,
        sizes,
        np.array([float(failure_probability(tail.forecast(n))) for n in sizes]),
        np.array([float(failure_probability(tail.interval(int(n), 0.9)[1])) for n in sizes]),
        np.array([float(tail.aggregate_risk(n)) for n in sizes]),
        tuple(expected.sentence(n, level) for n in sizes),
    )
