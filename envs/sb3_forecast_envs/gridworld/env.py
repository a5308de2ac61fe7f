"""The tasks as a MiniGrid environment: to look at them, to render them, and to use them with any Gymnasium tool."""

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
    """The mission: MissionSpace needs a plain function, and passes the text as its only placeholder."""
    return text


def build_grid(family: TaskFamily, layout: NDArray[np.uint8]) -> Grid:
    """Build MiniGrid's grid for a layout.

    :param family: the family, for the meaning of the codes
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
    """Draw a task as MiniGrid draws it, with the agent at any position.

    :param family: the task's family
    :param task: the task
    :param position: the agent's (x, y)
    :param direction: the agent's direction: 0 right, 1 down, 2 left, 3 up
    :param tile_size: pixels per cell
    :return: RGB image, shape (height, width, 3), uint8
    """
    image: NDArray[np.uint8] = build_grid(family, task.layout).render(tile_size, position, direction)
    frame_hazards(image, family.outcomes[task.layout] == FAILS, tile_size)
    return image


def frame_hazards(image: NDArray[np.uint8], failing: NDArray[np.bool_], tile_size: int) -> None:
    """Draw a red frame, in place, around every cell that makes the agent fail.

    :param image: RGB picture of the whole layout, shape (height, width, 3), uint8
    :param failing: which cells, shape (size, size), bool, indexed [y, x]
    :param tile_size: pixels per cell
    """
    width = max(1, tile_size // 12)
    for y, x in np.argwhere(failing) * tile_size:
        tile = image[y : y + tile_size, x : x + tile_size]
        inside = tile[width:-width, width:-width].copy()
        tile[:] = (220, 20, 60)
        tile[width:-width, width:-width] = inside


class GridWorldEnv(MiniGridEnv):  # type: ignore[misc]  # minigrid ships no types
    """The tasks of a family as a MiniGrid environment.

    ``reset(options={"task": i})`` starts task i of the pool. Other resets draw a task with the environment's own generator. The ``info`` of
    every step has ``task`` and ``cost`` (1.0 on the failing step, else 0.0). The ``info`` of the last step also has ``is_success``.

    :param family: ``"ThinIce-8x8"`` or a family object
    :param pool: the tasks; ``None`` for a default pool of 4000 tasks with seed 0
    :param observation: ``None`` for the family's own observation, the same as in :class:`GridVecEnv`; ``"minigrid"`` for MiniGrid's
        dictionary of image, direction and mission
    :param render_mode: ``"human"``, ``"rgb_array"`` or ``None``
    :raises ValueError: if the observation is neither ``"minigrid"`` nor the family's own, or the pool does not hold tasks of the family
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
            raise ValueError(
                f"pool must be a TaskPool, got {pool!r}; use sb3_forecast_envs.TaskPool({wanted.id!r}, n_tasks, seed)"
            )
        if pool is not None and pool.family.id != wanted.id:
            raise ValueError(
                f"pool must hold tasks of {wanted.id}, got tasks of {pool.family.id}; use one family for pool and environment"
            )
        self.pool = TaskPool(wanted, DEFAULT_TASKS, DEFAULT_SEED) if pool is None else pool
        self.family = self.pool.family
        if observation not in (None, "minigrid", self.family.observation):
            raise ValueError(
                f"observation must be 'minigrid' or the family's own {self.family.observation!r}, got {observation!r}; leave it out, or use "
                f"a family with another one, {type(wanted).__name__}(observation='onehot' or 'image')"
            )
        self.raw = observation == "minigrid"
        self.task = 0
        self.sampler = TaskSampler(len(self.pool))
        self._requested: dict[str, Any] = {}
        self._stream = np.uint64(0)
        self._codes = {cell.encoding: code for code, cell in enumerate(self.family.cells)}
        self._codes[0, 0, 0] = len(self.family.cells)  # MiniGrid's encoding of an unseen cell
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
        :param options: ``{"task": i}`` to start task i of the pool
        :return: observation, and an ``info`` with ``task``
        :raises ValueError: if the task is not in the pool
        """
        self._requested = options or {}
        observation, info = super().reset(seed=seed)
        return self._observe(observation), {**info, "task": self.task}

    def _reward(self) -> float:
        return self.family.goal_reward(self.step_count)

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step.

        :param action: index into ``family.actions``
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
            # the wind moves the agent sideways, but does not turn it
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

    def get_state(self) -> tuple[int, int, int, int, int]:
        """The state of the running episode, for :meth:`set_state`: position, direction, steps taken, key of its gusts."""
        return int(self.agent_pos[0]), int(self.agent_pos[1]), int(self.agent_dir), int(self.step_count), int(self._stream)

    def set_state(self, state: tuple[int, int, int, int, int]) -> None:
        """Go on from a state, in an episode of the same task.

        :param state: as returned by :meth:`get_state`
        """
        x, y, self.agent_dir, self.step_count, stream = state
        self.agent_pos, self._stream = (x, y), np.uint64(stream)

    def set_noise(self, seed: int) -> None:
        """Give the running episode other gusts from now on.

        :param seed: seed of the gusts
        """
        self._stream = draw_stream(np.random.default_rng(seed))

    def get_full_render(self, highlight: bool, tile_size: int) -> NDArray[np.uint8]:
        """MiniGrid's picture, with failing cells framed in red.

        :param highlight: whether to lighten the cells that the agent sees
        :param tile_size: pixels per cell
        :return: RGB image, shape (height, width, 3), uint8
        """
        image: NDArray[np.uint8] = super().get_full_render(highlight, tile_size)
        square = np.indices((self.family.size, self.family.size)).reshape(2, -1).T
        failing = np.array([self._cell_at((int(x), int(y))).outcome == FAILS for y, x in square])
        frame_hazards(image, failing.reshape(self.family.size, self.family.size), tile_size)
        return image

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions change something, shape (actions,), bool; sb3-contrib's MaskablePPO calls this."""
        image = self.gen_obs()["image"]
        codes = [self._codes[kind, color, state] for kind, color, state in image.reshape(-1, 3).tolist()]
        masks: NDArray[np.bool_] = self.family.action_masks(np.array([codes], dtype=np.uint8))[0]
        return masks

    def set_next_task(self, task: int | None) -> None:
        """Choose the task of the next reset.

        :param task: index into the pool; ``None`` to draw it
        :raises ValueError: if the task is not in the pool
        """
        self.sampler.set_next(task)

    def set_task_weights(self, weights: NDArray[np.float64] | None, share: float = 1.0) -> None:
        """Start a share of the episodes on tasks that are drawn in proportion to weights; see :meth:`TaskSampler.set_weights`."""
        self.sampler.set_weights(weights, share)
