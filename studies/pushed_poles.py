"""Cart-poles that are pushed with any force: one number in [-1, 1], times the motor's force, and a gust at every decision.

Tasks, observation and reward are those of :class:`CartPoleTasks`. The gusts are noise that no action takes away.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

import sb3_forecast_envs as sfe
from sb3_forecast_envs.cart_pole import physics as cp
from sb3_forecast_envs.outcomes import ENDED, FAILURE, RUNNING, SUCCESS
from sb3_forecast_envs.pool import Makers

#: standard deviation of a gust, in newtons
GUST = 3.0


class PushedPoleVecEnv(sfe.CartPoleVecEnv):
    """A batch of such cart-poles.

    :param pool: the tasks
    :param n_envs: number of environments stepped together
    :param seed: seed of the first environment, and of the gusts
    """

    # the generator of the gusts belongs to the state as well: it is copied with it
    episode_state: ClassVar[tuple[str, ...]] = ("state", "gusts")

    def __init__(self, pool: sfe.CartPoleTasks, n_envs: int, seed: int = 0) -> None:
        super().__init__(pool, n_envs, seed)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.push = np.zeros(n_envs)
        self.gusts = np.random.default_rng(seed)

    def reset(self) -> NDArray[Any]:
        """See :meth:`BatchedVecEnv.reset`; a new seed is also that of the gusts."""
        if self._seeds[0] is not None:
            self.gusts = np.random.default_rng(self._seeds[0])
        return super().reset()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Store the pushes, clipped to [-1, 1], shape (n_envs, 1)."""
        self.push = np.clip(np.asarray(actions, dtype=np.float64).reshape(self.num_envs), -1.0, 1.0)

    def _advance(self, actions: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.uint8]]:
        tasks = self.pool.parameters[self.tasks]
        force = self.push * tasks[:, cp.MOTOR] + GUST * self.gusts.standard_normal(self.num_envs)
        self.state = cp.pushed(self.state, tasks, force)
        self.steps += 1
        failed, goal = cp.fallen(self.state), tasks[:, cp.GOAL]
        there = np.abs(self.state[:, 0] - goal) < cp.TOLERANCE
        events = np.select([failed, self.steps < cp.HORIZON, there], [FAILURE, RUNNING, SUCCESS], ENDED).astype(np.uint8)
        return cp.observe(self.state, tasks, self.steps), cp.reward_of(self.state, goal, failed).astype(np.float32), events


def _alone(pool: Any, render_mode: str | None) -> gym.Env[Any, Any]:
    raise ValueError(f"pushed poles are played in batches, got make_env() of {pool!r}; use make_vec_env(1)")


class PushedPoleTasks(sfe.CartPoleTasks):
    """A pool of such tasks; see :class:`CartPoleTasks`."""

    makers = Makers(env=_alone, vec_env=PushedPoleVecEnv)

    @property
    def key(self) -> str:
        """A text that identifies the tasks."""
        return f"pushed {super().key}"
