"""Numba kernels shared by the batched environment and the finite model: one definition of every rule of the grid.

Layouts are padded with walls on all sides (``pad_layouts``) and flattened, so that a view never leaves the array;
``stride`` is the padded width. Directions are MiniGrid's: 0 right, 1 down, 2 left, 3 up. Actions: 0 left, 1 right, 2 forward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from sb3_forecast_envs.cells import CONTINUES

F = TypeVar("F", bound=Callable[..., Any])
U8 = NDArray[np.uint8]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def jit(function: F) -> F:
    """``numba.njit`` with an on-disk cache, without losing the function's type.

    :param function: the function to compile on first call
    :return: the compiled function
    """
    return cast(F, numba.njit(cache=True, nogil=True)(function))


def pad_layouts(layouts: U8, margin: int, wall: int) -> U8:
    """Surround layouts with walls and flatten them.

    :param layouts: cell codes, shape (n, size, size), uint8, indexed [task, y, x]
    :param margin: width of the added border, in cells
    :param wall: code of the wall
    :return: shape (n, (size + 2 margin)^2), uint8
    """
    padded = np.pad(layouts, ((0, 0), (margin, margin), (margin, margin)), constant_values=wall)
    return np.ascontiguousarray(padded.reshape(len(layouts), -1))


def view_offsets(view_size: int, stride: int) -> I64:
    """Flat offsets from the agent's cell to each cell of its egocentric view, per direction.

    :param view_size: side of the view, odd
    :param stride: padded width of a layout
    :return: shape (4, view_size^2), in the order of MiniGrid's image [i, j]: i to the agent's right, j towards the agent
    """
    steps = [(1, 0), (0, 1), (-1, 0), (0, -1)]
    i, j = np.meshgrid(np.arange(view_size), np.arange(view_size), indexing="ij")
    right, ahead = i - view_size // 2, view_size - 1 - j
    offsets = [(ahead * dx - right * dy) + (ahead * dy + right * dx) * stride for dx, dy in steps]
    return np.stack([o.reshape(-1) for o in offsets]).astype(np.int64)


#: lookup of :func:`write_view` that leaves codes as they are: the compact view
IDENTITY: U8 = np.arange(256, dtype=np.uint8)[:, None]


@jit
def advance(grid: U8, stride: int, pos: int, direction: int, action: int, walkable: U8, outcome: U8) -> tuple[int, int, int]:
    """One step of the grid's rules: (position, direction, outcome of the entered cell)."""
    if action == 0:
        return pos, (direction + 3) % 4, CONTINUES
    if action == 1:
        return pos, (direction + 1) % 4, CONTINUES
    delta = 1
    if direction == 1:
        delta = stride
    elif direction == 2:
        delta = -1
    elif direction == 3:
        delta = -stride
    code = grid[pos + delta]
    if walkable[code] == 0:
        return pos, direction, CONTINUES
    return pos + delta, direction, int(outcome[code])


