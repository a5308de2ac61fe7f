"""Descriptors of gridworld tasks: which kinds of cell there are, and which lie beside which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.descriptors import Descriptors


def describe_layouts(layouts: NDArray[np.uint8], starts: NDArray[np.int64], kinds: Sequence[str]) -> Descriptors:
    """For each kind of cell how many there are and how far the nearest is from the start; for each pair of kinds how often they lie side
    by side, and how often two squares apart in a row or column.

    Nothing of this knows what a family is about.

    :param layouts: cell codes, shape (tasks, size, size), uint8, indexed [y, x]
    :param starts: (x, y, direction) of the agent, shape (tasks, 3), int64
    :param kinds: name of each code
    :return: one row per task; the distance to a kind that is not there is twice the size of the grid
    """
    n, size, _ = layouts.shape
    here = [layouts == code for code in range(len(kinds))]
    rows, columns = np.mgrid[:size, :size]
    distance = np.abs(rows - starts[:, 1, None, None]) + np.abs(columns - starts[:, 0, None, None])
    found: dict[str, NDArray[np.int64]] = {}
    for kind, cells in zip(kinds, here, strict=True):
        found[f"{kind} cells"] = cells.sum(axis=(1, 2))
        found[f"distance to {kind}"] = np.where(cells, distance, 2 * size).min(axis=(1, 2))
    for apart, word in ((1, "beside"), (2, "two squares from")):
        for a, first in enumerate(kinds):
            for b in range(a, len(kinds)):
                pairs = _pairs(here[a], here[b], apart)
                found[f"{first} {word} {kinds[b]}"] = pairs if a == b else pairs + _pairs(here[b], here[a], apart)
    return Descriptors(np.stack(list(found.values()), axis=1).astype(np.float32).reshape(n, -1), tuple(found))


def _pairs(first: NDArray[np.bool_], second: NDArray[np.bool_], apart: int) -> NDArray[np.int64]:
    """How often ``second`` lies ``apart`` squares to the right of or below ``first``, shape (tasks,)."""
    right = (first[:, :, :-apart] & second[:, :, apart:]).sum(axis=(1, 2))
    below = (first[:, :-apart] & second[:, apart:]).sum(axis=(1, 2))
    return np.asarray(right + below, dtype=np.int64)
