"""The tasks as a MiniGrid environment: to look at, to render, and to use with any Gymnasium tool."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.minigrid_env import MiniGridEnv
from numpy.typing import NDArray

from sb3_forecast_envs.cells import CONTINUES, FAILS, SUCCEEDS
from sb3_forecast_envs.sampling import TaskSampler
from sb3_forecast_envs.tasks import Task, TaskFamily, TaskPool, make_family

#: pool of an environment that is made without one
DEFAULT_TASKS, DEFAULT_SEED = 4000, 0


def _mission(text: str) -> str:
    """MissionSpace wants a plain function; the text comes in as its only placeholder."""
    return text


def build_grid(family: TaskFamily, layout: NDArray[np.uint8]) -> Grid:
    """A layout as MiniGrid objects.

    :param family: says what the codes stand for
    :param layout: cell codes, shape (size, size), indexed [y, x]
    :return: MiniGrid's grid
    """
    grid = Grid(family.size, family.size)
    for y, x in np.ndindex(*layout.shape):
        make = family.cells[layout[y, x]].make
        if make is not None:
            grid.set(x, y, make())
    return grid


def render_state(
    family: TaskFamily, task: Task, position: tuple[int, int], direction: int, tile_size: int = 32
) -> NDArray[np.uint8]:
    """Picture of a task with the agent anywhere, as MiniGrid draws it.

    :param family: the task's family
    :param task: the task
    :param position: the agent's (x, y)
    :param direction: the agent's direction
    :param tile_size: pixels per cell
    :return: RGB image, uint8
    """
    image: NDArray[np.uint8] = build_grid(family, task.layout).render(tile_size, position, direction)
    return image


class GridWorldEnv(MiniGridEnv):  # type: ignore[misc]  # minigrid ships no types
    """A family's tasks as a MiniGrid environment.

    ``reset(options={"task": i})`` plays task i of the pool; other resets draw a task with the environment's own
    generator. Every step's ``info`` has ``task`` and ``cost`` (1.0 on the failing step); the last also ``is_success``.

    :param family: ``"ThinIce-8x8"`` or a family object
    :param pool: the tasks; ``None`` for a default pool of 4000 tasks with seed 0
    :param observation: ``"onehot"`` (flat one-hot view, what :class:`GridVecEnv` gives) or ``"minigrid"`` (image, direction, mission)
    :param render_mode: ``"human"``, ``"rgb_array"`` or ``None``
    :raises ValueError: if the observation is unknown, or the pool holds no tasks of the family
    """

    def __init__(
        self,
        family: str | TaskFamily = "ThinIce-8x8",
        pool: TaskPool | None = None,
        observation: str = "onehot",
        render_mode: str | None = None,
    ) -> None:
        if observation not in ("onehot", "minigrid"):
            raise ValueError(f"observation={observation!r} is unknown; use 'onehot' or 'minigrid'")
        wanted = make_family(family)
        if pool is not None and not isinstance(pool, TaskPool):
            raise ValueError(f"pool={pool!r} is no TaskPool; pass sb3_forecast_envs.TaskPool({wanted.id!r}, n_tasks, seed)")
        if pool is not None and pool.family.id != wanted.id:
            raise ValueError(
                f"pool holds tasks of {pool.family.id}, but the environment is {wanted.id}; use one family for both"
            )
        self.pool = TaskPool(wanted, DEFAULT_TASKS, DEFAULT_SEED) if pool is None else pool
        self.family = self.pool.family
        self.observation = observation
        self.task = 0
        self.sampler = TaskSampler(len(self.pool))
        self._requested: dict[str, Any] = {}
        self._codes = {cell.encoding: code for code, cell in enumerate(self.family.cells)}
        super().__init__(
            mission_space=MissionSpace(mission_func=_mission, ordered_placeholders=[[self.family.mission]]),
            grid_size=self.family.size,
            max_steps=self.family.horizon,
            see_through_walls=True,
            agent_view_size=self.family.view_size,
            render_mode=render_mode,
        )
        self.action_space = spaces.Discrete(self.family.n_actions)
        if observation == "onehot":
            channels = self.family.view_size**2 * len(self.family.cells)
            self.observation_space = spaces.Box(0.0, 1.0, (channels,), np.float32)

    def _gen_grid(self, width: int, height: int) -> None:
        self.task = self.sampler.start(self.np_random, self._requested)
        task = self.pool[self.task]
        self.grid = build_grid(self.family, task.layout)
        x, y, self.agent_dir = task.start
        self.agent_pos = (x, y)
        self.mission = self.family.mission

    def _observe(self, observation: dict[str, Any]) -> Any:
        if self.observation == "minigrid":
            return observation
        image = observation["image"]
        codes = [self._codes[kind, color, state] for kind, color, state in image.reshape(-1, 3).tolist()]
        return self.family.observations(np.array([codes], dtype=np.uint8))[0]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode.

        :param seed: seed of the generator that draws tasks
        :param options: ``{"task": i}`` for a given task
        :return: observation, and ``{"task": i}``
        :raises ValueError: if the task is not in the pool
        """
        self._requested = options or {}
        observation, info = super().reset(seed=seed)
        return self._observe(observation), {**info, "task": self.task}

    def _reward(self) -> float:
        return self.family.goal_reward(self.step_count)

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step.

        :param action: 0 turn left, 1 turn right, 2 forward
        :return: observation, reward, terminated, truncated, info
        """
        before = self.agent_pos
        observation, reward, _, truncated, info = super().step(action)
        x, y = self.agent_pos
        layout = self.pool.layouts[self.task]
        outcome = CONTINUES if tuple(self.agent_pos) == tuple(before) else self.family.cells[layout[y, x]].outcome
        terminated = outcome != CONTINUES
        info = {**info, "task": self.task, "cost": float(outcome == FAILS)}
        if terminated or truncated:
            info["is_success"] = outcome == SUCCEEDS
        return self._observe(observation), float(reward), terminated, truncated and not terminated, info

    def set_task_weights(self, weights: NDArray[np.float64] | None, share: float = 1.0) -> None:
        """Start a share of the episodes on tasks drawn in proportion to weights; see :class:`TaskSampler`."""
        self.sampler.set_weights(weights, share)
