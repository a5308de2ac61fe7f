"""Descriptors of all tasks of a deployment, standardised, in memory or in a file."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from itertools import chain
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.descriptors import Descriptors

BLOCK = 8192


@runtime_checkable
class Described(Protocol):
    """Tasks that say what they look like."""

    def descriptors(self) -> Descriptors:
        """One row of numbers per task."""


@runtime_checkable
class InBlocks(Protocol):
    """Tasks that are drawn block by block, as those of ``sb3_forecast_envs.TaskStream``."""

    def __len__(self) -> int: ...

    def block(self, begin: int, end: int) -> Any:
        """Tasks ``begin`` to ``end - 1`` as a pool."""


class Table:
    """Descriptors of N tasks.

    Columns that are the same for all tasks are left out. The others are divided by their standard deviation, so that a property that few
    tasks have counts much.

    :param pool: the tasks; a pool with ``descriptors()``, or a stream with ``block(begin, end)``
    :param given: descriptors to use instead; ``None`` for the pool's own
    :param folder: folder for a file with the descriptors of a stream; ``None`` to keep them in memory
    :raises TypeError: if the pool does not say what its tasks look like
    :raises ValueError: if descriptors are not finite, or the same for all tasks
    """

    def __init__(self, pool: Any, given: Descriptors | None = None, folder: pathlib.Path | None = None) -> None:
        n = len(pool)
        blocks = _blocks(pool, given)
        first = next(blocks)
        if folder is None:
            values: NDArray[np.float32] = np.empty((n, len(first.names)), dtype=np.float32)
        else:
            values = np.lib.format.open_memmap(
                folder / "descriptors.npy", mode="w+", dtype=np.float32, shape=(n, len(first.names))
            )
        filled = 0
        for block in chain([first], blocks):
            end = filled + len(block.values)
            if end > n or block.names != first.names:
                break
            values[filled:end] = block.values
            filled = end
        if filled != n:
            raise ValueError(f"descriptors must have one row per task ({n}) and the same columns in every block, got {filled} such rows; "
                             "correct the pool's descriptors()")  # fmt: skip
        mean, spread = _moments(values)
        self.kept = np.flatnonzero(spread > 1e-6 * np.maximum(np.abs(mean), 1e-30))
        if len(self.kept) == 0:
            raise ValueError(
                f"descriptors must differ between tasks, got the same numbers for all {n}; use descriptors that tell tasks apart"
            )
        #: names of the columns that differ between tasks
        self.names = tuple(first.names[i] for i in self.kept)
        self._raw, self._mean, self._spread = values, mean[self.kept], spread[self.kept]

    def __len__(self) -> int:
        return len(self._raw)

    def raw(self, tasks: Any) -> NDArray[np.float32]:
        """Descriptors as the pool gives them, shape (tasks, kept columns).

        :param tasks: indices or a slice
        """
        return np.asarray(self._raw[tasks][:, self.kept])

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Standardised descriptors, block by block."""
        for begin in range(0, len(self), BLOCK):
            part = slice(begin, min(begin + BLOCK, len(self)))
            yield part, self.standardised(part)

    def standardised(self, tasks: Any) -> NDArray[np.float32]:
        """Descriptors in units of their standard deviation, shape (tasks, kept columns), float32.

        :param tasks: indices or a slice
        """
        return ((self.raw(tasks) - self._mean) / self._spread).astype(np.float32)


def _blocks(pool: Any, given: Descriptors | None) -> Iterator[Descriptors]:
    if given is not None:
        if len(given.values) != len(pool):
            raise ValueError(
                f"descriptors must have one row per task ({len(pool)}), got {len(given.values)}; use the rows of this pool"
            )
        yield given
    elif isinstance(pool, Described):
        yield pool.descriptors()
    elif isinstance(pool, InBlocks):
        for begin in range(0, len(pool), BLOCK):
            yield pool.block(begin, min(begin + BLOCK, len(pool))).descriptors()
    else:
        raise TypeError(
            f"pool must have descriptors() or block(begin, end), got {type(pool).__name__}; pass descriptors=Descriptors.of(array) with one row "
            "per task"
        )


def _moments(values: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each column, with one block in memory."""
    total = np.zeros(values.shape[1])
    for begin in range(0, len(values), BLOCK):
        total += values[begin : begin + BLOCK].sum(axis=0, dtype=np.float64)
    mean = total / len(values)
    square = np.zeros(values.shape[1])
    for begin in range(0, len(values), BLOCK):
        square += ((values[begin : begin + BLOCK] - mean) ** 2).sum(axis=0)
    return mean, np.sqrt(square / len(values))
