"""Cart-poles as simulations for survival scores: the true physics tell which actions fail."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sb3_forecast_envs.cart_pole.physics import F64, HORIZON, START, advance, doomed, observe
from sb3_forecast_envs.cart_pole.pool import CartPoleTasks

#: decisions that a simulation looks ahead
LOOKAHEAD = 15
#: how far a lost pole is believed to be lost: certainty would be an infinite score
CERTAIN = 1.0 - 1e-9


class CartPoleSimulation:
    """Episodes side by side whose failing actions are found by looking ahead with the true physics; see ``Simulation``.

    An action counts as failing once nothing can keep the pole from falling within ``LOOKAHEAD`` further decisions. Scores are unbiased however
    far that looks: whoever is lost beyond it meets, later, a state where looking suffices.

    :param pool: the tasks
    :param tasks: index into the pool of each episode's task, repeats allowed
    """

    horizon = HORIZON
    n_actions = 2

    def __init__(self, pool: CartPoleTasks, tasks: NDArray[np.int64]) -> None:
        #: parameters of the running episodes' tasks, shape (episodes, 11)
        self.tasks = pool.parameters[tasks]
        self.state, self.decision = self.tasks[:, START].copy(), 0

    def views(self) -> NDArray[np.uint8]:
        """The bytes of the observations, shape (episodes, 48)."""
        seen = observe(self.state, self.tasks, np.full(len(self.state), self.decision))
        return np.ascontiguousarray(seen).view(np.uint8)

    def observations(self, views: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the policy sees for compact views, shape (views, 12)."""
        return np.ascontiguousarray(views).view(np.float32)

    def action_masks(self, views: NDArray[np.uint8]) -> None:
        """There are no masks."""

    def step(self, pi: F64, uniforms: F64) -> tuple[F64, NDArray[np.bool_]]:
        """Take one decision in each running episode, given that it does not fail, and drop those that ended; see ``Simulation.step``.

        :param pi: action probabilities, shape (episodes, 2)
        :param uniforms: in [0, 1), shape (2, episodes); the second row is not used: nothing is random but the action
        :return: ``CERTAIN`` for actions that fail, else 0, shape (episodes, 2); which episodes go on, shape (episodes,)
        """
        lost = doomed(self.state, self.tasks, min(LOOKAHEAD, HORIZON - 1 - self.decision))
        weights = np.where(lost, 0.0, pi)
        alive: NDArray[np.bool_] = weights.sum(axis=1) > 0.0
        actions = (uniforms[0] * weights.sum(axis=1) >= weights[:, 0]).astype(np.int64)
        self.tasks = self.tasks[alive]
        self.state = advance(self.state[alive], self.tasks, actions[alive])
        self.decision += 1
        return np.where(lost, CERTAIN, 0.0), alive
