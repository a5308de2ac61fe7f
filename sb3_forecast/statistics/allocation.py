"""Where to count next: further episodes go to the tasks whose failure probability is least known.

First every task is played. Then rounds of further episodes follow. Each round minimises the sum of the variances of all tasks' failure
probabilities, as known so far (Neyman 1934, "optimum allocation"): the number of episodes of a task is proportional to sqrt(p (1 - p)). So
most of them go to tasks that failed.

What is chosen depends on what was seen. Likelihoods do not mind that (``counts.py``), but means do: a task that failed by chance is played
again until it fails less, and one that did not fail by chance is not. So the mean failure probability of a task comes from the first
episodes alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.checks import whole

#: rounds of further episodes: each sees what the one before has found
ROUNDS = 4
#: episodes that the prior mean of a task is worth
_PRIOR = 1.0


def failure_means(failures: NDArray[np.int64], trials: NDArray[np.int64]) -> NDArray[np.float64]:
    """Failure probability of each task, drawn towards the mean of all tasks by the weight of one episode.

    :param failures: failed episodes of each task, shape (m,)
    :param trials: episodes of each task, at least 1, shape (m,)
    :return: shape (m,), float64, in (0, 1)
    """
    overall = (float((failures / trials).sum()) + 0.5) / (len(failures) + 1.0)
    means: NDArray[np.float64] = (_PRIOR * overall + failures) / (_PRIOR + trials)
    return means


def further_episodes(failures: NDArray[np.int64], trials: NDArray[np.int64], episodes: int) -> NDArray[np.int64]:
    """How often each task is played next.

    :param failures: failed episodes of each task, shape (m,)
    :param trials: episodes of each task, at least 1, shape (m,)
    :param episodes: number of episodes to give away
    :return: episodes of each task, shape (m,), int64; they add up to ``episodes``
    """
    means = failure_means(failures, trials)
    wanted = np.sqrt(means * (1.0 - means))
    known = _PRIOR + trials
    # fill up, from the task that has least of what it wants on: the level is where all episodes are given away
    order = np.argsort(known / wanted, kind="stable")
    level = (episodes + np.cumsum(known[order])) / np.cumsum(wanted[order])
    last = int(np.flatnonzero(level > (known / wanted)[order])[-1])
    share = np.maximum(level[last] * wanted - known, 0.0)
    extra: NDArray[np.int64] = np.floor(share).astype(np.int64)
    # what rounding leaves goes to the largest remainders
    left = episodes - int(extra.sum())
    extra[np.argsort(extra - share, kind="stable")[:left]] += 1
    return extra


@dataclass(frozen=True)
class Design:
    """Adaptive counting of a number of episodes.

    :param first: episodes of every task, before anything is known
    :param budget: episodes of all tasks together, the first ones included
    """

    first: int
    budget: int

    def __post_init__(self) -> None:
        whole("first", self.first, low=1, use="for example 1")
        whole("budget", self.budget, low=1, use="a number of episodes")

    def check(self, n_tasks: int) -> None:
        """See that the first episodes are within the budget.

        :param n_tasks: number of tasks
        :raises ValueError: if they are not
        """
        if self.first * n_tasks > self.budget:
            raise ValueError(
                f"budget must be at least episodes x tasks = {self.first * n_tasks}, so that every task is played, got {self.budget}; use "
                "fewer tasks, or a larger budget"
            )

    def rounds(self, n_tasks: int) -> Iterator[int]:
        """Number of further episodes of each round."""
        left = self.budget - self.first * n_tasks
        for remaining in range(ROUNDS, 0, -1):
            episodes = left // remaining
            left -= episodes
            if episodes:
                yield episodes

    def simulate(
        self, p: NDArray[np.float64], generator: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Count tasks whose failure probabilities are known: what a repetition of the whole design would see.

        :param p: failure probabilities, shape (m,)
        :param generator: generator of the outcomes
        :return: failures, trials, and failures among the first episodes of each task, each of shape (m,), int64
        """
        first = generator.binomial(self.first, p)
        failures, trials = first.copy(), np.full(len(p), self.first)
        for episodes in self.rounds(len(p)):
            extra = further_episodes(failures, trials, episodes)
            failures += generator.binomial(extra, p)
            trials += extra
        return failures, trials, first
