"""A pool of gridworld tasks as a finite model (exact scores) and as a batched simulation (survival scores).

These classes implement the protocols in ``sb3_forecast.scorers.protocols``.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_forecast_envs.gridworld.cells import WALL
from sb3_forecast_envs.gridworld.compiled import look_batch, pad_layouts, step_surviving
from sb3_forecast_envs.gridworld.exploration import check_size, explore, most_variants
from sb3_forecast_envs.gridworld.pool import TaskPool


class GridModel:
    """The tasks of a pool as finite Markov decision processes. A state is (cell, direction, carried object, changed cells).

    :param pool: the tasks
    :raises ValueError: if a task could have more than ``MAX_STATES`` states
    """

    def __init__(self, pool: TaskPool) -> None:
        self.pool = pool
        self.horizon = pool.family.horizon
        self.timeout_fails = False
        self.n_actions = pool.family.n_actions
        if pool.family.changeable:
            variants = most_variants(pool.padded_layouts(), pool.family.rules)
            check_size(pool.family.id, variants * pool.family.stride**2 * 4)

    def __len__(self) -> int:
        return len(self.pool)

    def tables(
        self, tasks: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.uint8], NDArray[np.float64]]:
        """Reachable states of some tasks; see ``FiniteModel.tables``.

        :param tasks: indices into the pool
        :return: four arrays:

            - first state of each task, then the total number of states, shape (tasks + 1,), int64
            - successors, shape (states, columns), int32. States are numbered within their task; -1 is success, -2 is failure
            - compact views, shape (states, cells), uint8
            - probability of each column if its action is taken, shape (states, columns), float64; no rows if no cell is slippery
        """
        family = self.pool.family
        grids = self.pool.padded_layouts(tasks)
        starts = self.pool.start_positions(tasks) * 4 + self.pool.starts[tasks, 2]
        threads = min(os.cpu_count() or 1, len(tasks))
        cuts = np.linspace(0, len(tasks), threads + 1).astype(np.int64)
        with ThreadPoolExecutor(threads) as workers:
            parts = list(
                workers.map(
                    lambda begin, end: explore(grids[begin:end], starts[begin:end], family.rules, family.slippery),
                    cuts[:-1],
                    cuts[1:],
                )
            )
        lengths, successors, views, chances = zip(*((np.diff(part[0]), *part[1:]) for part in parts), strict=True)
        first = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        return first, np.concatenate(successors), np.concatenate(views), np.concatenate(chances)

    def observations(self, views: NDArray[np.uint8]) -> NDArray[Any]:
        """What the policy sees for compact views, shape (views, *observation).

        :param views: shape (views, cells), uint8, as returned by :meth:`tables`
        """
        return self.pool.family.observations(views)

    def action_masks(self, views: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which actions change something; see :meth:`TaskFamily.action_masks`."""
        return self.pool.family.action_masks(views)


class GridSimulation:
    """Parallel episodes, one per given task. :meth:`step` removes the episodes that ended.

    :param pool: the tasks
    :param tasks: index into the pool of each episode's task, shape (episodes,), repeats allowed
    """

    def __init__(self, pool: TaskPool, tasks: NDArray[np.int64]) -> None:
        family = pool.family
        self.family = family
        self.horizon, self.n_actions = family.horizon, family.n_actions
        if family.changeable:
            # every episode needs its own layout, because it can change it
            self.rows, held = np.arange(len(tasks)), tasks
        else:
            held, self.rows = np.unique(tasks, return_inverse=True)
        self.grids = pad_layouts(pool.layouts[held], family.margin, family.cells.index(WALL))
        self.pos = pool.start_positions(tasks)
        self.direction = pool.starts[tasks, 2].copy()
        self.load = np.zeros(len(tasks), dtype=np.int64)

    def views(self) -> NDArray[np.uint8]:
        """Compact views of the running episodes, shape (episodes, cells), uint8."""
        out = np.empty((len(self.pos), self.family.offsets.shape[1]), dtype=np.uint8)
        look_batch(out, self.grids, self.rows, self.pos, self.direction, self.load, self.family.rules)
        return out

    def observations(self, views: NDArray[np.uint8]) -> NDArray[Any]:
        """What the policy sees for compact views; see :meth:`GridModel.observations`."""
        return self.family.observations(views)

    def action_masks(self, views: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which actions change something; see :meth:`TaskFamily.action_masks`."""
        return self.family.action_masks(views)

    def step(self, pi: NDArray[np.float64], uniforms: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Take one step in each running episode, conditioned on no failure. Then drop the episodes that ended; see ``Simulation.step``.

        :param pi: action probabilities, shape (episodes, actions)
        :param uniforms: random numbers in [0, 1), shape (2, episodes). The first row chooses the action, the second row its result if that
            is random
        :return: probability that each action would have failed, shape (episodes, actions), float64; which episodes go on, shape
            (episodes,), bool
        """
        failure = np.empty(pi.shape)
        events = step_surviving(
            failure, self.grids, self.rows, self.pos, self.direction, self.load, pi, uniforms, self.family.rules
        )
        running: NDArray[np.bool_] = events == 0
        self.rows, self.pos = self.rows[running], self.pos[running]
        self.direction, self.load = self.direction[running], self.load[running]
        return failure, running
