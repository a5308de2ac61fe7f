"""Cart-pole episodes for survival scores: the true physics show which actions fail."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sb3_forecast_envs.cart_pole.physics import F64, HORIZON, START, advance, doomed, observe
from sb3_forecast_envs.cart_pole.pool import CartPoleTasks

#: number of decisions that a simulation looks ahead
LOOKAHEAD = 15
#: failure probability of an action that fails; 1 would give an infinite score
CERTAIN = 1.0 - 1e-9


class CartPoleSimulation:
    """Parallel episodes. Failing actions are found by looking ahead with the true physics; see ``Simulation``.

    An action counts as failing if nothing can keep the pole from falling within the next ``LOOKAHEAD`` decisions. Scores are unbiased for any
    value of ``LOOKAHEAD``: an episode that is lost later than that meets a state, some decisions on, in which the loss is seen.

    :param pool: the tasks
    :param tasks: index into the pool of each episode's task, shape (episodes,), repeats allowed
    """

    horizon = HORIZON
    n_actions = 2

    def __init__(self, pool: CartPoleTasks, tasks: NDArray[np.int64]) -> None:
        #: parameters of the tasks of the running episodes, shape (episodes, 11)
        self.tasks = pool.parameters[tasks]
        self.state, self.decision = self.tasks[:, START].copy(), 0

    def views(self) -> NDArray[np.uint8]:
        """Compact views: the bytes of the observations, shape (episodes, 48), uint8."""
        seen = observe(self.state, self.tasks, np.full(len(self.state), self.decision))
        return np.ascontiguousarray(seen).view(np.uint8)

    def observations(self, views: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the policy sees for compact views, shape (views, 12), float32."""
        return np.ascontiguousarray(views).view(np.float32)

    def action_masks(self, views: NDArray[np.uint8]) -> None:
        """None: the tasks have no masks."""

    def step(self, pi: F64, uniforms: F64) -> tuple[F64, NDArray[np.bool_]]:
        """Take one decision in each running episode, conditioned on no failure. Then drop the episodes that ended; see ``Simulation.step``.

        :param pi: action probabilities, shape (episodes, 2)
        :param uniforms: random numbers in [0, 1), shape (2, episodes). The second row is not used, because only the action is random
        :return: ``CERTAIN`` for actions that fail, else 0, shape (episodes, 2), float64; which episodes go on, shape (episodes,), bool
        """
        lost = doomed(self.state, self.tasks, min(LOOKAHEAD, HORIZON - 1 - self.decision))
        weights = np.where(lost, 0.0, pi)
        alive: NDArray[np.bool_] = weights.sum(axis=1) > 0.0
        actions = (uniforms[0] * weights.sum(axis=1) >= weights[:, 0]).astype(np.int64)
        self.tasks = self.tasks[alive]
        self.state = advance(self.state[alive], self.tasks, actions[alive])
        self.decision += 1
        return np.where(lost, CERTAIN, 0.0), alive
