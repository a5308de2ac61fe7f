"""Pictures of tasks: the layout as MiniGrid draws it, and the cells where an agent fails."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from sb3_forecast.files import write_whole
from sb3_forecast_envs.gridworld.cells import CONTINUES, FAILS
from sb3_forecast_envs.gridworld.compiled import FORWARD, advance, look
from sb3_forecast_envs.gridworld.env import render_state
from sb3_forecast_envs.gridworld.pool import TaskPool

ActionProbabilities = Callable[[NDArray[Any]], NDArray[np.float64]]


def failure_map(pool: TaskPool, task: int, action_probabilities: ActionProbabilities) -> NDArray[np.float64]:
    """Probability of a failure in each cell of one task, exact for the stochastic policy.

    :param pool: the tasks
    :param task: index into the pool
    :param action_probabilities: observations (batch, observation) -> probabilities (batch, actions)
    :return: shape (size, size), float64, indexed [y, x]; its sum is the task's failure probability
    """
    family = pool.family
    rules = family.rules
    # a state is (position, direction, carried object, layout)
    start = (
        int(pool.start_positions(np.array([task]))[0]),
        int(pool.starts[task, 2]),
        0,
        pool.padded_layouts(np.array([task]))[0].tobytes(),
    )
    number = {start: 0}
    states = [start]
    views = []
    moves: list[list[tuple[int, float, int | None, int]]] = []
    for pos, direction, load, layout in states:  # the list grows during the loop
        grid = np.frombuffer(layout, dtype=np.uint8)[None]
        view = np.empty((1, family.view_size**2), dtype=np.uint8)
        look(view, 0, grid.copy(), 0, pos, direction, load, rules.offsets, rules.kinds, rules.occluded)
        views.append(view[0])
        branches = []
        for action in range(family.n_actions):
            move = int(rules.moves[action])
            slip = float(rules.slip[grid[0, pos]]) if move == FORWARD else 0.0
            for turn, chance in ((0, 1.0 - slip), (3, 0.5 * slip), (1, 0.5 * slip)):
                if chance == 0.0:
                    continue
                after = grid.copy()
                new_pos, new_direction, new_load, outcome = advance(
                    after, 0, pos, direction, load, move, turn, rules.stride, rules.kinds, rules.toggled
                )
                following = None
                if outcome == CONTINUES:
                    state = (int(new_pos), int(new_direction), int(new_load), after.tobytes())
                    if state not in number:
                        number[state] = len(states)
                        states.append(state)
                    following = number[state]
                if outcome in (CONTINUES, FAILS):
                    branches.append((action, chance, following, int(new_pos)))
        moves.append(branches)
    policy = action_probabilities(family.observations(np.stack(views)))
    mass = np.zeros(len(states))
    mass[0] = 1.0
    failed = np.zeros(family.stride**2)
    for _ in range(family.horizon):
        later = np.zeros(len(states))
        for row in np.flatnonzero(mass).tolist():
            for action, chance, following, where in moves[row]:
                flow = mass[row] * policy[row, action] * chance
                if following is None:
                    failed[where] += flow
                else:
                    later[following] += flow
        mass = later
    margin, size = family.margin, family.size
    return failed.reshape(family.stride, family.stride)[margin : margin + size, margin : margin + size]


def draw_tasks(
    pool: TaskPool,
    rows: Sequence[tuple[str, Sequence[int], ActionProbabilities]],
    path: str | pathlib.Path | None = None,
    tile_size: int = 32,
) -> Figure:
    """Draw rows of tasks. In each task a frame marks the cell where the agent is most likely to fail.

    :param pool: the tasks
    :param rows: for each row: its title, the indices of its tasks, and the agent as in :func:`failure_map`
    :param path: file to which the picture is also saved; ``None`` to save nothing
    :param tile_size: pixels per cell
    :return: the figure
    """
    columns = max(len(tasks) for _, tasks, _ in rows)
    figure = Figure(figsize=(2.1 * columns, 2.75 * len(rows)), layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, (title, tasks, agent) in zip(parts, rows, strict=True):
        part.suptitle(title, fontsize=11, fontweight="bold")
        for ax, index in zip(part.subplots(1, columns, squeeze=False)[0], tasks, strict=False):
            task = pool[index]
            failed = failure_map(pool, index, agent)
            x, y, direction = task.start
            ax.imshow(render_state(pool.family, task, (x, y), direction, tile_size))
            ax.set_axis_off()
            p = failed.sum()
            ax.set_title(f"task {index}{' (rare)' if task.rare else ''}\np = {p:.2g}", fontsize=8)
            if p > 0.0:
                fy, fx = np.unravel_index(int(failed.argmax()), failed.shape)
                corner = (float(fx) * tile_size, float(fy) * tile_size)
                ax.add_patch(Rectangle(corner, tile_size, tile_size, fill=False, lw=2.5, ec="#CC79A7"))
                ax.text(
                    corner[0] + tile_size / 2,
                    corner[1] + tile_size / 2,
                    f"{failed.max() / p:.0%}",
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    bbox={"fc": "white", "ec": "none", "pad": 0.8},
                )
    if path is not None:
        kind = pathlib.Path(path).suffix.lstrip(".") or "png"
        write_whole(path, lambda file: figure.savefig(file, format=kind, dpi=140, bbox_inches="tight"))
    return figure
