"""How an environment draws its next task: the same rule, one uniform per episode, in both environments."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


class TaskSampler:
    """Draws tasks uniformly, or a share of them in proportion to weights.

    :param n_tasks: pool size
    """

    def __init__(self, n_tasks: int) -> None:
        self.n_tasks = n_tasks
        self._cumulative: NDArray[np.float64] | None = None
        self._next: int | None = None

    def set_next(self, task: int | None) -> None:
        """Give out a task at the next :meth:`start` without options, in place of a draw.

        :param task: index into the pool; ``None`` to draw
        :raises ValueError: if the task is not in the pool
        """
        if task is not None and not 0 <= task < self.n_tasks:
            raise ValueError(f"task={task} is not in the pool; use an index in [0, {self.n_tasks - 1}]")
        self._next = task

    def set_weights(self, weights: NDArray[np.float64] | None, share: float = 1.0) -> None:
        """Draw a share of the tasks in proportion to weights, the rest uniformly.

        :param weights: non-negative, shape (n_tasks,); ``None``, or all zero, for uniform draws
        :param share: share of the weighted draws, in [0, 1]
        :raises ValueError: if an argument is out of range
        """
        if weights is None:
            self._cumulative = None
            return
        w = np.asarray(weights, dtype=np.float64)
        if w.shape != (self.n_tasks,) or not np.isfinite(w).all() or (w < 0).any():
            raise ValueError(f"weights of shape {w.shape} must be {self.n_tasks} finite, non-negative numbers, one per task")
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"share={share} is no share of the episodes; use a value in [0, 1]")
        total = w.sum()
        self._cumulative = None if total == 0.0 else np.cumsum((1.0 - share) / self.n_tasks + share * w / total)

    def start(self, generator: np.random.Generator, options: dict[str, Any]) -> int:
        """Index of the next task.

        :param generator: source of the one uniform that a draw uses
        :param options: reset options; ``{"task": i}`` asks for task i and draws nothing
        :return: index into the pool
        :raises ValueError: if the wanted task is not in the pool
        """
        unknown = sorted(set(options) - {"task"})
        if unknown:
            raise ValueError(f"options has unknown keys {unknown}; the only one is 'task'")
        if "task" in options:
            if not isinstance(options["task"], (int, np.integer)):
                raise ValueError(
                    f"options['task']={options['task']!r} is no index; use a whole number in [0, {self.n_tasks - 1}]"
                )
            task = int(options["task"])
            if not 0 <= task < self.n_tasks:
                raise ValueError(f"options['task']={task} is not in the pool; use an index in [0, {self.n_tasks - 1}]")
            return task
        # drawn also where it is not used: the generator goes on the same either way
        drawn = int(self.pick(np.array([generator.random()]))[0])
        given, self._next = self._next, None
        return drawn if given is None else given

    def pick(self, uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
        """Tasks for uniform numbers in [0, 1), one each.

        :param uniforms: shape (episodes,)
        :return: shape (episodes,), int64
        """
        if self._cumulative is None:
            return (uniforms * self.n_tasks).astype(np.int64)
        found: NDArray[np.int64] = np.searchsorted(self._cumulative, uniforms * self._cumulative[-1], side="right")
        return np.asarray(np.minimum(found, self.n_tasks - 1))


def draw_stream(generator: np.random.Generator) -> np.uint64:
    """The key of an episode's own random numbers, see ``compiled.step_uniform``.

    :param generator: the environment's generator
    :return: 64 random bits
    """
    return np.uint64(generator.integers(2**64, dtype=np.uint64))


def select(n_tasks: int, indices: ArrayLike) -> NDArray[np.int64]:
    """Positions that an index or a mask selects.

    :param n_tasks: size of the pool
    :param indices: positions, or a boolean mask
    :raises ValueError: if nothing is selected or an index is out of range
    """
    wanted = np.asarray(indices)
    if wanted.size == 0 or (wanted.dtype == np.bool_ and not wanted.any()):
        raise ValueError("indices select no task; a pool holds at least one")
    try:
        chosen: NDArray[np.int64] = np.arange(n_tasks)[wanted]
    except IndexError as error:
        raise ValueError(f"indices do not fit a pool of {n_tasks} tasks ({error}); use [0, {n_tasks - 1}]") from error
    return chosen
