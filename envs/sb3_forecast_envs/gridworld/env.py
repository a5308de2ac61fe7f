"""The tasks as a MiniGrid environment: to look at, to render, and to use with any Gymnasium tool."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.minigrid_env import MiniGridEnv
from numpy.typing import NDArray

from sb3_forecast_envs.gridworld.cells import CONTINUES, FAILS, SUCCEEDS, Cell, encoding_of
from sb3_forecast_envs.gridworld.compiled import step_uniform, turn_of
from sb3_forecast_envs.gridworld.family import Task, TaskFamily, make_family
from sb3_forecast_envs.gridworld.pool import TaskPool
from sb3_forecast_envs.gridworld.rules import MOVES
from sb3_forecast_envs.pool import DEFAULT_SEED, DEFAULT_TASKS
from sb3_forecast_envs.sampling import TaskSampler, draw_stream


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
    frame_hazards(image, family.outcomes[task.layout] == FAILS, tile_size)
    return image


def frame_hazards(image: NDArray[np.uint8], failing: NDArray[np.bool_], tile_size: int) -> None:
    """Draw a red frame around every cell that fails whoever enters it, in place.

    :param image: RGB picture of the whole layout
    :param failing: which cells, shape (size, size), indexed [y, x]
    :param tile_size: pixels per cell
    """
    width = max(1, tile_size // 12)
    for y, x in np.argwhere(failing) * tile_size:
        tile = image[y : y + tile_size, x : x + tile_size]
        inside = tile[width:-width, width:-width].copy()
        tile[:] = (220, 20, 60)
        tile[width:-width, width:-width] = inside


class GridWorldEnv(MiniGridEnv):  # type: ignore[misc]  # minigrid ships no types
    """A family's tasks as a MiniGrid environment.

    ``reset(options={"task": i})`` plays task i of the pool; other resets draw a task with the environment's own
    generator. Every step's ``info`` has ``task`` and ``cost`` (1.0 on the failing step); the last also ``is_success``.

    :param family: ``"ThinIce-8x8"`` or a family object
    :param pool: the tasks; ``None`` for a default pool of 4000 tasks with seed 0
    :param observation: ``None`` for the family's own (what :class:`GridVecEnv` gives), or ``"minigrid"`` (image, direction, mission)
    :param render_mode: ``"human"``, ``"rgb_array"`` or ``None``
    :raises ValueError: if the observation is unknown or not the family's, or the pool holds no tasks of the family
    """

    def __init__(
        self,
        family: str | TaskFamily = "ThinIce-8x8",
        pool: TaskPool | None = None,
        observation: str | None = None,
        render_mode: str | None = None,
    ) -> None:
        wanted = make_family(family)
        if pool is not None and not isinstance(pool, TaskPool):
            raise ValueError(f"pool={pool!r} is no TaskPool; pass sb3_forecast_envs.TaskPool({wanted.id!r}, n_tasks, seed)")
        if pool is not None and pool.family.id != wanted.id:
            raise ValueError(
                f"pool holds tasks of {pool.family.id}, but the environment is {wanted.id}; use one family for both"
            )
        self.pool = TaskPool(wanted, DEFAULT_TASKS, DEFAULT_SEED) if pool is None else pool
        self.family = self.pool.family
        if observation not in (None, "minigrid", self.family.observation):
            raise ValueError(
                f"observation={observation!r} is neither 'minigrid' nor what the family shows; leave it out, or construct the family with "
                f"{type(wanted).__name__}(observation='onehot' or 'image')"
            )
        self.raw = observation == "minigrid"
        self.task = 0
        self.sampler = TaskSampler(len(self.pool))
        self._requested: dict[str, Any] = {}
        self._stream = np.uint64(0)
        self._codes = {cell.encoding: code for code, cell in enumerate(self.family.cells)}
        self._codes[0, 0, 0] = len(self.family.cells)  # what MiniGrid shows of an unseen cell
        super().__init__(
            mission_space=MissionSpace(mission_func=_mission, ordered_placeholders=[[self.family.mission]]),
            grid_size=self.family.size,
            max_steps=self.family.horizon,
            see_through_walls=self.family.see_through_walls,
            agent_view_size=self.family.view_size,
            render_mode=render_mode,
        )
        self.action_space = spaces.Discrete(self.family.n_actions)
        self._moves = [MOVES[name] for name in self.family.actions]
        if not self.raw:
            self.observation_space = self.family.observation_space

    def _gen_grid(self, width: int, height: int) -> None:
        self.task = self.sampler.start(self.np_random, self._requested)
        if self.family.slippery:
            self._stream = draw_stream(self.np_random)
        task = self.pool[self.task]
        self.grid = build_grid(self.family, task.layout)
        x, y, self.agent_dir = task.start
        self.agent_pos = (x, y)
        self.mission = self.family.mission

    def _observe(self, observation: dict[str, Any]) -> Any:
        if self.raw:
            return observation
        image = observation["image"]
        if self.family.observation == "image":
            return image
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

        :param action: position in ``family.actions``
        :return: observation, reward, terminated, truncated, info
        """
        before, facing = (int(self.agent_pos[0]), int(self.agent_pos[1])), self.agent_dir
        move = self._moves[int(action)]
        turn = (
            turn_of(step_uniform(self._stream, self.step_count), self._cell_at(before).slip) if move == MOVES["forward"] else 0
        )
        self.agent_dir = (facing + turn) % 4
        observation, _, _, truncated, info = super().step(move)
        if turn:
            # the wind moves the agent, but does not turn it
            self.agent_dir = facing
            observation = self.gen_obs()
        outcome = CONTINUES if tuple(self.agent_pos) == before else self._cell_at(self.agent_pos).outcome
        terminated = outcome != CONTINUES
        reward = self._reward() if outcome == SUCCEEDS else 0.0
        info = {**info, "task": self.task, "cost": float(outcome == FAILS)}
        if terminated or truncated:
            info["is_success"] = outcome == SUCCEEDS
        return self._observe(observation), float(reward), terminated, truncated and not terminated, info

    def _cell_at(self, position: tuple[int, int]) -> Cell:
        return self.family.cells[self._codes[encoding_of(self.grid.get(*position))]]

    def get_full_render(self, highlight: bool, tile_size: int) -> NDArray[np.uint8]:
        """MiniGrid's picture, with failing cells framed in red.

        :param highlight: lighten what the agent sees
        :param tile_size: pixels per cell
        :return: RGB image, uint8
        """
        image: NDArray[np.uint8] = super().get_full_render(highlight, tile_size)
        square = np.indices((self.family.size, self.family.size)).reshape(2, -1).T
        failing = np.array([self._cell_at((int(x), int(y))).outcome == FAILS for y, x in square])
        frame_hazards(image, failing.reshape(self.family.size, self.family.size), tile_size)
        return image

    def action_masks(self) -> NDArray[np.bool_]:
        """Actions that do something, shape (actions,): what sb3-contrib's MaskablePPO asks for."""
        image = self.gen_obs()["image"]
        codes = [self._codes[kind, color, state] for kind, color, state in image.reshape(-1, 3).tolist()]
        masks: NDArray[np.bool_] = self.family.action_masks(np.array([codes], dtype=np.uint8))[0]
        return masks

    def set_next_task(self, task: int | None) -> None:
        """The task of the next reset; ``None`` to draw it."""
        self.sampler.set_next(task)

    def set_task_weights(self, weights: NDArray[np.float64] | None, share: float = 1.0) -> None:
        """Start a share of the episodes on tasks drawn in proportion to weights; see :class:`TaskSampler`."""
        self.sampler.set_weights(weights, share)
