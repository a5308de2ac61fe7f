"""The tasks as an SB3 ``VecEnv``: one compiled loop steps all environments. It plays the same tasks as the MiniGrid environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.jit import jit
from sb3_forecast_envs.batched import BatchedVecEnv
from sb3_forecast_envs.gridworld.compiled import (
    F64,
    FORWARD,
    I64,
    U8,
    advance,
    expand,
    look,
    look_batch,
    step_uniform,
    turn_of,
)
from sb3_forecast_envs.gridworld.env import render_state
from sb3_forecast_envs.gridworld.pool import TaskPool
from sb3_forecast_envs.gridworld.rules import Rules
from sb3_forecast_envs.sampling import draw_stream


@jit
def _step(
    grids: U8, rows: I64, rules: Rules, channels: Any, onehot: bool, rewards_at_goal: F64, actions: I64,
    pos: I64, direction: I64, load: I64, streams: Any, steps: I64, observations: Any, rewards: Any, events: U8,
) -> None:  # fmt: skip
    """Take one step in every environment; ``events``: 0 still running, 1 goal, 2 failure, 3 truncated only."""
    stride, moves, kinds, toggled, slips = rules.stride, rules.moves, rules.kinds, rules.toggled, rules.slip
    offsets, occluded = rules.offsets, rules.occluded
    view = np.empty((1, offsets.shape[1]), dtype=np.uint8)
    horizon = rewards_at_goal.shape[0] - 1
    for env in range(pos.shape[0]):
        row = rows[env]
        move = moves[actions[env]]
        turn = 0
        slip = slips[grids[row, pos[env]]]
        if slip > 0.0 and move == FORWARD:
            turn = turn_of(step_uniform(streams[env], steps[env]), slip)
        pos[env], direction[env], load[env], event = advance(
            grids, row, pos[env], direction[env], load[env], move, turn, stride, kinds, toggled
        )
        steps[env] += 1
        rewards[env] = rewards_at_goal[steps[env]] if event == 1 else 0.0
        events[env] = 3 if event == 0 and steps[env] >= horizon else event
        look(view, 0, grids, row, pos[env], direction[env], load[env], offsets, kinds, occluded)
        expand(observations, env, view, 0, channels, onehot)


@jit
def _observe(
    observations: Any,
    envs: I64,
    grids: U8,
    rows: I64,
    rules: Rules,
    channels: Any,
    onehot: bool,
    pos: I64,
    direction: I64,
    load: I64,
) -> None:
    """Write the observations of some environments, one row each."""
    offsets, kinds, occluded = rules.offsets, rules.kinds, rules.occluded
    view = np.empty((1, offsets.shape[1]), dtype=np.uint8)
    for b, env in enumerate(envs):
        look(view, 0, grids, rows[env], pos[env], direction[env], load[env], offsets, kinds, occluded)
        expand(observations, b, view, 0, channels, onehot)


class GridVecEnv(BatchedVecEnv[TaskPool]):
    """A batch of gridworlds on a pool of tasks. Every step gives the same result as in the registered MiniGrid environment.

    The batch also plays the same tasks as ``n_envs`` MiniGrid environments with the same seeds.

    :param pool: the tasks
    :param n_envs: number of environments stepped together
    :param seed: seed of the first environment; environment i (from 0) has the seed ``seed + i``
    :param render_mode: ``"rgb_array"`` or ``None``
    :raises ValueError: if ``n_envs < 1``
    """

    episode_state: ClassVar[tuple[str, ...]] = ("pos", "direction", "load", "_streams")

    def __init__(self, pool: TaskPool, n_envs: int, seed: int = 0, render_mode: str | None = None) -> None:
        family = pool.family
        super().__init__(pool, n_envs, family.observation_space, family.n_actions, seed, render_mode)
        self._grids = pool.padded_layouts()
        self._start_pos = pool.start_positions()
        self._onehot = family.observation == "onehot"
        self._goal_rewards = np.array([family.goal_reward(t) for t in range(family.horizon + 1)])
        self.pos = np.zeros(n_envs, dtype=np.int64)
        self.direction = np.zeros(n_envs, dtype=np.int64)
        self.load = np.zeros(n_envs, dtype=np.int64)
        self._streams = np.zeros(n_envs, dtype=np.uint64)
        # if layouts can change, each environment plays on a copy; else all play on the pool's layouts
        self._played = self._grids[np.zeros(n_envs, dtype=np.int64)] if family.changeable else self._grids
        self._rows = np.arange(n_envs) if family.changeable else self.tasks

    def _start(self, envs: NDArray[np.int64]) -> None:
        family = self.pool.family
        tasks = self.tasks[envs]
        self.pos[envs] = self._start_pos[tasks]
        self.direction[envs] = self.pool.starts[tasks, 2]
        self.load[envs] = 0
        if family.changeable:
            self._played[envs] = self._grids[tasks]
        if family.slippery:
            for env in envs.tolist():
                self._streams[env] = draw_stream(self._generators[env])

    def _observe(self, envs: NDArray[np.int64]) -> NDArray[Any]:
        family = self.pool.family
        out = np.empty((len(envs), family.view_size**2 * family.channels.shape[1]), dtype=family.channels.dtype)
        _observe(
            out, envs, self._played, self._rows, family.rules, family.channels, self._onehot, self.pos, self.direction, self.load
        )  # fmt: skip
        return out.reshape(len(envs), *family.observation_space.shape)

    def _advance(self, actions: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.uint8]]:
        family = self.pool.family
        n = self.num_envs
        flat = np.empty((n, family.view_size**2 * family.channels.shape[1]), dtype=family.channels.dtype)
        rewards = np.empty(n, dtype=np.float32)
        events = np.empty(n, dtype=np.uint8)
        _step(
            self._played, self._rows, family.rules, family.channels, self._onehot, self._goal_rewards, actions,
            self.pos, self.direction, self.load, self._streams, self.steps, flat, rewards, events,
        )  # fmt: skip
        return flat.reshape(n, *family.observation_space.shape), rewards, events

    def get_state(self) -> dict[str, Any]:
        """The full state of the running episodes, for :meth:`set_state`."""
        # layouts that cannot change are in the pool, so they need not be saved
        return {**super().get_state(), "_played": self._played.copy() if self.pool.family.changeable else None}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue the episodes of a saved state.

        :param state: as returned by :meth:`get_state`
        :raises ValueError: if it belongs to another pool or another number of environments
        """
        super().set_state({name: value for name, value in state.items() if name != "_played"})
        if self.pool.family.changeable:
            self._played = state["_played"].copy()
        else:
            self._rows = self.tasks

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions change something, shape (environments, actions), bool; ``env_method("action_masks")`` gives a list of rows."""
        family = self.pool.family
        views = np.empty((self.num_envs, family.view_size**2), dtype=np.uint8)
        look_batch(views, self._played, self._rows, self.pos, self.direction, self.load, family.rules)
        masks: NDArray[np.bool_] = family.action_masks(views)
        return masks

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """One RGB picture per environment, drawn by MiniGrid."""
        family = self.pool.family
        margin, stride = family.margin, family.stride
        inside = slice(margin, margin + family.size)
        images = []
        for env, row in enumerate(self._rows):
            layout = self._played[row].reshape(stride, stride)[inside, inside]
            y, x = divmod(int(self.pos[env]), stride)
            task = replace(self.pool[int(self.tasks[env])], layout=layout)
            images.append(render_state(family, task, (x - margin, y - margin), int(self.direction[env])))
        return images
