"""The cart-pole tasks as environments: one that is Gymnasium's CartPole, and a batch in which every step gives the same result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv
from numpy.typing import NDArray

from sb3_forecast_envs.batched import BatchedVecEnv
from sb3_forecast_envs.cart_pole import physics as cp
from sb3_forecast_envs.cart_pole.pool import CartPoleTasks
from sb3_forecast_envs.outcomes import ENDED, FAILURE, RUNNING, SUCCESS
from sb3_forecast_envs.pool import DEFAULT_SEED, DEFAULT_TASKS
from sb3_forecast_envs.sampling import TaskSampler


class CartPoleTaskEnv(CartPoleEnv):
    """Gymnasium's CartPole with the physics of a task; see :mod:`sb3_forecast_envs.cart_pole.physics`.

    ``reset(options={"task": i})`` starts task i of the pool. Other resets draw a task. The ``info`` of every step has ``task`` and ``cost``
    (1.0 on the failing step, else 0.0). The ``info`` of the last step also has ``is_success``.

    :param pool: the tasks; ``None`` for a default pool of 4000 tasks with seed 0
    :param render_mode: ``"human"``, ``"rgb_array"`` or ``None``
    """

    def __init__(
        self,
        pool: CartPoleTasks | None = None,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(render_mode=render_mode)
        self.pool = CartPoleTasks(DEFAULT_TASKS, DEFAULT_SEED) if pool is None else pool
        self.sampler = TaskSampler(len(self.pool))
        self.theta_threshold_radians, self.x_threshold = cp.MAX_ANGLE, cp.MAX_POSITION
        self.observation_space = cp.OBSERVATION_SPACE
        self.task, self.decision = 0, 0
        self.parameters = np.zeros(11)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode.

        :param seed: seed of the generator that draws tasks
        :param options: ``{"task": i}`` to start task i of the pool
        :return: observation, and an ``info`` with ``task``
        :raises ValueError: if the task is not in the pool
        """
        # CartPole's own reset would draw another start than the task's
        gym.Env.reset(self, seed=seed)
        self.task = self.sampler.start(self.np_random, options or {})
        self.parameters = self.pool.parameters[self.task]
        self.gravity, self.length, self.masspole, self.masscart = map(float, self.parameters[: cp.MOTOR])
        self.total_mass, self.polemass_length = self.masspole + self.masscart, self.masspole * self.length
        self.state = self.parameters[cp.START].copy()
        self.decision = 0
        self.steps_beyond_terminated = None
        if self.render_mode == "human":
            self.render()  # type: ignore[no-untyped-call]  # Gymnasium's own
        return self._observe(), {"task": self.task}

    def _observe(self) -> NDArray[np.float32]:
        seen: NDArray[np.float32] = cp.observe(np.asarray(self.state)[None], self.parameters[None], np.array([self.decision]))[
            0
        ]
        return seen

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one decision.

        :param action: 0 pushes left, 1 pushes right
        :return: observation, reward, terminated, truncated, info
        """
        motor, wind = self.parameters[cp.MOTOR], self.parameters[cp.WIND]
        # CartPole pushes with +-force_mag, so the sign of the wind depends on the direction
        self.force_mag = float(motor + wind if action == 1 else motor - wind)
        failed = False
        for _ in range(cp.REPEAT):
            failed = bool(super().step(action)[2])  # type: ignore[no-untyped-call]  # Gymnasium's own
            if failed:
                break
        self.decision += 1
        state = np.asarray(self.state)[None]
        reward = float(cp.reward_of(state, self.parameters[None, cp.GOAL], np.array([failed]))[0])
        ended = failed or self.decision >= cp.HORIZON
        info = {"task": self.task, "cost": float(failed)}
        if ended:
            info["is_success"] = not failed and abs(float(state[0, 0]) - self.parameters[cp.GOAL]) < cp.TOLERANCE
        return self._observe(), reward, ended, False, info

    def set_next_task(self, task: int | None) -> None:
        """Choose the task of the next reset.

        :param task: index into the pool; ``None`` to draw it
        :raises ValueError: if the task is not in the pool
        """
        self.sampler.set_next(task)

    def set_task_weights(self, weights: NDArray[np.float64] | None, share: float = 1.0) -> None:
        """Start a share of the episodes on tasks that are drawn in proportion to weights; see :meth:`TaskSampler.set_weights`."""
        self.sampler.set_weights(weights, share)


class CartPoleVecEnv(BatchedVecEnv[CartPoleTasks]):
    """A batch of cart-poles that are stepped together.

    :param pool: the tasks
    :param n_envs: number of environments stepped together
    :param seed: seed of the first environment; environment i (from 0) has the seed ``seed + i``
    :raises ValueError: if ``n_envs < 1``
    """

    episode_state: ClassVar[tuple[str, ...]] = ("state",)

    def __init__(self, pool: CartPoleTasks, n_envs: int, seed: int = 0) -> None:
        super().__init__(pool, n_envs, cp.OBSERVATION_SPACE, 2, seed)
        self.state = np.zeros((n_envs, 4))

    def _start(self, envs: NDArray[np.int64]) -> None:
        self.state[envs] = self.pool.parameters[self.tasks[envs], cp.START]

    def _observe(self, envs: NDArray[np.int64]) -> NDArray[np.float32]:
        return cp.observe(self.state[envs], self.pool.parameters[self.tasks[envs]], self.steps[envs])

    def _advance(self, actions: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.uint8]]:
        tasks = self.pool.parameters[self.tasks]
        self.state = cp.advance(self.state, tasks, actions)
        self.steps += 1
        failed = cp.fallen(self.state)
        goal = tasks[:, cp.GOAL]
        there = np.abs(self.state[:, 0] - goal) < cp.TOLERANCE
        in_time = self.steps < cp.HORIZON
        events = np.select([failed, in_time, there], [FAILURE, RUNNING, SUCCESS], ENDED).astype(np.uint8)
        return cp.observe(self.state, tasks, self.steps), cp.reward_of(self.state, goal, failed).astype(np.float32), events

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """None for each environment: a batch draws no pictures. Use ``pool.make_env("rgb_array")`` for pictures."""
        return [None] * self.num_envs
