"""The same tasks as the MiniGrid environment, stepped as a batch by one compiled loop: an SB3 ``VecEnv``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from sb3_forecast_envs.compiled import F32, F64, I64, U8, advance, jit, write_view, write_views
from sb3_forecast_envs.sampling import TaskSampler
from sb3_forecast_envs.tasks import TaskPool


@jit
def _step(
    grids: U8, stride: int, walkable: U8, outcome: U8, offsets: I64, one_hot: F32, horizon: int, rewards_at_goal: F64,
    actions: I64, task: I64, pos: I64, direction: I64, steps: I64, observations: F32, rewards: F32, events: U8,
) -> None:  # fmt: skip
    """Advance every environment; ``events``: 0 running, 1 goal, 2 failure, 3 truncated only."""
    for env in range(len(task)):
        grid = grids[task[env]]
        pos[env], direction[env], event = advance(grid, stride, pos[env], direction[env], actions[env], walkable, outcome)
        steps[env] += 1
        rewards[env] = rewards_at_goal[steps[env]] if event == 1 else 0.0
        events[env] = 3 if event == 0 and steps[env] >= horizon else event
        write_view(observations[env], grid, pos[env], offsets[direction[env]], one_hot)


class GridVecEnv(VecEnv):
    """Batched gridworld on a pool of tasks, equal step by step to the registered MiniGrid environment.

    Each environment draws its tasks from its own generator, seeded ``seed + i`` as SB3 seeds a ``DummyVecEnv``, so the
    tasks, too, are those that ``n_envs`` MiniGrid environments with these seeds would play.

    :param pool: the tasks
    :param n_envs: number of environments stepped together
    :param seed: seed of the first environment
    :param render_mode: ``"rgb_array"`` or ``None``
    :raises ValueError: if ``n_envs < 1``
    """

    def __init__(self, pool: TaskPool, n_envs: int, seed: int = 0, render_mode: str | None = None) -> None:
        if n_envs < 1:
            raise ValueError(f"n_envs={n_envs} steps nothing; use n_envs >= 1")
        family = pool.family
        self.pool = pool
        # read by VecEnv.__init__ through get_attr
        self.render_mode = render_mode
        shape = (family.view_size**2 * len(family.cells),)
        super().__init__(n_envs, spaces.Box(0.0, 1.0, shape, np.float32), spaces.Discrete(family.n_actions))
        self._grids = pool.padded_layouts()
        self._start_pos = pool.start_positions()
        self._goal_rewards = np.array([family.goal_reward(t) for t in range(family.horizon + 1)])
        self.samplers = [TaskSampler(len(pool)) for _ in range(n_envs)]
        self.tasks = np.zeros(n_envs, dtype=np.int64)
        self.pos = np.zeros(n_envs, dtype=np.int64)
        self.direction = np.zeros(n_envs, dtype=np.int64)
        self.steps = np.zeros(n_envs, dtype=np.int64)
        self._actions = np.zeros(n_envs, dtype=np.int64)
        self._generators = [seeding.np_random(seed + i)[0] for i in range(n_envs)]

    def _begin(self, env: int, task: int) -> None:
        self.tasks[env] = task
        self.pos[env] = self._start_pos[task]
        self.direction[env] = self.pool.starts[task, 2]
        self.steps[env] = 0

    def _observe(self, envs: NDArray[np.int64]) -> NDArray[np.float32]:
        out = np.empty((len(envs), *self.observation_space.shape), dtype=np.float32)  # type: ignore[misc]  # a Box has a shape
        family = self.pool.family
        write_views(out, self._grids, self.tasks[envs], self.pos[envs], self.direction[envs], family.offsets, family.one_hot)
        return out

    def reset(self) -> NDArray[np.float32]:
        """Start an episode everywhere, using seeds and options set before, as SB3 vectorised environments do."""
        for env in range(self.num_envs):
            seed = self._seeds[env]
            if seed is not None:
                self._generators[env] = seeding.np_random(seed)[0]
            self._begin(env, self.samplers[env].start(self._generators[env], self._options[env]))
            self.reset_infos[env] = {"task": int(self.tasks[env])}
        self._reset_seeds()
        self._reset_options()
        return self._observe(np.arange(self.num_envs))

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Keep the actions for :meth:`step_wait`."""
        self._actions = np.asarray(actions, dtype=np.int64)

    def step_wait(self) -> VecEnvStepReturn:
        """Take the step; finished episodes are followed by the first observation of a new task."""
        family = self.pool.family
        n = self.num_envs
        observations = np.empty((n, *self.observation_space.shape), dtype=np.float32)  # type: ignore[misc]  # a Box has a shape
        rewards = np.empty(n, dtype=np.float32)
        events = np.empty(n, dtype=np.uint8)
        _step(
            self._grids, family.stride, family.walkable, family.outcomes, family.offsets, family.one_hot, family.horizon,
            self._goal_rewards, self._actions, self.tasks, self.pos, self.direction, self.steps, observations, rewards, events,
        )  # fmt: skip
        infos: list[dict[str, Any]] = [
            {"task": task, "cost": 0.0, "TimeLimit.truncated": False} for task in self.tasks.tolist()
        ]
        ended = np.flatnonzero(events)
        if len(ended):
            for env in ended.tolist():
                event = int(events[env])
                info = infos[env]
                info["cost"] = float(event == 2)
                info["is_success"] = event == 1
                info["TimeLimit.truncated"] = event == 3
                info["terminal_observation"] = observations[env].copy()
                self._begin(env, self.samplers[env].start(self._generators[env], {}))
                self.reset_infos[env] = {"task": int(self.tasks[env])}
            observations[ended] = self._observe(ended)
        return observations, rewards, events > 0, infos

    def set_task_weights(self, weights: NDArray[np.float64] | None, share: float = 1.0) -> None:
        """Start a share of the episodes on tasks drawn in proportion to weights; see :class:`TaskSampler`."""
        sampler = TaskSampler(len(self.pool))
        sampler.set_weights(weights, share)
        self.samplers = [sampler] * self.num_envs

    def close(self) -> None:
        """Nothing to release."""

    def _indices(self, indices: VecEnvIndices) -> Sequence[int]:
        return list(self._get_indices(indices))

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Attribute of the batch, once per environment."""
        return [getattr(self, attr_name)] * len(self._indices(indices))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the whole batch.

        :raises ValueError: if only some environments are named: they share their attributes
        """
        if len(self._indices(indices)) != self.num_envs:
            raise ValueError(
                f"indices={indices} names some environments, but a GridVecEnv's environments share attributes; leave indices out"
            )
        setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the batch once; its result stands for every environment."""
        return [getattr(self, method_name)(*method_args, **method_kwargs)] * len(self._indices(indices))

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Never: there are no single environments to wrap."""
        return [False] * len(self._indices(indices))

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """One picture per environment, drawn by MiniGrid."""
        from sb3_forecast_envs.gridworld import render_state

        margin, stride = self.pool.family.margin, self.pool.family.stride
        return [
            render_state(self.pool.family, self.pool[int(t)], (int(p) % stride - margin, int(p) // stride - margin), int(d))
            for t, p, d in zip(self.tasks, self.pos, self.direction, strict=True)
        ]
