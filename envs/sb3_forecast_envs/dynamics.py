"""A pool of gridworld tasks as a finite model (exact scores) and as a batched simulation (survival scores).

The protocols that these classes fulfil are defined in ``sb3_forecast.scorers.protocols``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sb3_forecast_envs.cells import WALL
from sb3_forecast_envs.compiled import IDENTITY, advance_batch, explore, failing_actions, pad_layouts, write_views

if TYPE_CHECKING:
    from sb3_forecast_envs.tasks import TaskPool


class GridModel:
    """The tasks of a pool as finite, deterministic Markov decision processes over (cell, direction).

    :param pool: the tasks
    """

    def __init__(self, pool: TaskPool) -> None:
        self.pool = pool
        self.horizon = pool.family.horizon
        self.n_actions = pool.family.n_actions

    def __len__(self) -> int:
        return len(self.pool)

    def tables(self, tasks: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.uint8]]:
        """Reachable states of some tasks; state 0 of each task is its start.

        :param tasks: indices into the pool
        :return: first state of each task and the total, (tasks + 1,), int64; successors (states, actions), int32,
            numbered within the task, -1 success, -2 failure; compact views (states, cells), uint8
        """
        family = self.pool.family
        starts = self.pool.start_positions(tasks) * 4 + self.pool.starts[tasks, 2]
        return explore(
            self.pool.padded_layouts(tasks),
            starts,
            family.stride,
            family.n_actions,
            family.walkable,
            family.outcomes,
            family.offsets,
        )

    def observations(self, views: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the policy sees for compact views; shape (views, view_size^2 * codes), float32.

        :param views: shape (views, cells), as returned by :meth:`tables`
        """
        return self.pool.family.observations(views)


class GridSimulation:
    """Episodes of many tasks side by side, all still running; finished ones are removed by the caller.

    :param pool: the tasks
    :param tasks: index into the pool of each episode's task
    """

    def __init__(self, pool: TaskPool, tasks: NDArray[np.int64]) -> None:
        family = pool.family
        self.family = family
        self.horizon = family.horizon
        unique, self.rows = np.unique(tasks, return_inverse=True)
        self.grids = pad_layouts(pool.layouts[unique], family.margin, family.cells.index(WALL))
        self.pos = pool.start_positions(tasks)
        self.direction = pool.starts[tasks, 2].copy()

    def views(self) -> NDArray[np.uint8]:
        """Compact views of the running episodes, shape (episodes, cells), uint8."""
        out = np.empty((len(self.pos), self.family.offsets.shape[1]), dtype=np.uint8)
        write_views(out, self.grids, self.rows, self.pos, self.direction, self.family.offsets, IDENTITY)
        return out

    def observations(self, views: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the policy sees for compact views; see :meth:`GridModel.observations`."""
        return self.family.observations(views)

    def failure_of_actions(self) -> NDArray[np.float64]:
        """Probability that each action would fail now, shape (episodes, actions), float64."""
        out = np.empty((len(self.pos), self.family.n_actions))
        f = self.family
        failing_actions(out, self.grids, self.rows, self.pos, self.direction, f.stride, f.walkable, f.outcomes)
        return out

    def step(self, actions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Take one action in each running episode and drop those that ended.

        :param actions: shape (episodes,), int64; -1 leaves the episode
        :return: which of the episodes go on, boolean, in the order before the call
        """
        f = self.family
        taken = np.maximum(actions, 0)
        events = advance_batch(self.grids, self.rows, self.pos, self.direction, taken, f.stride, f.walkable, f.outcomes)
        running: NDArray[np.bool_] = (events == 0) & (actions >= 0)
        self.rows, self.pos, self.direction = self.rows[running], self.pos[running], self.direction[running]
        return running
