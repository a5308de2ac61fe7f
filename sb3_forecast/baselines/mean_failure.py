"""A supervised penalty: the mean failure probability of some tasks, on the same hooks as the forecast loss."""

from __future__ import annotations

import numpy as np
import torch as th

from sb3_forecast.statistics.scores import failure_probability
from sb3_forecast.training.losses import LossTerms, Partitions


class MeanFailureLoss:
    """Baseline with the interface of :class:`ForecastLoss`: mean failure probability of some tasks, a supervised penalty.

    :param n_tasks: tasks per refresh
    :param worst: the tasks with the largest cached scores (as :class:`ForecastLoss` would see them), or a random draw
    :param p_floor: failure probability below which a task is left alone
    :param weight: factor of the loss, which counts where its gradient is not clipped
    :raises ValueError: if an argument is out of range
    """

    def __init__(self, n_tasks: int = 300, worst: bool = True, p_floor: float = 0.0, weight: float = 1.0) -> None:
        if n_tasks < 1:
            raise ValueError(f"n_tasks={n_tasks} penalises nothing; use n_tasks >= 1")
        if not 0.0 <= p_floor < 1.0:
            raise ValueError(f"p_floor={p_floor} is not a failure probability to be tolerated; use a value in [0, 1)")
        self.n_tasks = n_tasks
        if not weight > 0.0:
            raise ValueError(f"weight={weight} would not lower the failure probability; use weight > 0")
        self.worst = worst
        self.p_floor = p_floor
        self.weight = weight

    def reach(self, n_pool: int) -> int:
        """Twice the tasks of a refresh, so that a task that gets worse is seen.

        :param n_pool: pool size N
        """
        return min(n_pool, 2 * self.n_tasks)

    def draw(self, scores: th.Tensor, generator: np.random.Generator) -> Partitions:
        """Choose the tasks; there is nothing to forecast, so the partitions are empty.

        :param scores: score of every task, shape (N,)
        :param generator: source of randomness
        :return: the tasks as ``touched``
        """
        count = min(self.n_tasks, len(scores))
        nothing = th.zeros(0, dtype=th.int64)
        if self.worst:
            return Partitions(nothing.reshape(0, 2), nothing, th.topk(scores.detach(), count).indices.sort().values)
        drawn = th.from_numpy(generator.choice(len(scores), count, replace=False))
        return Partitions(nothing.reshape(0, 2), nothing, drawn.sort().values)

    def evaluate(self, touched_scores: th.Tensor, partitions: Partitions, n_pool: int) -> LossTerms:
        """Mean failure probability of the tasks.

        :param touched_scores: their scores, shape (tasks,)
        :param partitions: as drawn
        :param n_pool: unused
        :return: loss; forecast, realised and scale are empty
        """
        chosen = failure_probability(touched_scores.detach()) > self.p_floor
        # tasks that are left alone must not pass a NaN gradient at p = 0
        scores = th.where(chosen, touched_scores, 0.0)
        p = th.where(chosen, failure_probability(scores), 0.0)
        loss = self.weight * p.mean()
        # dp/dpsi = p e^-psi (docs/method.md eq. 3)
        weights = self.weight * (p * th.exp(-scores)).detach() / len(p)
        nothing = th.zeros(0, dtype=th.float64)
        return LossTerms(loss, nothing, nothing, nothing, weights)
