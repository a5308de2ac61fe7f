"""Drawing the next task. Single and batched environments use the same rule: one uniform number per episode."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sb3_forecast.checks import task_indices


class TaskSampler:
    """Draws tasks uniformly, or a share of them in proportion to weights.

    :param n_tasks: number of tasks in the pool
    """

    def __init__(self, n_tasks: int) -> None:
        self.n_tasks = n_tasks
        self._cumulative: NDArray[np.float64] | None = None
        self._next: int | None = None

    def set_next(self, task: int | None) -> None:
        """Choose the task of the next :meth:`start` without options.

        :param task: index into the pool; ``None`` to draw it
        :raises ValueError: if the task is not in the pool
        """
        if task is not None and not 0 <= task < self.n_tasks:
            raise ValueError(f"task must be in [0, {self.n_tasks - 1}], got {task}; use the index of a task of this pool")
        self._next = task

    def set_weights(self, weights: NDArray[np.float64] | None, share: float = 1.0) -> None:
        """Draw a share of the tasks in proportion to weights, and the rest uniformly.

        :param weights: one non-negative weight per task, shape (n_tasks,); ``None`` or all zeros for uniform draws
        :param share: share of the weighted draws, in [0, 1]
        :raises ValueError: if an argument is out of range
        """
        if weights is None:
            self._cumulative = None
            return
        w = np.asarray(weights, dtype=np.float64)
        if w.shape != (self.n_tasks,) or not np.isfinite(w).all() or (w < 0).any():
            raise ValueError(
                f"weights must be {self.n_tasks} finite numbers of at least 0, got an array of shape {w.shape}; use one weight per task, "
                "without nan, inf and negative numbers"
            )
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"share must be in [0, 1], got {share}; use the share of the weighted draws")
        total = w.sum()
        self._cumulative = None if total == 0.0 else np.cumsum((1.0 - share) / self.n_tasks + share * w / total)

    def start(self, generator: np.random.Generator, options: dict[str, Any]) -> int:
        """Choose the next task.

        :param generator: generator of the one uniform number that a draw uses
        :param options: reset options; ``{"task": i}`` chooses task i and draws nothing
        :return: index into the pool
        :raises ValueError: if the task is not in the pool, or the options have another key
        """
        unknown = sorted(set(options) - {"task"})
        if unknown:
            raise ValueError(f"options must have no key except 'task', got {unknown}; use {{'task': index}}")
        if "task" in options:
            if not isinstance(options["task"], (int, np.integer)):
                raise ValueError(
                    f"options['task'] must be a whole number, got {options['task']!r}; use an index in [0, {self.n_tasks - 1}]"
                )
            task = int(options["task"])
            if not 0 <= task < self.n_tasks:
                raise ValueError(
                    f"options['task'] must be in [0, {self.n_tasks - 1}], got {task}; use the index of a task of this pool"
                )
            return task
        # drawn even if it is not used, so that the generator is in the same state afterwards
        drawn = int(self.pick(np.array([generator.random()]))[0])
        given, self._next = self._next, None
        return drawn if given is None else given

    def pick(self, uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
        """Turn uniform numbers into tasks.

        :param uniforms: numbers in [0, 1), shape (episodes,)
        :return: indices into the pool, shape (episodes,), int64
        """
        if self._cumulative is None:
            return (uniforms * self.n_tasks).astype(np.int64)
        found: NDArray[np.int64] = np.searchsorted(self._cumulative, uniforms * self._cumulative[-1], side="right")
        return np.asarray(np.minimum(found, self.n_tasks - 1))


def draw_stream(generator: np.random.Generator) -> np.uint64:
    """Draw the key for the random numbers of one episode, see ``gridworld.compiled.step_uniform``.

    :param generator: the environment's generator
    :return: 64 random bits
    """
    return np.uint64(generator.integers(2**64, dtype=np.uint64))


def select(n_tasks: int, indices: ArrayLike) -> NDArray[np.int64]:
    """Turn indices or a mask into positions in a pool.

    :param n_tasks: size of the pool
    :param indices: positions, or a boolean mask of shape (n_tasks,)
    :return: the selected positions, int64
    :raises ValueError: if no task is selected, or an index is out of range
    """
    wanted = np.asarray(indices)
    if wanted.size == 0 or (wanted.dtype == np.bool_ and not wanted.any()):
        raise ValueError("indices must select at least one task, got none; use positions in the pool, or a mask with a True")
    return task_indices(wanted, n_tasks)
