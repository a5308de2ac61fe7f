"""Pools of gridworld tasks: in memory, or drawn when they are needed."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from itertools import count

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sb3_forecast.checks import real, task_indices, whole
from sb3_forecast.descriptors import Descriptors
from sb3_forecast_envs.gridworld.cells import WALL
from sb3_forecast_envs.gridworld.compiled import pad_layouts
from sb3_forecast_envs.gridworld.descriptors import describe_layouts
from sb3_forecast_envs.gridworld.family import Task, TaskFamily, make_family
from sb3_forecast_envs.pool import Pool, check_pool

#: a pool with ``exclude`` gives up after so many draws in a row that are no new task
_MAX_IN_VAIN = 10_000


class TaskPool(Pool):
    """N tasks of a family, stored as arrays.

    :param family: ``"ThinIce-8x8"`` or a family object
    :param n_tasks: number of tasks
    :param seed: seed of the pool
    :param rare_fraction: probability that a task belongs to the rare mode; ``None`` for the family's default
    :param first: index of the first task: the pool holds tasks ``first`` to ``first + n_tasks - 1`` of the seed
    :param exclude: pool whose tasks must not occur, for example the training pool. Then all tasks are also different from each other: a
        draw that is no new task is skipped, so the pool reaches further than ``first + n_tasks - 1``
    :raises ValueError: if an argument is out of range, the family is unknown, or it has too few tasks that ``exclude`` does not hold
    """

    per_task = ("indices", "layouts", "starts", "rare")

    def __init__(
        self,
        family: str | TaskFamily,
        n_tasks: int,
        seed: int,
        rare_fraction: float | None = None,
        first: int = 0,
        exclude: TaskPool | None = None,
    ) -> None:
        check_pool(n_tasks, seed)
        whole("first", first, low=0, use="0 for the first task of the seed")
        if rare_fraction is not None:
            real("rare_fraction", rare_fraction, low=0.0, high=1.0, use="the probability of a rare task")
        self.family = make_family(family, rare_fraction)
        self.seed = seed
        draws = ((first + i, self.family.draw(seed, first + i)) for i in count())
        self._fill(n_tasks, draws if exclude is None else _new(draws, exclude, n_tasks))

    def _fill(self, n_tasks: int, draws: Iterable[tuple[int, Task]]) -> None:
        """Take the first tasks of an iterator."""
        size = self.family.size
        self.indices = np.empty(n_tasks, dtype=np.int64)
        self.layouts = np.empty((n_tasks, size, size), dtype=np.uint8)
        self.starts = np.empty((n_tasks, 3), dtype=np.int64)
        self.rare = np.empty(n_tasks, dtype=np.bool_)
        for i, (index, task) in zip(range(n_tasks), draws, strict=False):
            self.indices[i], self.layouts[i], self.starts[i], self.rare[i] = index, task.layout, task.start, task.rare

    @classmethod
    def of_indices(cls, family: TaskFamily, seed: int, indices: NDArray[np.int64]) -> TaskPool:
        """Some tasks of a seed.

        :param family: the family
        :param seed: seed of the pool
        :param indices: which tasks, shape (n,), int64
        """
        pool = cls.__new__(cls)
        pool.family, pool.seed = family, seed
        pool._fill(len(indices), ((int(index), family.draw(seed, int(index))) for index in indices))
        return pool

    @property
    def key(self) -> str:
        """A text that identifies the tasks: the family, and a checksum of layouts and starts."""
        content = zlib.crc32(self.starts.tobytes(), zlib.crc32(self.layouts.tobytes()))
        return f"{self.family.id} horizon {self.family.horizon} view {self.family.view_size}: {len(self)} tasks, checksum {content:08x}"

    def task_keys(self) -> list[bytes]:
        """One key per task: the bytes of its layout and start."""
        return [_key(layout, start) for layout, start in zip(self.layouts, self.starts, strict=True)]

    def descriptors(self) -> Descriptors:
        """Numbers that say what the tasks look like; see :func:`~sb3_forecast_envs.gridworld.descriptors.describe_layouts`."""
        return describe_layouts(self.layouts, self.starts, [cell.name for cell in self.family.cells])

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < len(self):
            raise IndexError(f"task must be in [0, {len(self) - 1}], got {index}; use the index of a task of this pool")
        x, y, direction = (int(v) for v in self.starts[index])
        return Task(self.layouts[index].copy(), (x, y, direction), bool(self.rare[index]))

    def __iter__(self) -> Iterator[Task]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"TaskPool({self.family.id!r}, n_tasks={len(self)}, seed={self.seed}, rare={int(self.rare.sum())})"

    def padded_layouts(self, tasks: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
        """Layouts with walls around them, so that every view stays inside the array.

        :param tasks: indices into the pool; ``None`` for all tasks
        :return: flattened layouts, shape (tasks, stride^2), uint8
        """
        layouts = self.layouts if tasks is None else self.layouts[tasks]
        return pad_layouts(layouts, self.family.margin, self.family.cells.index(WALL))

    def start_positions(self, tasks: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Positions of the start cells in the flattened, padded layouts.

        :param tasks: indices into the pool; ``None`` for all tasks
        :return: shape (tasks,), int64
        """
        starts = self.starts if tasks is None else self.starts[tasks]
        margin, stride = self.family.margin, self.family.stride
        return (starts[:, 1] + margin) * stride + starts[:, 0] + margin


