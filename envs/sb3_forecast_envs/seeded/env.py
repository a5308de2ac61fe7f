"""The environment that plays seeded tasks."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_forecast_envs.sampling import TaskSampler
from sb3_forecast_envs.seeded.exploration import Step
from sb3_forecast_envs.seeded.pool import MakeFromId, SeededTasks


def make_vec_env(tasks: SeededTasks, n_envs: int, seed: int = 0) -> VecEnv:
    """Environments side by side, in this process.

    :param tasks: the pool
    :param n_envs: how many
    :param seed: seed of the first
    """
    env = DummyVecEnv([lambda: SeededEnv(tasks)] * n_envs)
    env.seed(seed)
    return env


class SeededEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Plays the tasks of a pool: ``reset(options={"task": i})`` starts task i, other resets draw one.

    The task's seed decides how an episode starts; what happens later, where the environment itself is random, is new each time. Every step's
    ``info`` has ``task`` and ``cost``; the last also ``is_success``: what the environment says, or else whether a last reward ended it.

    :param tasks: the pool
    :param render_mode: see :meth:`SeededTasks.make_env`
    """

    def __init__(self, tasks: SeededTasks, render_mode: str | None = None) -> None:
        super().__init__(tasks.make(render_mode) if isinstance(tasks.make, MakeFromId) else tasks.make())
        self.pool = tasks
        self.task = 0
        self.sampler = TaskSampler(len(tasks))
        self._generator = seeding.np_random(None)[0]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode.

        :param seed: seed of the generator that draws tasks
        :param options: ``{"task": i}`` for a given task
        :return: observation and info
        :raises ValueError: if the task is not in the pool
        """
        if seed is not None:
            self._generator = seeding.np_random(seed)[0]
        self.task = self.sampler.start(self._generator, options or {})
        observation, info = self.env.reset(seed=int(self.pool.seeds[self.task]))
        self.env.unwrapped.np_random = np.random.default_rng(self._generator.integers(2**63))
        return observation, {**info, "task": self.task}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step; see the class for what ``info`` holds."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        step = Step(self.env, float(reward), bool(terminated), bool(truncated), info)
        late = truncated and not terminated and self.pool.timeout_fails
        failed = self.pool.failed(step) or late
        info = {**info, "task": self.task, "cost": float(failed)}
        if terminated or truncated:
            reached = info.get("is_success", terminated and step.reward > 0)
            info["is_success"] = bool(reached and not failed)
        return observation, float(reward), terminated, truncated, info

    def set_next_task(self, task: int | None) -> None:
        """The task of the next reset; ``None`` to draw it."""
        self.sampler.set_next(task)

    def set_task_weights(self, weights: NDArray[np.float64] | None, share: float = 1.0) -> None:
        """Start a share of the episodes on tasks drawn in proportion to weights; see :class:`TaskSampler`."""
        self.sampler.set_weights(weights, share)
