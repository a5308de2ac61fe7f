"""MeanFailureLoss: a penalty on the mean failure probability of some tasks, built on the same hooks as the forecast loss."""

from __future__ import annotations

import numpy as np
import torch as th

from sb3_forecast.statistics.scores import failure_probability
from sb3_forecast.training.losses import LossTerms, Partitions


class MeanFailureLoss:
    """A baseline: a supervised penalty on the mean failure probability of some tasks.

    It has the interface of :class:`ForecastLoss`.

    :param n_tasks: number of tasks per refresh
    :param worst: ``True`` for the tasks with the largest cached scores, which :class:`ForecastLoss` would use, too;
        ``False`` for random tasks
    :param p_floor: tasks with a failure probability up to this are left alone
    :param weight: factor of the loss; it has an effect only if the gradient is not clipped
    :raises ValueError: if an argument is out of range
    """

    def __init__(self, n_tasks: int = 300, worst: bool = True, p_floor: float = 0.0, weight: float = 1.0) -> None:
        if n_tasks < 1:
            raise ValueError(f"n_tasks must be at least 1, got {n_tasks}; use for example 300")
        if not 0.0 <= p_floor < 1.0:
            raise ValueError(f"p_floor must be at least 0 and below 1, got {p_floor}; use 0 to penalise every task")
        self.n_tasks = n_tasks
        if not weight > 0.0:
            raise ValueError(f"weight must be above 0, got {weight}; use 1.0, or forecast_coef=0 to switch the penalty off")
        self.worst = worst
        self.p_floor = p_floor
        self.weight = weight

    def reach(self, n_pool: int) -> int:
        """Number of candidates: twice the tasks of a refresh, so that a task that gets worse is noticed.

        :param n_pool: pool size N
        """
        return min(n_pool, 2 * self.n_tasks)

    def draw(self, scores: th.Tensor, generator: np.random.Generator) -> Partitions:
        """Choose the tasks. There is no forecast, so the partitions are empty.

        :param scores: score of every task, shape (N,), float64
        :param generator: source of random numbers
        :return: partitions whose ``touched`` are the chosen tasks
        """
        count = min(self.n_tasks, len(scores))
        nothing = th.zeros(0, dtype=th.int64)
        if self.worst:
            return Partitions(nothing.reshape(0, 2), nothing, th.topk(scores.detach(), count).indices.sort().values)
        drawn = th.from_numpy(generator.choice(len(scores), count, replace=False))
        return Partitions(nothing.reshape(0, 2), nothing, drawn.sort().values)

    def evaluate(self, touched_scores: th.Tensor, partitions: Partitions, n_pool: int) -> LossTerms:
        """The loss: ``weight`` times the mean failure probability of the tasks.

        :param touched_scores: scores of the chosen tasks, shape (tasks,), float64
        :param partitions: as returned by :meth:`draw`; not used
        :param n_pool: not used
        :return: loss and weights; forecast, realised and scale are empty
        """
        chosen = failure_probability(touched_scores.detach()) > self.p_floor
        # tasks that are left alone must not contribute a NaN gradient at p = 0
        scores = th.where(chosen, touched_scores, 0.0)
        p = th.where(chosen, failure_probability(scores), 0.0)
        loss = self.weight * p.mean()
        # dp/dpsi = p e^-psi (docs/method.md eq. 3)
        weights = self.weight * (p * th.exp(-scores)).detach() / len(p)
        nothing = th.zeros(0, dtype=th.float64)
        return LossTerms(loss, nothing, nothing, nothing, weights)
