"""Pools of tasks: what scorers, objectives and environments work on."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sb3_forecast_envs.cells import WALL
from sb3_forecast_envs.compiled import pad_layouts
from sb3_forecast_envs.sampling import select
from sb3_forecast_envs.tasks import Task, TaskFamily, make_family

if TYPE_CHECKING:
    from sb3_forecast_envs.dynamics import GridModel, GridSimulation
    from sb3_forecast_envs.gridworld import GridWorldEnv
    from sb3_forecast_envs.vec_env import GridVecEnv


class TaskPool:
    """N tasks of a family, stored as arrays.

    :param family: ``"ThinIce-8x8"`` or a family object
    :param n_tasks: number of tasks
    :param seed: seed of the pool; pools of different seeds share no task by construction of the generator
    :param rare_fraction: mass of the rare mode; ``None`` for the family's default
    :param first: index of the first task: the pool holds tasks ``first`` to ``first + n_tasks - 1`` of the seed
    :raises ValueError: if an argument is out of range or the family unknown
    """

    #: scorers that these tasks can serve, strongest first (``scorer="auto"`` takes the first)
    scorers: ClassVar[tuple[str, ...]] = ("exact", "survival", "episodes", "frequency")

    def __init__(
        self, family: str | TaskFamily, n_tasks: int, seed: int, rare_fraction: float | None = None, first: int = 0
    ) -> None:
        if n_tasks < 1:
            raise ValueError(f"n_tasks={n_tasks} makes an empty pool; use n_tasks >= 1")
        if seed < 0:
            raise ValueError(f"seed={seed} is negative; use seed >= 0")
        if first < 0:
            raise ValueError(f"first={first} is negative; use first >= 0")
        self.family = make_family(family, rare_fraction)
        self.seed = seed
        size = self.family.size
        self.indices = first + np.arange(n_tasks, dtype=np.int64)
        self.layouts = np.empty((n_tasks, size, size), dtype=np.uint8)
        self.starts = np.empty((n_tasks, 3), dtype=np.int64)
        self.rare = np.empty(n_tasks, dtype=np.bool_)
        for i in range(n_tasks):
            task = self.family.draw(seed, first + i)
            self.layouts[i], self.starts[i], self.rare[i] = task.layout, task.start, task.rare

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def key(self) -> str:
        """What tells these tasks from others: family, and a checksum of layouts and starts."""
        content = zlib.crc32(self.starts.tobytes(), zlib.crc32(self.layouts.tobytes()))
        return f"{self.family.id} horizon {self.family.horizon} view {self.family.view_size}: {len(self)} tasks, checksum {content:08x}"

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < len(self):
            raise IndexError(f"task {index} is not in a pool of {len(self)} tasks; use an index in [0, {len(self) - 1}]")
        x, y, direction = (int(v) for v in self.starts[index])
        return Task(self.layouts[index].copy(), (x, y, direction), bool(self.rare[index]))

    def __iter__(self) -> Iterator[Task]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"TaskPool({self.family.id!r}, n_tasks={len(self)}, seed={self.seed}, rare={int(self.rare.sum())})"

    def subset(self, indices: ArrayLike) -> TaskPool:
        """A pool of some of the tasks, in the given order.

        :param indices: positions in this pool, or a boolean mask over it
        :return: the smaller pool
        :raises ValueError: if nothing is selected or an index is out of range
        """
        chosen = select(len(self), indices)
        pool = object.__new__(TaskPool)
        pool.family, pool.seed, pool.indices = self.family, self.seed, self.indices[chosen]
        pool.layouts, pool.starts, pool.rare = self.layouts[chosen], self.starts[chosen], self.rare[chosen]
        return pool

    def padded_layouts(self, tasks: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
        """Layouts padded for views, flattened; shape (tasks, stride^2), uint8.

        :param tasks: which tasks; ``None`` for all
        """
        layouts = self.layouts if tasks is None else self.layouts[tasks]
        return pad_layouts(layouts, self.family.margin, self.family.cells.index(WALL))

    def start_positions(self, tasks: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Flat padded positions of the start cells.

        :param tasks: which tasks; ``None`` for all
        """
        starts = self.starts if tasks is None else self.starts[tasks]
        margin, stride = self.family.margin, self.family.stride
        return (starts[:, 1] + margin) * stride + starts[:, 0] + margin

    def make_env(self, render_mode: str | None = None) -> GridWorldEnv:
        """The MiniGrid environment that plays these tasks.

        :param render_mode: ``"human"``, ``"rgb_array"`` or ``None``
        """
        from sb3_forecast_envs.gridworld import GridWorldEnv

        return GridWorldEnv(self.family, self, render_mode=render_mode)

    def make_vec_env(self, n_envs: int) -> GridVecEnv:
        """Environments side by side that play these tasks.

        :param n_envs: how many
        """
        from sb3_forecast_envs.vec_env import GridVecEnv

        return GridVecEnv(self, n_envs)

    def finite_model(self) -> GridModel:
        """The tasks as finite Markov decision processes, for exact scores."""
        from sb3_forecast_envs.dynamics import GridModel

        return GridModel(self)

    def simulation(self, tasks: NDArray[np.int64]) -> GridSimulation:
        """One batched episode of each given task, with the failing actions known, for survival scores.

        :param tasks: indices into the pool, repeats allowed
        """
        from sb3_forecast_envs.dynamics import GridSimulation

        return GridSimulation(self, tasks)


class TaskStream:
    """The tasks of a :class:`TaskPool` without holding them: blocks are drawn when they are needed.

    :param family: ``"ThinIce-8x8"`` or a family object
    :param n_tasks: number of tasks
    :param seed: seed of the pool; task i is task i of ``TaskPool(family, n_tasks, seed)``
    :param rare_fraction: mass of the rare mode; ``None`` for the family's default
    :raises ValueError: if an argument is out of range or the family unknown
    """

    def __init__(self, family: str | TaskFamily, n_tasks: int, seed: int, rare_fraction: float | None = None) -> None:
        if n_tasks < 1:
            raise ValueError(f"n_tasks={n_tasks} makes an empty pool; use n_tasks >= 1")
        if seed < 0:
            raise ValueError(f"seed={seed} is negative; use seed >= 0")
        self.family = make_family(family, rare_fraction)
        self.n_tasks, self.seed = n_tasks, seed

    def __len__(self) -> int:
        return self.n_tasks

    @property
    def key(self) -> str:
        """What tells these tasks from others: everything that they are drawn from."""
        return f"{self.family.id} {self.family.arguments()}: {self.n_tasks} tasks of seed {self.seed}"

    def block(self, begin: int, end: int) -> TaskPool:
        """Tasks ``begin`` to ``end - 1`` as a pool.

        :raises ValueError: if the range is empty or not inside the stream
        """
        if not 0 <= begin < end <= self.n_tasks:
            raise ValueError(f"block {begin} to {end} is not inside a stream of {self.n_tasks} tasks")
        return TaskPool(self.family, end - begin, self.seed, first=begin)