@jit
def write_view(out: Any, grid: U8, pos: int, offsets: I64, lookup: Any) -> None:
    """Write one observation: ``lookup[code]`` for each cell of the view, the agent's own cell always empty (code 0)."""
    width = lookup.shape[1]
    side = int(np.sqrt(offsets.shape[0]))
    own = (side // 2) * side + side - 1
    for cell in range(offsets.shape[0]):
        code = 0 if cell == own else grid[pos + offsets[cell]]
        for channel in range(width):
            out[cell * width + channel] = lookup[code, channel]


@jit
def expand_views(out: Any, views: U8, lookup: Any) -> None:
    """Observations of compact views: ``lookup[code]`` cell by cell."""
    width = lookup.shape[1]
    for b in range(views.shape[0]):
        for cell in range(views.shape[1]):
            for channel in range(width):
                out[b, cell * width + channel] = lookup[views[b, cell], channel]


@jit
def write_views(out: Any, grids: U8, rows: I64, pos: I64, direction: I64, offsets: I64, lookup: Any) -> None:
    """``write_view`` for a batch; ``rows[b]`` is the row of ``grids`` that state b lives in."""
    for b in range(pos.shape[0]):
        write_view(out[b], grids[rows[b]], pos[b], offsets[direction[b]], lookup)


@jit
def failing_actions(out: F64, grids: U8, rows: I64, pos: I64, direction: I64, stride: int, walkable: U8, outcome: U8) -> None:
    """Write 1.0 where an action would enter a failing cell now, else 0.0; ``out`` has shape (batch, actions)."""
    for b in range(pos.shape[0]):
        for action in range(out.shape[1]):
            event = advance(grids[rows[b]], stride, pos[b], direction[b], action, walkable, outcome)[2]
            out[b, action] = 1.0 if event == 2 else 0.0


@jit
def advance_batch(grids: U8, rows: I64, pos: I64, direction: I64, actions: I64, stride: int, walkable: U8, outcome: U8) -> U8:
    """Advance a batch in place; returns each entered cell's outcome."""
    events = np.zeros(pos.shape[0], dtype=np.uint8)
    for b in range(pos.shape[0]):
        pos[b], direction[b], events[b] = advance(grids[rows[b]], stride, pos[b], direction[b], actions[b], walkable, outcome)
    return events


@jit
def reachable(grid: U8, stride: int, start: int, walkable: U8, outcome: U8) -> bool:
    """Whether a path over cells that neither block nor fail leads from ``start`` to a succeeding cell."""
    seen = np.zeros(grid.shape[0], dtype=np.uint8)
    queue = np.empty(grid.shape[0], dtype=np.int64)
    queue[0] = start
    seen[start] = 1
    head, tail = 0, 1
    while head < tail:
        pos = queue[head]
        head += 1
        for delta in (1, stride, -1, -stride):
            nxt = pos + delta
            code = grid[nxt]
            if seen[nxt] or walkable[code] == 0 or outcome[code] == 2:
                continue
            if outcome[code] == 1:
                return True
            seen[nxt] = 1
            queue[tail] = nxt
            tail += 1
    return False


@jit
def explore(
    grids: U8, starts: I64, stride: int, n_actions: int, walkable: U8, outcome: U8, offsets: I64
) -> tuple[I64, I32, U8]:
    """Breadth-first enumeration of every state (cell, direction) that each task can reach.

    :return: (first state of each task, length n + 1; successors (states, actions), numbered within the task, or
        -1 success and -2 failure; views (states, cells of the view))
    """
    n_tasks, area = grids.shape
    capacity = 0
    for task in range(n_tasks):
        for cell in range(area):
            code = grids[task, cell]
            if walkable[code] == 1 and outcome[code] == 0:
                capacity += 4
    first = np.zeros(n_tasks + 1, dtype=np.int64)
    successors = np.empty((capacity, n_actions), dtype=np.int32)
    views = np.empty((capacity, offsets.shape[1]), dtype=np.uint8)
    number = np.empty(area * 4, dtype=np.int32)
    queue = np.empty(area * 4, dtype=np.int64)
    for task in range(n_tasks):
        base = first[task]
        grid = grids[task]
        number[:] = -1
        queue[0] = starts[task]
        number[starts[task]] = 0
        head, tail = 0, 1
        while head < tail:
            pos, direction = queue[head] // 4, queue[head] % 4
            write_view(views[base + head], grid, pos, offsets[direction], IDENTITY)
            for action in range(n_actions):
                new_pos, new_direction, event = advance(grid, stride, pos, direction, action, walkable, outcome)
                if event != 0:
                    successors[base + head, action] = -event
                    continue
                state = new_pos * 4 + new_direction
                if number[state] < 0:
                    number[state] = tail
                    queue[tail] = state
                    tail += 1
                successors[base + head, action] = number[state]
            head += 1
        first[task + 1] = base + tail
    total = first[n_tasks]
    return first, successors[:total].copy(), views[:total].copy()