def _key(layout: NDArray[np.uint8], start: NDArray[np.int64]) -> bytes:
    return layout.tobytes() + start.tobytes()


def _new(draws: Iterable[tuple[int, Task]], exclude: TaskPool, n_tasks: int) -> Iterator[tuple[int, Task]]:
    """The draws that neither ``exclude`` nor an earlier draw holds."""
    seen = set(exclude.task_keys())
    found = in_vain = 0
    for index, task in draws:
        key = _key(task.layout.astype(np.uint8), np.array(task.start, dtype=np.int64))
        if key not in seen:
            seen.add(key)
            found, in_vain = found + 1, 0
            yield index, task
        else:
            in_vain += 1
        if in_vain == _MAX_IN_VAIN:
            raise ValueError(
                f"n_tasks must be at most about {found}, got {n_tasks}: {_MAX_IN_VAIN} draws in a row gave no task that exclude does not hold; "
                "use fewer tasks, a smaller training pool or a larger family"
            )


class TaskStream:
    """The tasks of a :class:`TaskPool`, not held in memory: blocks of tasks are drawn when they are needed.

    :param family: ``"ThinIce-8x8"`` or a family object
    :param n_tasks: number of tasks
    :param seed: seed of the pool; task i is task i of ``TaskPool(family, n_tasks, seed)``
    :param rare_fraction: probability that a task belongs to the rare mode; ``None`` for the family's default
    :raises ValueError: if an argument is out of range or the family is unknown
    """

    def __init__(self, family: str | TaskFamily, n_tasks: int, seed: int, rare_fraction: float | None = None) -> None:
        check_pool(n_tasks, seed)
        self.family = make_family(family, rare_fraction)
        self.n_tasks, self.seed = n_tasks, seed

    def __len__(self) -> int:
        return self.n_tasks

    @property
    def key(self) -> str:
        """A text that identifies the tasks: everything that the draws depend on."""
        return f"{self.family.id} {self.family.arguments()}: {self.n_tasks} tasks of seed {self.seed}"

    def block(self, begin: int, end: int) -> TaskPool:
        """Tasks ``begin`` to ``end - 1`` as a pool.

        :param begin: index of the first task
        :param end: index after the last task
        :return: the pool
        :raises ValueError: if the range is empty or not inside the stream
        """
        if not 0 <= begin < end <= self.n_tasks:
            raise ValueError(
                f"begin and end must be in [0, {self.n_tasks}] with begin < end, got {begin} and {end}; use the bounds of a block of tasks"
            )
        return TaskPool(self.family, end - begin, self.seed, first=begin)

    def subset(self, indices: ArrayLike) -> TaskPool:
        """Some of the tasks as a pool.

        :param indices: positions in this stream
        :return: the pool
        :raises ValueError: if an index is out of range
        """
        return TaskPool.of_indices(self.family, self.seed, task_indices(indices, self.n_tasks))
